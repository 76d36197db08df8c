package images_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

// archive is an image as docker save writes it, through a compressor.
func archive(t *testing.T, ref string, i v1.Image, compress func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := io.WriteCloser(plain{&out})
	if compress != nil {
		if w, err = compress(&out); err != nil {
			t.Fatal(err)
		}
	}
	if err := tarball.Write(tag, i, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

func zipped(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }

func zstandard(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestBundles has archives in a folder before and while it is watched; a change is imported, and what is known is not read again.
func TestBundles(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	dir := filepath.Join(t.TempDir(), "images")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(file string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	first := img(t, ours, "")
	put("a.tar", archive(t, "docker.io/library/a:v1", first, nil))
	put("b.tar.gz", archive(t, "docker.io/library/b:v1", img(t, ours, ""), zipped))
	put("c.tar.zst", archive(t, "docker.io/library/c:v1", img(t, ours, ""), zstandard))
	put("broken.tar", []byte("nothing"))
	put("readme.txt", []byte("not an archive"))
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(e.Ctx)
		ended := make(chan error, 1)
		go func() { ended <- images.Bundles{Dir: dir, Store: e.Images}.Run(ctx) }()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	has := func(ref string) func() bool {
		return func() bool { got, err := e.Images.Get(e.Ctx, ref); return err == nil && got.Pinned }
	}
	stop := run()
	for _, ref := range []string{"a:v1", "b:v1", "c:v1"} {
		await(t, ref+" is imported and pinned", has(ref))
	}
	put("d.tar", archive(t, "docker.io/library/d:v1", img(t, ours, ""), nil))
	await(t, "one that came later", has("d:v1"))
	second := img(t, ours, "")
	put("a.tar", archive(t, "docker.io/library/a:v1", second, nil))
	want, _ := second.ConfigName()
	await(t, "a change", func() bool { got, err := e.Images.Get(e.Ctx, "a:v1"); return err == nil && got.ID == want.String() })
	stop()
	// While the agent is away one image is removed, and one file replaced by what does not count as a change: the same size and time.
	if err := e.Images.Remove(e.Ctx, "b:v1"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "d.tar"))
	if err != nil {
		t.Fatal(err)
	}
	put("d.tar", bytes.Repeat([]byte("x"), int(info.Size())))
	if err := os.Chtimes(filepath.Join(dir, "d.tar"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	defer run()()
	await(t, "what was removed is imported again", has("b:v1"))
	if !has("d:v1")() || !has("a:v1")() {
		t.Error("an image is gone")
	}
}
