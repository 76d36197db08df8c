package assets

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/internal/paths"
)

func TestUnpackWritesOnlyWhatChanged(t *testing.T) {
	l := paths.Layout{Data: t.TempDir()}
	if !Has(Shim) {
		if err := Unpack(l); !errors.Is(err, ErrMissing) {
			t.Errorf("without the shim: %v", err)
		}
		t.Skip("skipped: built without the shim: use make build")
	}
	if err := Unpack(l); err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(l.Bin(), Shim)
	st, err := os.Stat(shim)
	if err != nil || st.Mode().Perm() != 0o755 || st.Size() < 1<<20 {
		t.Fatalf("%v %v", st, err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(shim, old, old); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(l); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Stat(shim); !os.SameFile(st, again) {
		t.Error("an unchanged file was replaced")
	}
	if err := os.Truncate(shim, 10); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(l); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Stat(shim); again.Size() != st.Size() {
		t.Error("a damaged file was left")
	}
	entries, _ := os.ReadDir(l.Bin())
	for _, e := range entries {
		if e.Name()[0] == '.' {
			t.Errorf("left %s", e.Name())
		}
	}
}

func TestDemo(t *testing.T) {
	f, err := Demo()
	if errors.Is(err, ErrMissing) {
		t.Skip("skipped: built without the demo image: use make build")
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
