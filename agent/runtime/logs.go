package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLine    = 16 << 10               // bytes of a line before it is split, as in containerd
	flushAfter = 250 * time.Millisecond // an unfinished line is written after this, as a partial one
	pipeSize   = 1 << 20                // bytes that a container can write while no agent reads
	logTime    = "2006-01-02T15:04:05.000000000Z07:00"
)

// makeFIFOs creates the pipes that the shim writes a container's output to. Their names are all that an agent
// needs to attach again.
func (r *Runtime) makeFIFOs(c *container) (stdin, stdout, stderr string, err error) {
	r.removeFIFOs(c)
	mk := func(stream string) string {
		p := r.ioPath(c.meta.Pod.UID, c.id, stream)
		if err == nil {
			err = unix.Mkfifo(p, 0o600)
		}
		return p
	}
	stdout = mk("out")
	if !c.meta.TTY {
		stderr = mk("err")
	}
	if c.meta.Stdin {
		stdin = mk("in")
	}
	if err != nil {
		err = fmt.Errorf("create the container's pipes: %w", err)
	}
	return stdin, stdout, stderr, err
}

// removeFIFOs removes the pipes, and the note that the container was started.
func (r *Runtime) removeFIFOs(c *container) {
	r.removePipes(c)
	_ = os.Remove(r.ioPath(c.meta.Pod.UID, c.id, "started"))
}

func (r *Runtime) removePipes(c *container) {
	for _, stream := range []string{"out", "err", "in"} {
		_ = os.Remove(r.ioPath(c.meta.Pod.UID, c.id, stream))
	}
}

// logPump copies a container's output to its log and to whoever is attached. A nil pump does nothing.
type logPump struct {
	log     *logFile
	readers []*os.File
	done    sync.WaitGroup

	mu       sync.Mutex
	attached map[*attachment]struct{}
}

// attachment gets a container's output as it comes; a nil writer is skipped.
type attachment struct {
	stdout, stderr io.Writer
	gone           chan struct{} // closed when a write failed or the container ended
	once           sync.Once
}

func (a *attachment) close() { a.once.Do(func() { close(a.gone) }) }

// openLogs opens the pipes that the shim has opened before and starts to copy. The shim keeps them open until
// the task is deleted, so that nothing is lost while there is no agent.
func (r *Runtime) openLogs(c *container) (*logPump, error) {
	p := &logPump{attached: map[*attachment]struct{}{}}
	if c.meta.LogPath != "" {
		var err error
		if p.log, err = openLogFile(c.meta.LogPath, r.cfg.LogSize, r.cfg.LogFiles); err != nil {
			return nil, fmt.Errorf("open container log: %w", err)
		}
	}
	streams := []string{"out", "err"}
	if c.meta.TTY {
		streams = streams[:1]
	}
	for _, stream := range streams {
		f, err := os.OpenFile(r.ioPath(c.meta.Pod.UID, c.id, stream), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			p.detach()
			return nil, fmt.Errorf("open container output: %w", err)
		}
		if raw, err := f.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
		}
		p.readers = append(p.readers, f)
	}
	for i, f := range p.readers {
		p.done.Add(1)
		go func() {
			defer p.done.Done()
			p.copy(f, "std"+streams[i])
		}()
	}
	return p, nil
}

// buffers are shared by all pumps: a container that says nothing holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copy moves one stream until its end. It waits without a buffer.
func (p *logPump) copy(f *os.File, stream string) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	line := lineSplitter{stream: stream}
	for {
		if line.open() {
			_ = f.SetReadDeadline(time.Now().Add(flushAfter))
		} else {
			_ = f.SetReadDeadline(time.Time{})
		}
		n, rerr := 0, error(nil)
		err := raw.Read(func(fd uintptr) bool {
			buf := buffers.Get().(*[]byte)
			defer buffers.Put(buf)
			if n, rerr = unix.Read(int(fd), *buf); errors.Is(rerr, unix.EAGAIN) {
				return false
			}
			if n > 0 {
				p.deliver(stream, (*buf)[:n])
				p.write(line.split((*buf)[:n], time.Now()))
			}
			return true
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.write(line.flush(time.Now(), "P"))
		case errors.Is(rerr, unix.EINTR):
		case err != nil: // detached
			p.write(line.flush(time.Now(), "P"))
			return
		case rerr != nil || n <= 0:
			p.write(line.flush(time.Now(), "F"))
			return
		}
	}
}

func (p *logPump) write(entries []byte) {
	if p.log != nil && len(entries) > 0 {
		p.log.write(entries)
	}
}

func (p *logPump) deliver(stream string, data []byte) {
	p.mu.Lock()
	list := make([]*attachment, 0, len(p.attached))
	for a := range p.attached {
		list = append(list, a)
	}
	p.mu.Unlock()
	for _, a := range list {
		w := a.stdout
		if stream == "stderr" {
			w = a.stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(data); err != nil {
			a.close()
		}
	}
}

// drain waits until all output was copied, at most for limit, then lets go.
func (p *logPump) drain(limit time.Duration) {
	if p == nil {
		return
	}
	done := make(chan struct{})
	go func() { p.done.Wait(); close(done) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	p.detach()
}

// detach stops copying; what is in the pipes stays there.
func (p *logPump) detach() {
	if p == nil {
		return
	}
	for _, f := range p.readers {
		f.Close()
	}
	p.done.Wait()
	if p.log != nil {
		p.log.close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for a := range p.attached {
		a.close()
	}
}

// lineSplitter turns a stream into CRI log entries: "TIME STREAM F line", with P for a part of a line.
type lineSplitter struct {
	stream  string
	pending []byte // a line without its end
}

func (l *lineSplitter) open() bool { return len(l.pending) > 0 }

// split returns the entries that are complete with data and keeps the rest.
func (l *lineSplitter) split(data []byte, now time.Time) []byte {
	prefix := []byte(now.UTC().Format(logTime) + " " + l.stream + " ")
	out := make([]byte, 0, len(data)+len(l.pending)+4*(len(prefix)+3))
	emit := func(tag string, line []byte) {
		out = append(append(append(append(out, prefix...), tag...), ' '), line...)
		out = append(out, '\n')
	}
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		full := end >= 0
		part := data
		if full {
			part, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		if len(l.pending) > 0 {
			part = append(l.pending, part...)
			l.pending = nil
		}
		for len(part) > maxLine {
			emit("P", part[:maxLine])
			part = part[maxLine:]
		}
		if full {
			emit("F", part)
		} else if len(part) > 0 {
			l.pending = slices.Clone(part)
		}
	}
	return out
}

// flush returns the kept part of a line as an entry.
func (l *lineSplitter) flush(now time.Time, tag string) []byte {
	if len(l.pending) == 0 {
		return nil
	}
	line := l.pending
	l.pending = nil
	return fmt.Appendf(nil, "%s %s %s %s\n", now.UTC().Format(logTime), l.stream, tag, line)
}

// logFile is a container's log with rotation by size. A full file is renamed to NAME.TIME and a new one begun;
// who follows the log notices that the name is another file, reads the old one to its end and goes on.
type logFile struct {
	path    string
	maxSize int64
	keep    int

	mu   sync.Mutex
	file *os.File
	size int64
}

func openLogFile(path string, maxSize int64, keep int) (*logFile, error) {
	l := &logFile{path: path, maxSize: maxSize, keep: keep}
	return l, l.open()
}

func (l *logFile) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, st.Size()
	return nil
}

// write appends whole entries in one call. A log that cannot be written must not stop the container: it is
// tried again with the next entry.
func (l *logFile) write(entries []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.size > 0 && l.size+int64(len(entries)) > l.maxSize {
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
}

// rotate renames the file and removes the oldest beyond those to keep.
func (l *logFile) rotate() {
	l.file.Close()
	l.file = nil
	if err := os.Rename(l.path, l.path+"."+time.Now().UTC().Format("20060102-150405.000000")); err != nil {
		return
	}
	old := rotated(l.path)
	for len(old) > l.keep-1 {
		_ = os.Remove(old[0])
		old = old[1:]
	}
}

// rotated are a log's earlier files, oldest first.
func rotated(path string) []string {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil
	}
	slices.Sort(old)
	return old
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

func removeLogs(path string) {
	if path == "" {
		return
	}
	for _, old := range rotated(path) {
		_ = os.Remove(old)
	}
	_ = os.Remove(path)
}
