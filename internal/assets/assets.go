// Package assets holds the files that the coracle binary carries: helper programs that must be processes of
// their own, and the demo image. They are built into files/ before the binary (see build); a binary built
// without them works up to the point where it needs one, and then says so.
package assets

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/coracle-dev/coracle/internal/paths"
)

//go:embed files
var files embed.FS

// The names of the helpers in paths.Layout.Bin, and of the demo image.
const (
	Shim       = "containerd-shim-runc-v2"
	Containerd = "containerd"
	Supervise  = "supervise"
	demoImage  = "demo.tar.gz"
)

// ErrMissing is returned for a file that the binary was built without.
var ErrMissing = errors.New("built without it: use make build")

// Unpack writes every helper program (files/*.gz that is no image) to l.Bin(), each atomically and only if its
// content differs, so that running helpers are not disturbed. It fails with ErrMissing where the shim or containerd is not embedded.
func Unpack(l paths.Layout) error {
	for _, name := range []string{Shim, Containerd} {
		if !Has(name) {
			return fmt.Errorf("the helper %s: %w", name, ErrMissing)
		}
	}
	if err := os.MkdirAll(l.Bin(), 0o755); err != nil {
		return err
	}
	entries, err := fs.ReadDir(files, "files")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".gz")
		if !ok || strings.HasSuffix(name, ".tar") {
			continue
		}
		if err := unpack(name, filepath.Join(l.Bin(), name)); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
	}
	return nil
}

// Has says whether a helper is embedded.
func Has(name string) bool {
	_, err := fs.Stat(files, path.Join("files", name+".gz"))
	return err == nil
}

// unpack compares before it writes: a stamp beside the file, the size and the gzip checksum of what was unpacked last,
// spares reading megabytes at every start.
func unpack(name, to string) error {
	packed, err := files.ReadFile(path.Join("files", name+".gz"))
	if err != nil {
		return err
	}
	stamp := fmt.Sprintf("%x", packed[len(packed)-8:]) // CRC-32 and size of the content, RFC 1952
	if old, err := os.ReadFile(to + ".stamp"); err == nil && string(old) == stamp {
		if st, err := os.Stat(to); err == nil && uint32(st.Size()) == sizeOf(packed) {
			return nil
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	if err := writeAtomic(to, z, 0o755); err != nil {
		return err
	}
	return writeAtomic(to+".stamp", strings.NewReader(stamp), 0o644)
}

func sizeOf(packed []byte) uint32 {
	t := packed[len(packed)-4:]
	return uint32(t[0]) | uint32(t[1])<<8 | uint32(t[2])<<16 | uint32(t[3])<<24
}

func writeAtomic(to string, r io.Reader, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
}

// Demo opens the demo image: a gzipped docker archive with coracle/demo:v1 and coracle/demo:v2.
func Demo() (io.ReadCloser, error) {
	f, err := files.Open(path.Join("files", demoImage))
	if err != nil {
		return nil, fmt.Errorf("the demo image: %w", ErrMissing)
	}
	return f, nil
}
