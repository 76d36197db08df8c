package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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
	if err := Read(context.Background(), path, o, func() bool { return false }, &b, func() {}); err != nil {
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

func TestFollowThroughRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var out safeBuffer
	var ended atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- Read(context.Background(), path, Options{Follow: true, Tail: -1}, func() bool { return !ended.Load() }, &out, func() {})
	}()
	var want strings.Builder
	for i := range 40 {
		line := fmt.Sprint("line ", i)
		write(t, path, at(1, "stdout F "+line))
		want.WriteString(line + "\n")
		if i%7 == 6 {
			if err := os.Rename(path, fmt.Sprintf("%s.20260101-0000%02d.000000", path, i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	ended.Store(true)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the follower does not end with the container")
	}
	if out.String() != want.String() {
		t.Errorf("got\n%swant\n%s", out.String(), want.String())
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
