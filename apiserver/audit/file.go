package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// FileConfig is where a log is kept, and how much of it.
type FileConfig struct {
	Path string
	// MaxSize of the file, in MiB; then another is begun. Zero is 100.
	MaxSize int
	// MaxAge is how many days files that were left are kept, and MaxBackups how many of them; zero is no limit.
	MaxAge, MaxBackups int
}

// File is a log file that is begun anew when it is large.
type File struct {
	cfg  FileConfig
	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenFile goes on with a file, or begins it (0600).
func OpenFile(cfg FileConfig) (*File, error) {
	if cfg.MaxSize == 0 {
		cfg.MaxSize = 100
	}
	f := &File{cfg: cfg}
	return f, f.open()
}

func (f *File) open() error {
	if err := os.MkdirAll(filepath.Dir(f.cfg.Path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(f.cfg.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Write implements io.Writer. A write is never split over two files.
func (f *File) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return 0, fs.ErrClosed
	}
	if f.size > 0 && f.size+int64(len(b)) > int64(f.cfg.MaxSize)<<20 {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(b)
	f.size += int64(n)
	return n, err
}

// Close ends the log.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}

// rotate renames the file by the time and begins another. The names sort by time.
func (f *File) rotate() error {
	ext := filepath.Ext(f.cfg.Path)
	base := strings.TrimSuffix(f.cfg.Path, ext)
	if err := f.file.Close(); err != nil {
		return err
	}
	f.file = nil
	now := time.Now().UTC()
	if err := os.Rename(f.cfg.Path, base+"-"+now.Format("2006-01-02T15-04-05.000000000")+ext); err != nil {
		return err
	}
	old, err := filepath.Glob(base + "-[0-9]*" + ext)
	if err == nil {
		slices.Sort(old)
		for i, path := range old {
			info, statErr := os.Stat(path)
			aged := statErr == nil && f.cfg.MaxAge > 0 && now.Sub(info.ModTime()) > time.Duration(f.cfg.MaxAge)*24*time.Hour
			if aged || f.cfg.MaxBackups > 0 && i < len(old)-f.cfg.MaxBackups {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}
	return errors.Join(f.open(), err)
}
