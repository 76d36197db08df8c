package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 123, time.UTC)

const stamp = "2026-05-01T12:00:00.000000123Z stdout "

func TestLineSplitter(t *testing.T) {
	l := lineSplitter{stream: "stdout"}
	if got := string(l.split([]byte("a\n\nb"), noon)); got != stamp+"F a\n"+stamp+"F \n" || !l.open() {
		t.Errorf("%q", got)
	}
	if got := string(l.split([]byte("c\n"), noon)); got != stamp+"F bc\n" || l.open() {
		t.Errorf("%q", got)
	}
	long := strings.Repeat("x", maxLine+3)
	if got := string(l.split([]byte(long), noon)); got != stamp+"P "+long[:maxLine]+"\n" {
		t.Errorf("%d bytes", len(got))
	}
	if got := string(l.flush(noon, "F")); got != stamp+"F xxx\n" || l.flush(noon, "F") != nil {
		t.Errorf("%q", got)
	}
	exact := strings.Repeat("y", maxLine)
	if got := string(l.split([]byte(exact+"\n"), noon)); got != stamp+"F "+exact+"\n" {
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
			entries = append(entries, l.split(rest[:n], noon)...)
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
