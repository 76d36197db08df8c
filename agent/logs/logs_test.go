package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range lines {
		if _, err := f.WriteString(l + "\n"); err != nil {
			t.Fatal(err)
		}
	}
}

func at(second int, rest string) string {
	return time.Date(2026, 1, 1, 0, 0, second, 5, time.UTC).Format(time.RFC3339Nano) + " " + rest
}

func read(t *testing.T, path string, o Options) string {
	t.Helper()
	var b bytes.Buffer
	if err := Read(context.Background(), path, o, func() (<-chan struct{}, bool) { return nil, false }, &b, func() {}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path+".20260101-000000.000000", at(1, "stdout F one"), at(2, "stderr F two"))
	write(t, path+".20260101-000002.000000", at(3, "stdout P thr"), at(3, "stdout F ee"))
	write(t, path, at(4, "stdout F four"), at(5, "stdout F "))
	cases := []struct {
		name string
		o    Options
		want string
	}{
		{"all", Options{Tail: -1}, "one\ntwo\nthree\nfour\n\n"},
		{"tail 1", Options{Tail: 1}, "\n"},
		{"tail 2", Options{Tail: 2}, "four\n\n"},
		{"tail over a rotation", Options{Tail: 4}, "three\nfour\n\n"},
		{"tail of more than there is", Options{Tail: 100}, "one\ntwo\nthree\nfour\n\n"},
		{"tail 0", Options{Tail: 0}, ""},
		{"since", Options{Tail: -1, Since: time.Date(2026, 1, 1, 0, 0, 4, 0, time.UTC)}, "four\n\n"},
		{"one stream", Options{Tail: -1, Stream: "stderr"}, "two\n"},
		{"limit", Options{Tail: -1, LimitBytes: 6}, "one\ntw"},
		{"timestamps", Options{Tail: 2, Timestamps: true}, "2026-01-01T00:00:04.000000005Z four\n2026-01-01T00:00:05.000000005Z \n"},
	}
	for _, c := range cases {
		if got := read(t, path, c.o); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := read(t, filepath.Join(t.TempDir(), "none.log"), Options{Tail: -1}); got != "" {
		t.Errorf("a log that is not there: %q", got)
	}
}

// TestCompressed: rotated files that were compressed are read as the others.
func TestCompressed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	squeeze(t, path+".20260101-000000.000000", at(1, "stdout F one"), at(2, "stdout F two"), at(2, "stdout F three"))
	write(t, path+".20260101-000000.000000", "a file that is about to be removed")
	write(t, path+".20260101-000003.000000.tmp", "a file that is being made")
	squeeze(t, path+".20260101-000001.000000", at(3, "stdout F four"))
	write(t, path, at(4, "stdout F five"))
	for tail, want := range map[int64]string{
		-1: "one\ntwo\nthree\nfour\nfive\n", 0: "", 1: "five\n", 2: "four\nfive\n", 3: "three\nfour\nfive\n", 4: "two\nthree\nfour\nfive\n", 9: "one\ntwo\nthree\nfour\nfive\n",
	} {
		if got := read(t, path, Options{Tail: tail}); got != want {
			t.Errorf("tail %d: %q, want %q", tail, got, want)
		}
	}
	old := time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)
	if err := os.Chtimes(path+".20260101-000000.000000.gz", old, old); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, Options{Tail: -1, Since: old.Add(2 * time.Second)}); got != "five\n" {
		t.Errorf("since: %q", got)
	}
}

func squeeze(t *testing.T, path string, lines ...string) {
	t.Helper()
	f, err := os.Create(path + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := gzip.NewWriter(f)
	if _, err := io.WriteString(w, strings.Join(lines, "\n")+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFollowThroughRotations: a follower sees every line once while files are renamed, compressed and removed under it, and is woken
// by the writer alone.
func TestFollowThroughRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var out safeBuffer
	follow := &source{waiting: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- Read(context.Background(), path, Options{Follow: true, Tail: -1}, follow.next, &out, func() {})
	}()
	var want strings.Builder
	var before string
	for i := range 200 {
		line := fmt.Sprint("line ", i)
		write(t, path, at(1, "stdout F "+line))
		want.WriteString(line + "\n")
		if i%7 == 6 {
			follow.wake()
			for out.String() != want.String() { // let it catch up, so that what is removed was read
				time.Sleep(time.Millisecond)
			}
			name := fmt.Sprintf("%s.20260101-0000%03d.000000", path, i)
			if err := os.Rename(path, name); err != nil {
				t.Fatal(err)
			}
			switch {
			case before != "" && i%2 == 0:
				squeeze(t, before, "this must not be read again")
				fallthrough
			case before != "":
				if err := os.Remove(before); err != nil {
					t.Fatal(err)
				}
			}
			before = name
			if i%3 == 0 { // also the one that is being read
				squeeze(t, name, "nor must this")
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
				before = ""
			}
		}
		follow.wake()
	}
	follow.end()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the follower does not end with the container")
	}
	if out.String() != want.String() {
		t.Errorf("got\n%swant\n%s", out.String(), want.String())
	}
}

// source is a container that logs.
type source struct {
	mu      sync.Mutex
	waiting chan struct{}
	ended   bool
}

func (s *source) next() (<-chan struct{}, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting, !s.ended
}

func (s *source) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.waiting)
	s.waiting = make(chan struct{})
}

func (s *source) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.wake()
}

// BenchmarkRead tells how fast a log is read.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "0.log")
	text := strings.Repeat(at(1, "stdout F "+strings.Repeat("x", 100))+"\n", 100_000)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if err := Read(context.Background(), path, Options{Tail: -1}, nil, io.Discard, func() {}); err != nil {
			b.Fatal(err)
		}
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout F text\n"))
	f.Add([]byte("x y"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if l, ok := parse(raw); ok && len(l.time)+len(l.stream)+len(l.text) > len(raw) {
			t.Error("more text than there was")
		}
	})
}
