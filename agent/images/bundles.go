package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// The labels of an image that came with a bundle: the file's name, and its size and time when it was imported.
const (
	bundleLabel        = "coracle.dev/bundle"
	bundleVersionLabel = "coracle.dev/bundle-version"
)

// bundleSettle is for how long a bundle must not have changed before it is read: it may still be being copied.
const bundleSettle = time.Second

// Bundles imports the archives that lie in a folder, for nodes without a network. Their images are pinned. An archive is read again
// only when it has changed, or when none of its images is left.
type Bundles struct {
	Dir   string
	Store *Store
}

// Run imports what there is and then what comes, until ctx ends. The folder is made where it is missing.
func (b Bundles) Run(ctx context.Context) error {
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return fmt.Errorf("folder of images: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the folder of images: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(b.Dir); err != nil {
		return fmt.Errorf("watch the folder of images: %w", err)
	}
	settled := time.NewTimer(0)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Errors: // events were lost: look at everything
			settled.Reset(bundleSettle)
		case e := <-watcher.Events:
			if isBundle(e.Name) && e.Op&(fsnotify.Create|fsnotify.Write|fsnotify.Rename) != 0 {
				settled.Reset(bundleSettle)
			}
		case <-settled.C:
			if wait := b.sync(ctx); wait > 0 {
				settled.Reset(wait)
			}
		}
	}
}

func isBundle(name string) bool {
	name = filepath.Base(name)
	if strings.HasPrefix(name, ".") {
		return false
	}
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// sync imports every archive that is new, one after another. It returns when to look again at one that is too fresh to be read.
func (b Bundles) sync(ctx context.Context) (again time.Duration) {
	entries, err := os.ReadDir(b.Dir)
	if err != nil {
		b.Store.log.Warn("folder of images not read", "error", err)
		return 0
	}
	known, err := b.Store.bundles(ctx)
	if err != nil {
		if ctx.Err() == nil {
			b.Store.log.Warn("bundles of images not looked up", "error", err)
		}
		return time.Minute
	}
	for _, e := range entries {
		if e.IsDir() || !isBundle(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(b.Dir, e.Name()))
		if err != nil {
			continue // gone meanwhile
		}
		version := bundleVersion(info)
		if known[e.Name()] == version {
			continue
		}
		if age := time.Since(info.ModTime()); age >= 0 && age < bundleSettle {
			again = bundleSettle
			continue
		}
		if err := b.load(ctx, e.Name(), version); err != nil && ctx.Err() == nil {
			b.Store.log.Error("bundle of images not imported", "file", e.Name(), "error", err)
		}
	}
	return again
}

func bundleVersion(info fs.FileInfo) string {
	return fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
}

func (b Bundles) load(ctx context.Context, name, version string) error {
	f, err := os.Open(filepath.Join(b.Dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	began := time.Now()
	names, err := b.Store.Import(ctx, f, ImportOptions{labels: map[string]string{bundleLabel: name, bundleVersionLabel: version}})
	if err == nil {
		info, serr := f.Stat()
		if serr == nil && bundleVersion(info) != version {
			err = errors.New("it changed while it was read")
		}
	}
	if err != nil {
		return err
	}
	b.Store.log.Info("bundle of images imported", "file", name, "images", names, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// bundles are the files that were imported, with their versions.
func (s *Store) bundles(ctx context.Context) (map[string]string, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, rec := range records {
		if name := rec.Labels[bundleLabel]; name != "" {
			out[name] = rec.Labels[bundleVersionLabel]
		}
	}
	return out, nil
}
