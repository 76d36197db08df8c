package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

const (
	// rotatedTime is the suffix of a rotated log; the kubelet's, and finer, as many files may be filled in one second.
	rotatedTime = "20060102-150405.000000"
	compressed  = ".gz"
	unfinished  = ".tmp"
	// compressAfter is how long a rotated log waits to be compressed: one that is written quickly is removed before.
	compressAfter = 10 * time.Second
)

// logFile is a container's log with rotation by size. A full file is renamed to NAME.TIME and a new one begun;
// who follows the log notices that the name is another file, reads the old one to its end and goes on. All rotated ones but the
// newest are compressed to NAME.TIME.gz after a while, as the kubelet does it.
type logFile struct {
	path    string
	maxSize int64 // bytes; negative does not rotate
	keep    int

	mu       sync.Mutex
	file     *os.File
	size     int64
	closed   bool
	waiting  chan struct{} // closed by the next write
	compress *time.Timer
}

func openLogFile(path string, maxSize int64, keep int) (*logFile, error) {
	l := &logFile{path: path, maxSize: maxSize, keep: keep}
	if left, err := filepath.Glob(path + ".*" + unfinished); err == nil {
		for _, file := range left { // by an agent that ended while it compressed
			_ = os.Remove(file)
		}
	}
	return l, l.open()
}

func (l *logFile) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, st.Size()
	if last := make([]byte, 1); l.size > 0 {
		if _, err := f.ReadAt(last, l.size-1); err == nil && last[0] != '\n' { // an agent was killed in the middle of a write
			_, _ = f.WriteString("\n")
		}
	}
	return nil
}

// write appends whole entries in one call. A log that cannot be written must not stop the container: it is
// tried again with the next entry.
func (l *logFile) write(entries []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.size > 0 && l.maxSize >= 0 && l.size+int64(len(entries)) > l.maxSize {
		l.rotate()
	}
	if l.file == nil && l.open() != nil {
		return
	}
	n, err := l.file.Write(entries)
	l.size += int64(n)
	if err != nil {
		l.file.Close()
		l.file = nil
	}
	l.wake()
}

// wake tells those who follow the log; the caller holds mu.
func (l *logFile) wake() {
	if l.waiting != nil {
		close(l.waiting)
		l.waiting = nil
	}
}

// changed is closed by the next write, or the end; nil after the end.
func (l *logFile) changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if l.waiting == nil {
		l.waiting = make(chan struct{})
	}
	return l.waiting
}

// rotate renames the file and removes the oldest beyond those to keep.
func (l *logFile) rotate() {
	l.file.Close()
	l.file = nil
	if err := os.Rename(l.path, l.path+"."+time.Now().UTC().Format(rotatedTime)); err != nil {
		return
	}
	old := rotated(l.path)
	for len(old) > l.keep-1 {
		_ = os.Remove(old[0])
		old = old[1:]
	}
	if l.compress == nil && len(old) > 1 {
		l.compress = time.AfterFunc(compressAfter, l.compressOld)
	}
}

// compressOld compresses every rotated file but the newest, which log routers may still be reading.
func (l *logFile) compressOld() {
	l.mu.Lock()
	l.compress = nil
	old := rotated(l.path)
	l.mu.Unlock()
	for i, file := range old {
		if i < len(old)-1 && !strings.HasSuffix(file, compressed) && l.compressOne(file) != nil {
			return // the next rotation tries again
		}
	}
}

func (l *logFile) compressOne(file string) error {
	from, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was the oldest, and is gone
	}
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := from.Stat()
	if err != nil {
		return err
	}
	tmp := file + unfinished
	defer os.Remove(tmp)
	if err := writeCompressed(tmp, from, st.Mode()); err != nil {
		return fmt.Errorf("compress %s: %w", file, err)
	}
	_ = os.Chtimes(tmp, time.Time{}, st.ModTime()) // tells readers what is too old for them
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := os.Stat(file); err != nil || l.closed {
		return nil //nolint:nilerr // it has been removed in the meantime, or the whole log is about to be
	}
	if err := os.Rename(tmp, file+compressed); err != nil {
		return err
	}
	return os.Remove(file)
}

func writeCompressed(name string, from io.Reader, mode fs.FileMode) error {
	to, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	w, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(w, from)
		err = errors.Join(err, w.Close())
	}
	return errors.Join(err, to.Close())
}

// rotated are a log's earlier files, oldest first.
func rotated(path string) []string {
	all, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil
	}
	var old []string
	for _, file := range all {
		if !strings.HasSuffix(file, unfinished) && !slices.Contains(all, file+compressed) {
			old = append(old, file)
		}
	}
	slices.Sort(old)
	return old
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.compress != nil {
		l.compress.Stop()
	}
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	l.wake()
}

func removeLogs(path string) {
	if path == "" {
		return
	}
	all, err := filepath.Glob(path + ".*")
	if err == nil {
		for _, old := range all {
			_ = os.Remove(old)
		}
	}
	_ = os.Remove(path)
}

// maxLinkName keeps room for ".log" in what a file system takes as a name, in bytes.
const maxLinkName = 255 - len(".log")

// logLink is where log routers look for a container's log: POD_NAMESPACE_CONTAINER-ID.log.
func (r *Runtime) logLink(c *container) string {
	name := fmt.Sprintf("%s_%s_%s-%s", c.meta.Pod.Name, c.meta.Pod.Namespace, c.meta.Name, c.id)
	return filepath.Join(r.cfg.Layout.ContainerLogs(), name[:min(len(name), maxLinkName)]+".log")
}

// linkLog makes the link; without it only routers miss something.
func (r *Runtime) linkLog(c *container) {
	link := r.logLink(c)
	err := os.Symlink(c.meta.LogPath, link)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(link), 0o755); err == nil {
			err = os.Symlink(c.meta.LogPath, link)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		r.log.Warn("log not linked", "container", c.id, "error", err)
	}
}

// Follow tells how a container's log goes on: changed is closed when there may be more of it, or its container has ended;
// more is false once nothing will be added.
func (r *Runtime) Follow(id string) (changed <-chan struct{}, more bool) {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil || c.state == StateExited {
		r.mu.Unlock()
		return nil, false
	}
	pump, ended := c.logs, c.ended
	r.mu.Unlock()
	if pump != nil && pump.log != nil {
		if changed = pump.log.changed(); changed != nil {
			return changed, true
		}
	}
	return ended, true
}
