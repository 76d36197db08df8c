// Package logs reads container logs as the agent writes them: files of CRI log lines, "TIME STREAM TAG TEXT", of which
// full ones were renamed to NAME.TIME. Its invariant: a reader sees every line once and in order, also
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
	"path/filepath"
	"slices"
	"time"
)

// Options choose what is read.
type Options struct {
	// Follow goes on until Running tells that no more will be written.
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

// pollEvery is how often a followed file is looked at once it has been read to its end.
const pollEvery = 50 * time.Millisecond

// errLimit ends a read at Options.LimitBytes.
var errLimit = errors.New("limit reached")

// Read writes the log at path to w until its end, or with Follow until running is false and all has been read. A log that does not exist
// yet counts as empty. flush is called when there is nothing more to write for the moment.
func Read(ctx context.Context, path string, opts Options, running func() bool, w io.Writer, flush func()) error {
	r := &reader{opts: opts, path: path, w: w, left: opts.LimitBytes}
	defer r.close()
	err := r.open()
	if err == nil {
		err = r.copyAll()
	}
	for err == nil && opts.Follow {
		flush()
		// Asked before the last look, so that what was written until then is read.
		goesOn := running()
		if err = r.more(); err != nil || !goesOn {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	flush()
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

type reader struct {
	opts    Options
	path    string
	w       io.Writer
	left    int64
	files   []*os.File // oldest first; the last one is the newest
	input   *bufio.Reader
	pending []byte // the beginning of a line whose end is not written yet
	inLine  bool   // the last line written was partial
}

func (r *reader) close() {
	for _, f := range r.files {
		f.Close()
	}
}

// open opens all files that there are and finds the place to begin.
func (r *reader) open() error {
	if r.opts.Tail == 0 {
		return r.openAtEnd()
	}
	rotated, err := filepath.Glob(r.path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(rotated)
	for _, path := range append(rotated, r.path) {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r.files = append(r.files, f)
	}
	if r.opts.Tail > 0 {
		return r.seekTail()
	}
	return nil
}

func (r *reader) openAtEnd() error {
	f, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.files = []*os.File{f}
	_, err = f.Seek(0, io.SeekEnd)
	return err
}

// seekTail drops what comes before the last Tail lines.
func (r *reader) seekTail() error {
	want := r.opts.Tail
	for i := len(r.files) - 1; i >= 0; i-- {
		offset, lines, err := tailOffset(r.files[i], want)
		if err != nil {
			return err
		}
		if _, err := r.files[i].Seek(offset, io.SeekStart); err != nil {
			return err
		}
		if want -= lines; want == 0 {
			for _, f := range r.files[:i] {
				f.Close()
			}
			r.files = r.files[i:]
			return nil
		}
	}
	return nil
}

// tailOffset finds where the last want lines begin, and how many there are from there on.
func tailOffset(f *os.File, want int64) (offset, lines int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	block := make([]byte, 32<<10)
	for pos := end; pos > 0; {
		n := min(int64(len(block)), pos)
		pos -= n
		if _, err := f.ReadAt(block[:n], pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := n - 1; i >= 0; i-- {
			// The newline at the very end closes the last line; it does not begin one.
			if block[i] != '\n' || pos+i == end-1 {
				continue
			}
			if lines++; lines == want {
				return pos + i + 1, lines, nil
			}
		}
	}
	if end > 0 {
		lines++
	}
	return 0, lines, nil
}

// copyAll reads every open file to its end and keeps the newest.
func (r *reader) copyAll() error {
	for i, f := range r.files {
		r.input = bufio.NewReaderSize(f, 64<<10)
		if err := r.copy(); err != nil {
			return err
		}
		if i < len(r.files)-1 {
			f.Close()
		}
	}
	if len(r.files) > 1 {
		r.files = r.files[len(r.files)-1:]
	}
	return nil
}

// more reads what has been written since, through rotations.
func (r *reader) more() error {
	if len(r.files) == 0 {
		if err := r.openNewest(); err != nil || len(r.files) == 0 {
			return err
		}
	}
	for {
		if err := r.copy(); err != nil {
			return err
		}
		rotated, err := r.rotated()
		if err != nil || !rotated {
			return err
		}
		// What was written between our last read and the renaming.
		if err := r.copy(); err != nil {
			return err
		}
		if err := r.next(); err != nil {
			return err
		}
	}
}

func (r *reader) openNewest() error {
	f, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.files = []*os.File{f}
	r.input = bufio.NewReaderSize(f, 64<<10)
	return nil
}

// rotated tells whether the open file is not the newest any more.
func (r *reader) rotated() (bool, error) {
	ours, err := r.files[0].Stat()
	if err != nil {
		return false, err
	}
	newest, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between renaming and the first line after it, or removed
	}
	return err == nil && !os.SameFile(ours, newest), err
}

// next goes on to the file that was begun after ours: a rotated one, or the newest.
func (r *reader) next() error {
	ours, err := r.files[0].Stat()
	if err != nil {
		return err
	}
	rotated, err := filepath.Glob(r.path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(rotated)
	candidates := append(rotated, r.path)
	for i, path := range candidates {
		if st, err := os.Stat(path); err == nil && os.SameFile(st, ours) && i+1 < len(candidates) {
			candidates = candidates[i+1:]
			break
		}
	}
	for _, path := range candidates {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r.files[0].Close()
		r.files[0] = f
		r.input.Reset(f)
		return nil
	}
	return nil
}

// copy writes every whole line that can be read now.
func (r *reader) copy() error {
	if r.input == nil {
		r.input = bufio.NewReaderSize(r.files[0], 64<<10)
	}
	for {
		chunk, err := r.input.ReadSlice('\n')
		r.pending = append(r.pending, chunk...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line := r.pending
		r.pending = r.pending[:0]
		if err := r.write(line); err != nil {
			return err
		}
	}
}

// write puts out one line of the file, if it is wanted.
func (r *reader) write(line []byte) error {
	l, ok := parse(line)
	if !ok || (r.opts.Stream != "" && r.opts.Stream != string(l.stream)) {
		return nil
	}
	if !r.opts.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(l.time)); err == nil && at.Before(r.opts.Since) {
			return nil
		}
	}
	var out []byte
	if r.opts.Timestamps && !r.inLine {
		out = append(append(out, l.time...), ' ')
	}
	out = append(out, l.text...)
	if r.inLine = l.partial; !r.inLine {
		out = append(out, '\n')
	}
	return r.emit(out)
}

func (r *reader) emit(out []byte) error {
	if r.opts.LimitBytes > 0 && int64(len(out)) >= r.left {
		out = out[:r.left]
		if _, err := r.w.Write(out); err != nil {
			return err
		}
		return errLimit
	}
	r.left -= int64(len(out))
	_, err := r.w.Write(out)
	return err
}

type line struct {
	time, stream, text []byte
	partial            bool
}

// parse takes a CRI log line apart; a line that is none is skipped.
func parse(raw []byte) (line, bool) {
	raw = bytes.TrimSuffix(raw, []byte{'\n'})
	parts := bytes.SplitN(raw, []byte{' '}, 4)
	if len(parts) < 4 {
		return line{}, false
	}
	// Further tags would follow the first behind colons.
	tag, _, _ := bytes.Cut(parts[2], []byte{':'})
	return line{time: parts[0], stream: parts[1], text: parts[3], partial: string(tag) == "P"}, true
}
