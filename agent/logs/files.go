package logs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

const (
	compressed = ".gz"
	unfinished = ".tmp"
	bufferSize = 64 << 10
)

// part is one file of a log.
type part struct {
	*os.File
	compressed bool
	skip       int64 // lines at its beginning that are not wanted
}

// openPart opens a file, which may have been compressed in the meantime; nil is that it is gone.
func openPart(name string) (*part, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(name, compressed) {
		name += compressed
		f, err = os.Open(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &part{File: f, compressed: strings.HasSuffix(name, compressed)}, nil
}

// rotated are the names of a log's earlier files, oldest first.
func rotated(path string) ([]string, error) {
	all, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range all {
		if !strings.HasSuffix(name, unfinished) && !slices.Contains(all, name+compressed) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// openAll opens a log's files, oldest first. The newest is opened before the others are looked for: should it be rotated
// then, it is among them.
func openAll(path string) ([]*part, error) {
	newest, err := openPart(path)
	if err != nil {
		return nil, err
	}
	names, err := rotated(path)
	if err != nil {
		return nil, err
	}
	var parts []*part
	for _, name := range names {
		p, err := openPart(name)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		if newest != nil && same(p.File, newest.File) {
			p.Close()
			break
		}
		parts = append(parts, p)
	}
	if newest != nil {
		parts = append(parts, newest)
	}
	return parts, nil
}

func same(a, b *os.File) bool {
	one, err := a.Stat()
	if err != nil {
		return false
	}
	other, err := b.Stat()
	return err == nil && os.SameFile(one, other)
}

// endedBefore tells that nothing was written to the file since then. The kernel's file times may lag behind by a tick.
func (p *part) endedBefore(at time.Time) bool {
	st, err := p.Stat()
	return err == nil && st.ModTime().Add(time.Second).Before(at)
}

// input reads the file from where it stands, or from its wanted lines on.
func (p *part) input() (*bufio.Reader, error) {
	var from io.Reader = p.File
	if p.compressed {
		var err error
		if from, err = gzip.NewReader(bufio.NewReaderSize(p.File, bufferSize)); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.Name(), err)
		}
	}
	in := bufio.NewReaderSize(from, bufferSize)
	for left := p.skip; left > 0; {
		switch _, err := in.ReadSlice('\n'); {
		case err == nil:
			left--
		case errors.Is(err, io.EOF):
			return in, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
	return in, nil
}

// tail makes the file begin at its last want lines; it returns how many there are, at most want.
func (p *part) tail(want int64) (int64, error) {
	switch {
	case want == 0 && p.compressed:
		p.skip = math.MaxInt64
		return 0, nil
	case want == 0:
		_, err := p.Seek(0, io.SeekEnd)
		return 0, err
	case !p.compressed:
		offset, lines, err := tailOffset(p.File, want)
		if err == nil {
			_, err = p.Seek(offset, io.SeekStart)
		}
		return lines, err
	}
	in, err := p.input()
	if err != nil {
		return 0, err
	}
	lines, err := countLines(in)
	if err != nil {
		return 0, err
	}
	p.skip = max(lines-want, 0)
	_, err = p.Seek(0, io.SeekStart)
	return min(lines, want), err
}

func countLines(in io.Reader) (int64, error) {
	var lines int64
	block := make([]byte, bufferSize)
	for {
		n, err := in.Read(block)
		lines += int64(bytes.Count(block[:n], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
	}
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

// after opens the file that was begun when p, which must have been rotated, was full: another rotated one, or the newest.
// The kernel knows what p is called now, also if it was removed since.
func (p *part) after(path string) (*part, error) {
	now, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", p.Fd()))
	if err != nil {
		return nil, err
	}
	names, err := rotated(path)
	if err != nil {
		return nil, err
	}
	ours := filepath.Base(strings.TrimSuffix(now, " (deleted)"))
	for _, name := range append(names, path) {
		if name != path && strings.TrimSuffix(filepath.Base(name), compressed) <= strings.TrimSuffix(ours, compressed) {
			continue
		}
		if next, err := openPart(name); next != nil || err != nil {
			return next, err
		}
	}
	return nil, nil
}
