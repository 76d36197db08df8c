package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/agent/logs"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 123, time.UTC)

const stamp = "2026-05-01T12:00:00.000000123Z stdout "

func TestLineSplitter(t *testing.T) {
	l := lineSplitter{stream: "stdout"}
	if got := string(l.split(nil, []byte("a\n\nb"), noon)); got != stamp+"F a\n"+stamp+"F \n" || !l.open() {
		t.Errorf("%q", got)
	}
	if got := string(l.split(nil, []byte("c\n"), noon)); got != stamp+"F bc\n" || l.open() {
		t.Errorf("%q", got)
	}
	long := strings.Repeat("x", maxLine+3)
	if got := string(l.split(nil, []byte(long), noon)); got != stamp+"P "+long[:maxLine]+"\n" {
		t.Errorf("%d bytes", len(got))
	}
	if got := string(l.flush(noon, "F")); got != stamp+"F xxx\n" || l.flush(noon, "F") != nil {
		t.Errorf("%q", got)
	}
	exact := strings.Repeat("y", maxLine)
	if got := string(l.split(nil, []byte(exact+"\n"), noon)); got != stamp+"F "+exact+"\n" {
		t.Errorf("%d bytes", len(got))
	}
}

// FuzzLineSplitter joins the entries again: nothing may be lost, whatever the pieces.
func FuzzLineSplitter(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Add([]byte(strings.Repeat("z", 40000)+"\n\nend"), 16000)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		if piece <= 0 {
			piece = 1
		}
		l := lineSplitter{stream: "stdout"}
		var entries []byte
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			entries = l.split(entries, rest[:n], noon)
			rest = rest[n:]
		}
		open := l.open()
		entries = append(entries, l.flush(noon, "F")...)
		var joined strings.Builder
		lines := strings.Split(strings.TrimSuffix(string(entries), "\n"), "\n")
		for i, e := range lines {
			if e == "" && len(entries) == 0 {
				break
			}
			body, ok := strings.CutPrefix(e, stamp)
			if !ok || len(body) < 2 || len(body) > maxLine+2 {
				t.Fatalf("entry %q", e)
			}
			joined.WriteString(body[2:])
			if body[0] == 'F' && !(open && i == len(lines)-1) {
				joined.WriteByte('\n')
			}
		}
		if joined.String() != string(data) {
			t.Fatalf("%q became %q", data, joined.String())
		}
	})
}

func TestLogFileKeepsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c", "0.log")
	l, err := openLogFile(path, 100, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		l.write([]byte(strings.Repeat(string(rune('0'+i)), 59) + "\n"))
	}
	l.close()
	var all string
	for _, f := range append(rotated(path), path) {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all += string(data[:1])
	}
	if all != "789" {
		t.Errorf("kept %q", all)
	}
	removeLogs(path)
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestLogFileCompresses: all rotated files but the newest are compressed, with their modes and times, and are what is kept.
func TestLogFileCompresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c", "0.log")
	l, err := openLogFile(path, 100, 4)
	if err != nil {
		t.Fatal(err)
	}
	changed := l.changed()
	var want string
	for i := range 4 {
		line := stamp + "F " + strings.Repeat(string(rune('0'+i)), 59) + "\n"
		l.write([]byte(line))
		want += line[len(stamp)+2:]
	}
	select {
	case <-changed:
	default:
		t.Error("the write woke nobody")
	}
	l.compressOld()
	var kinds string
	for _, f := range rotated(path) {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o640 {
			t.Errorf("%s has mode %v", f, st.Mode())
		}
		kinds += strings.TrimLeft(filepath.Ext(f), ".0123456789") + " "
	}
	if kinds != "gz gz  " {
		t.Errorf("rotated files are %q", kinds)
	}
	var got strings.Builder
	if err := logs.Read(t.Context(), path, logs.Options{Tail: -1}, nil, &got, func() {}); err != nil || got.String() != want {
		t.Errorf("read %q, %v; want %q", got.String(), err, want)
	}
	l.close()
	if l.changed() != nil {
		t.Error("a closed log can still change")
	}
	removeLogs(path)
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestTornEntry: what an agent that was killed in the middle of a write has left does not spoil the next line.
func TestTornEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(stamp+"F half of a li"), 0o640); err != nil {
		t.Fatal(err)
	}
	l, err := openLogFile(path, 1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	l.write([]byte(stamp + "F next\n"))
	l.close()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != stamp+"F half of a li\n"+stamp+"F next\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// BenchmarkPump moves a container's output of lines of 100 bytes from its pipe to its log.
func BenchmarkPump(b *testing.B) {
	dir := b.TempDir()
	l, err := openLogFile(filepath.Join(dir, "0.log"), 10<<20, 5)
	if err != nil {
		b.Fatal(err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	p := &logPump{log: l, stopped: make(chan struct{}), attached: map[*attachment]struct{}{}}
	p.done.Go(func() { p.copy(from, "stdout") })
	block := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 1000))
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := to.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	to.Close()
	p.drain(time.Minute)
}
