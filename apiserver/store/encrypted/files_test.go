package encrypted_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/encrypted"
	"github.com/coracle-dev/coracle/apiserver/store/etcd"
)

// What etcd writes to disk shows other values, and no Secret's.
func TestFilesShowNoSecrets(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	engine, err := etcd.OpenEmbedded(ctx, etcd.EmbeddedConfig{DataDir: filepath.Join(dir, "etcd"), Socket: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := encrypted.Default(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s := encrypted.New(engine, cfg)
	for key, value := range map[string]string{"secrets/default/a": "correct-horse-battery", "configmaps/default/a": "plainly-visible-value"} {
		if _, err := s.Create(ctx, store.Root+key, []byte(value), store.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	var visible bool
	err = filepath.WalkDir(filepath.Join(dir, "etcd"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		visible = visible || bytes.Contains(content, []byte("plainly-visible-value"))
		if bytes.Contains(content, []byte("correct-horse-battery")) {
			t.Error("a Secret is readable in", filepath.Base(path))
		}
		return err
	})
	if err != nil || !visible {
		t.Error("nothing was looked at", err)
	}
}
