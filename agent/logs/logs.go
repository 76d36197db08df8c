// Package logs reads container logs as the agent writes them: files of CRI log lines, "TIME STREAM TAG TEXT", of which
// full ones were renamed to NAME.TIME, and then compressed to NAME.TIME.gz. Its invariant: a reader sees every line once and in order, also
// while the file is being rotated, as long as it reads faster than files are removed.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// Options choose what is read.
type Options struct {
	// Follow goes on until no more will be written.
	Follow bool
	// Tail is how many of the last lines to begin with; negative is all.
	Tail int64
	// Since leaves out lines before it, if set.
	Since time.Time
	// Timestamps writes each line's time before it, as it stands in the file.
	Timestamps bool
	// LimitBytes ends the output after so many bytes; zero is no limit.
	LimitBytes int64
	// Stream is "stdout" or "stderr"; empty is both.
	Stream string
}

// Next tells how a followed log goes on: changed is closed when there may be more; more is false once nothing will be added.
type Next func() (changed <-chan struct{}, more bool)

// lookEvery is how often a followed file is looked at where nothing tells that it changed: before its container starts.
const lookEvery = time.Second

// errLimit ends a read at Options.LimitBytes.
var errLimit = errors.New("limit reached")

// Read writes the log at path to w until its end, or with Follow until next tells that there will be no more and all has been read. A log
// that does not exist yet counts as empty. flush is called when there is nothing more to write for the moment.
func Read(ctx context.Context, path string, opts Options, next Next, w io.Writer, flush func()) error {
	r := &reader{opts: opts, path: path, w: bufio.NewWriterSize(w, 32<<10), left: opts.LimitBytes}
	defer r.close()
	err := r.begin(ctx)
	for err == nil && opts.Follow {
		if err = r.flush(flush); err != nil {
			break
		}
		// Asked before the last look, so that what was written until then is read.
		changed, more := next()
		if err = r.more(ctx); err != nil || !more {
			break
		}
		if err = r.flush(flush); err != nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(lookEvery):
		}
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	return errors.Join(err, r.flush(flush))
}

type reader struct {
	opts    Options
	path    string
	w       *bufio.Writer
	left    int64
	parts   []*part // still to be read; the first is being read
	in      *bufio.Reader
	pending []byte // the beginning of a line whose end is not written yet
	inLine  bool   // the last line written was partial
	since   bool   // a line of the time wanted was seen: so are those after it
}

func (r *reader) close() {
	for _, p := range r.parts {
		p.Close()
	}
}

func (r *reader) flush(further func()) error {
	if err := r.w.Flush(); err != nil {
		return err
	}
	further()
	return nil
}

// begin reads all there is.
func (r *reader) begin(ctx context.Context) (err error) {
	if r.parts, err = openAll(r.path); err != nil {
		return err
	}
	for len(r.parts) > 1 && (r.opts.Tail == 0 || !r.opts.Since.IsZero() && r.parts[0].endedBefore(r.opts.Since)) {
		r.drop()
	}
	if r.opts.Tail >= 0 {
		if err := r.seekTail(); err != nil {
			return err
		}
	}
	for len(r.parts) > 0 {
		if err := r.copy(ctx); err != nil {
			return err
		}
		if len(r.parts) == 1 { // the newest, which may grow
			return nil
		}
		r.drop()
	}
	return nil
}

// drop is done with the first file.
func (r *reader) drop() {
	r.parts[0].Close()
	r.parts, r.in, r.pending = r.parts[1:], nil, r.pending[:0]
}

// seekTail drops what comes before the last Tail lines.
func (r *reader) seekTail() error {
	want := r.opts.Tail
	for i := len(r.parts) - 1; i >= 0; i-- {
		lines, err := r.parts[i].tail(want)
		if err != nil {
			return err
		}
		if want -= lines; want == 0 {
			for range i {
				r.drop()
			}
			return nil
		}
	}
	return nil
}

// more reads what has been written since, through rotations.
func (r *reader) more(ctx context.Context) error {
	if len(r.parts) == 0 {
		p, err := openPart(r.path)
		if p == nil || err != nil {
			return err
		}
		r.parts = []*part{p}
	}
	for {
		if err := r.copy(ctx); err != nil {
			return err
		}
		full, err := r.full()
		if err != nil || !full {
			return err
		}
		// What was written between our last read and the renaming.
		if err := r.copy(ctx); err != nil {
			return err
		}
		next, err := r.parts[0].after(r.path)
		if next == nil || err != nil {
			return err
		}
		r.drop()
		r.parts = []*part{next}
	}
}

// full tells whether the open file is not the newest any more.
func (r *reader) full() (bool, error) {
	ours, err := r.parts[0].Stat()
	if err != nil {
		return false, err
	}
	newest, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between renaming and the first line after it, or removed
	}
	return err == nil && !os.SameFile(ours, newest), err
}

// copy writes every whole line of the first file that can be read now.
func (r *reader) copy(ctx context.Context) (err error) {
	if r.in == nil {
		if r.in, err = r.parts[0].input(); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		line, err := r.in.ReadSlice('\n')
		if err != nil || len(r.pending) > 0 {
			r.pending = append(r.pending, line...)
			line = r.pending
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		r.pending = r.pending[:0]
		if err := r.write(line); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// write puts out one line of the file, if it is wanted.
func (r *reader) write(raw []byte) error {
	l, ok := parse(raw)
	if !ok || (r.opts.Stream != "" && r.opts.Stream != string(l.stream)) {
		return nil
	}
	if !r.since && !r.opts.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(l.time)); err == nil && at.Before(r.opts.Since) {
			return nil
		}
		r.since = true
	}
	if r.opts.Timestamps && !r.inLine {
		if err := r.emit(l.time, []byte{' '}); err != nil {
			return err
		}
	}
	if r.inLine = l.partial; l.partial {
		return r.emit(l.text)
	}
	return r.emit(l.text, []byte{'\n'})
}

func (r *reader) emit(pieces ...[]byte) error {
	for _, out := range pieces {
		if r.opts.LimitBytes > 0 && int64(len(out)) >= r.left {
			if _, err := r.w.Write(out[:r.left]); err != nil {
				return err
			}
			return errLimit
		}
		r.left -= int64(len(out))
		if _, err := r.w.Write(out); err != nil {
			return err
		}
	}
	return nil
}

type line struct {
	time, stream, text []byte
	partial            bool
}

// parse takes a CRI log line apart; a line that is none is skipped.
func parse(raw []byte) (line, bool) {
	var l line
	var tag []byte
	ok := true
	rest := bytes.TrimSuffix(raw, []byte{'\n'})
	for _, field := range []*[]byte{&l.time, &l.stream, &tag} {
		if *field, rest, ok = bytes.Cut(rest, []byte{' '}); !ok {
			return line{}, false
		}
	}
	// Further tags would follow the first behind colons.
	first, _, _ := bytes.Cut(tag, []byte{':'})
	l.text, l.partial = rest, string(first) == "P"
	return l, true
}
