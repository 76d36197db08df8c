package volumes

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	dataLink = "..data"
	newLink  = "..data_tmp"
)

// writeAtomically makes dir hold exactly files. A reader sees all of the old content or all of the new: files lie in
// a folder of their own, ..data is a link to it that one rename moves, and each visible name is a link through ..data.
func writeAtomically(dir string, files map[string]file, group *int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if unchanged(dir, files) {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, "..2006_")
	if err != nil {
		return err
	}
	if err := fill(fresh, files, group); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	tmp := filepath.Join(dir, newLink)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := linkNames(dir, files); err != nil {
		return err
	}
	return removeOld(dir, filepath.Base(fresh), old)
}

// unchanged compares what is there with what is wanted, modes aside.
func unchanged(dir string, files map[string]file) bool {
	base := filepath.Join(dir, dataLink)
	target, err := filepath.EvalSymlinks(base)
	if err != nil {
		return false
	}
	seen := 0
	err = filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(target, path)
		if err != nil {
			return err
		}
		f, ok := files[rel]
		have, err := os.ReadFile(path)
		if !ok || err != nil || !bytes.Equal(have, f.data) {
			return fs.ErrInvalid
		}
		seen++
		return nil
	})
	if err != nil || seen != len(files) {
		return false
	}
	for name := range topNames(files) {
		if _, err := os.Readlink(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func fill(dir string, files map[string]file, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		// Chmod because the umask took part in the creation.
		if err := os.Chmod(path, os.FileMode(f.mode)&os.ModePerm); err != nil {
			return err
		}
		if f.uid != nil {
			if err := os.Lchown(path, int(*f.uid), -1); err != nil {
				return err
			}
		}
	}
	if group != nil {
		return ownByGroup(dir, *group, true)
	}
	return nil
}

// topNames are the names visible in the volume's root.
func topNames(files map[string]file) map[string]bool {
	out := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, string(filepath.Separator))
		out[top] = true
	}
	return out
}

func linkNames(dir string, files map[string]file) error {
	wanted := topNames(files)
	for name := range wanted {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !wanted[e.Name()] && e.Type()&os.ModeSymlink != 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOld drops the folder replaced, and any that an interrupted write left.
func removeOld(dir, keep, old string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		stale := e.Name() == old || strings.HasPrefix(e.Name(), "..2006_")
		if e.IsDir() && stale && e.Name() != keep {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
