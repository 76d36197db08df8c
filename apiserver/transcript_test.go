package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts as the server answers now")

// TestTranscripts plays the requests of each testdata/http/*.txt against a fresh server and compares the answers. A
// file is a sequence of exchanges, each divided from the next by a line "====":
//
//	# a comment
//	> METHOD PATH
//	> Header: value
//	> BODY
//	< CODE
//	< Header: value
//	body
//
// A watch ends after a moment. UIDs, generated names and the ages of tables are replaced by what does not change.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/http/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			playFile(t, file)
		})
	}
}

func playFile(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), Now: func() time.Time { return now }})
	p := &player{handler: s.Handler(), uids: map[string]string{}, names: map[string]string{}}
	var got []string
	for _, exchange := range strings.Split(string(text), "\n====\n") {
		got = append(got, p.play(t, exchange))
	}
	result := strings.Join(got, "\n====\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(file, []byte(result), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), result); diff != "" {
		t.Errorf("answers differ (-want +got); -rewrite accepts them:\n%s", diff)
	}
}

// player keeps what placeholders stand for, in both directions.
type player struct {
	handler http.Handler
	uids    map[string]string // placeholder by UID
	names   map[string]string // placeholder by generated name
}

func (p *player) play(t *testing.T, exchange string) string {
	var out []string
	var request []string
	for line := range strings.SplitSeq(strings.TrimSuffix(exchange, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			out = append(out, line)
		case strings.HasPrefix(line, ">"):
			out = append(out, line)
			request = append(request, strings.TrimPrefix(strings.TrimPrefix(line, ">"), " "))
		}
	}
	if len(request) == 0 {
		t.Fatalf("no request in %q", exchange)
	}
	rec := httptest.NewRecorder()
	p.handler.ServeHTTP(rec, p.request(t, request))
	out = append(out, fmt.Sprintf("< %d", rec.Code))
	for _, name := range []string{"Content-Type", "Content-Encoding", "Warning", "Retry-After", "Allow", "Etag"} {
		for _, v := range rec.Result().Header.Values(name) {
			if name == "Content-Type" && v == "application/json" {
				continue
			}
			out = append(out, "< "+name+": "+p.hide(v))
		}
	}
	return strings.Join(append(out, p.hide(body(rec))), "\n")
}

func (p *player) request(t *testing.T, lines []string) *http.Request {
	method, path, _ := strings.Cut(p.reveal(lines[0]), " ")
	rest := lines[1:]
	header := http.Header{}
	for len(rest) > 0 {
		name, value, ok := strings.Cut(rest[0], ": ")
		if !ok || strings.ContainsAny(name, "{[\" ") || name == "apiVersion" || name == "kind" {
			break
		}
		header.Add(name, value)
		rest = rest[1:]
	}
	content := p.reveal(strings.Join(rest, "\n"))
	if n, ok := strings.CutPrefix(content, "REPEAT "); ok {
		var count int
		fmt.Sscan(n, &count)
		content = strings.Repeat("x", count)
	}
	limit := 10 * time.Second
	if strings.Contains(path, "watch") {
		limit = 200 * time.Millisecond // nothing else ends a watch
	}
	ctx, cancel := context.WithTimeout(auth.WithLocalUser(context.Background(), apiservertest.Admin), limit)
	t.Cleanup(cancel)
	req := httptest.NewRequest(method, path, strings.NewReader(content)).WithContext(ctx)
	req.Header = header
	if content != "" && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	return req
}

// body shows a response, JSON with its parts on lines of their own.
func body(rec *httptest.ResponseRecorder) string {
	b := rec.Body.Bytes()
	if strings.Contains(rec.Header().Get("Content-Type"), "protobuf") {
		return strings.TrimSuffix(fmt.Sprintf("%q", b), "\n")
	}
	var lines []string
	for line := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		lines = append(lines, indent(line))
	}
	return strings.Join(lines, "\n")
}

// indent breaks a JSON document into one line a field of its first two levels.
func indent(line []byte) string {
	var doc map[string]json.RawMessage
	if len(line) < 160 || json.Unmarshal(line, &doc) != nil {
		return string(line)
	}
	var b strings.Builder
	b.WriteString("{")
	for i, name := range slices.Sorted(mapKeys(doc)) {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n  %q:%s", name, doc[name])
	}
	b.WriteString("}")
	return b.String()
}

func mapKeys(m map[string]json.RawMessage) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

var (
	uidPattern  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	namePattern = regexp.MustCompile(`gen-[bcdfghjklmnpqrstvwxz2456789]{5}\b`)
)

func (p *player) hide(text string) string {
	place := func(known map[string]string, prefix string) func(string) string {
		return func(v string) string {
			if known[v] == "" {
				known[v] = fmt.Sprintf("%s-%d", prefix, len(known)+1)
			}
			return known[v]
		}
	}
	text = uidPattern.ReplaceAllStringFunc(text, place(p.uids, "UID"))
	return namePattern.ReplaceAllStringFunc(text, place(p.names, "GENERATED"))
}

func (p *player) reveal(text string) string {
	for _, known := range []map[string]string{p.uids, p.names} {
		for v, placeholder := range known {
			text = strings.ReplaceAll(text, placeholder, v)
		}
	}
	return text
}
