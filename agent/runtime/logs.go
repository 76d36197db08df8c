package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
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
	for _, note := range []string{"started", "ended"} {
		_ = os.Remove(r.ioPath(c.meta.Pod.UID, c.id, note))
	}
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

	stop     sync.Once
	stopped  chan struct{} // closed by detach: nobody is waited for any more
	mu       sync.Mutex
	attached map[*attachment]struct{}
}

// openLogs opens the pipes that the shim has opened before and starts to copy. The shim keeps them open until
// the task is deleted, so that nothing is lost while there is no agent.
func (r *Runtime) openLogs(c *container) (*logPump, error) {
	p := &logPump{stopped: make(chan struct{}), attached: map[*attachment]struct{}{}}
	if c.meta.LogPath != "" {
		var err error
		if p.log, err = openLogFile(c.meta.LogPath, r.cfg.LogSize, r.cfg.LogFiles); err != nil {
			return nil, fmt.Errorf("open container log: %w", err)
		}
		r.linkLog(c)
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
var buffers = sync.Pool{New: func() any { return &pumpBuffer{in: make([]byte, 64<<10)} }}

type pumpBuffer struct{ in, out []byte }

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
			buf := buffers.Get().(*pumpBuffer)
			defer buffers.Put(buf)
			if n, rerr = unix.Read(int(fd), buf.in); errors.Is(rerr, unix.EAGAIN) {
				return false
			}
			if n > 0 {
				buf.out = line.split(buf.out[:0], buf.in[:n], time.Now())
				p.write(buf.out)
				p.deliver(stream, buf.in[:n])
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
		case rerr != nil || n <= 0: // as containerd does: what had no end gets none
			p.write(line.flush(time.Now(), "P"))
			return
		}
	}
}

func (p *logPump) write(entries []byte) {
	if p.log != nil && len(entries) > 0 {
		p.log.write(entries)
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
	p.stop.Do(func() { close(p.stopped) })
	for _, f := range p.readers {
		f.Close()
	}
	p.done.Wait()
	if p.log != nil {
		p.log.close()
	}
}

// lineSplitter turns a stream into CRI log entries: "TIME STREAM F line", with P for a part of a line.
type lineSplitter struct {
	stream  string
	prefix  []byte
	pending []byte // a line without its end
}

func (l *lineSplitter) open() bool { return len(l.pending) > 0 }

// split appends the entries that are complete with data to out and keeps the rest.
func (l *lineSplitter) split(out, data []byte, now time.Time) []byte {
	l.prefix = append(append(append(now.UTC().AppendFormat(l.prefix[:0], logTime), ' '), l.stream...), ' ')
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
			out = l.entry(out, 'P', part[:maxLine])
			part = part[maxLine:]
		}
		if full {
			out = l.entry(out, 'F', part)
		} else if len(part) > 0 {
			l.pending = slices.Clone(part)
		}
	}
	return out
}

func (l *lineSplitter) entry(out []byte, tag byte, line []byte) []byte {
	out = append(append(append(out, l.prefix...), tag, ' '), line...)
	return append(out, '\n')
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
