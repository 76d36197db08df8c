package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func runShell(t *testing.T, text, stdin string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	code = shell(env{strings.NewReader(stdin), &b, &b}, []string{"-c", text})
	return b.String(), code
}

func TestShell(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		text, want string
		code       int
	}{
		{"echo a; echo b", "a\nb\n", 0},
		{"true && echo y || echo n; false && echo y || echo n", "y\nn\n", 0},
		{"exit 3; echo never", "", 3},
		{"false; echo $?", "1\n", 0},
		{"X=1; echo \"$X ${X}2\" '$X' \\$X", "1 12 $X $X\n", 0},
		{"for i in 1 2 3; do echo $i; done | cat", "1\n2\n3\n", 0},
		{"if [ a = b ]; then echo 1; elif test 2 -gt 1; then echo 2; else echo 3; fi", "2\n", 0},
		{"I=x; while [ $I != xxx ]; do I=${I}x; echo $I; done", "xx\nxxx\n", 0},
		{"until true; do echo no; done; echo end", "end\n", 0},
		{"echo hi > " + dir + "/f; echo ho >> " + dir + "/f; cat < " + dir + "/f", "hi\nho\n", 0},
		{"set -e; false; echo never", "", 1},
		{"nonesuch", "sh: nonesuch: not found\n", 127},
		{"echo err >&2 2>/dev/null", "err\n", 0},
		{"# comment\necho x # y\n", "x\n", 0},
		{"echo 'a", "sh: unexpected end of text\n", 2},
		{"echo a &", "sh: background commands are not supported\n", 2},
		{"for i in a; do echo $i", "sh: unexpected end of text\n", 2},
	} {
		if out, code := runShell(t, c.text, ""); out != c.want || code != c.code {
			t.Errorf("%s: %q %d, want %q %d", c.text, out, code, c.want, c.code)
		}
	}
	var b bytes.Buffer
	if code := shell(env{strings.NewReader("echo 1\nif true\nthen echo 2\nfi\nexit 4\n"), &b, &b}, nil); code != 4 || b.String() != "1\n2\n" {
		t.Errorf("from standard input: %q %d", b.String(), code)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("if [ a ]; then x | y; else for i in 1; do z; done; fi > f")
	f.Add("'\"\\ ${")
	f.Fuzz(func(_ *testing.T, text string) {
		list, err := parse(text)
		if err != nil {
			return
		}
		s := &sh{vars: map[string]string{}}
		for _, n := range list {
			for _, c := range n.pipe {
				s.expand(c.words)
			}
		}
	})
}

func TestTarThereAndBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "d", "e"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "d", "e", "f"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("e/f", filepath.Join(from, "d", "l")); err != nil {
		t.Fatal(err)
	}
	var archive, errs bytes.Buffer
	if code := tarMain(env{nil, &archive, &errs}, []string{"cf", "-", "-C", from, "d"}); code != 0 {
		t.Fatal(errs.String())
	}
	if code := tarMain(env{&archive, io.Discard, &errs}, []string{"-xmf", "-", "-C", to}); code != 0 {
		t.Fatal(errs.String())
	}
	data, err := os.ReadFile(filepath.Join(to, "d", "l"))
	if err != nil || string(data) != "content" {
		t.Errorf("%q %v", data, err)
	}
}

func TestKV(t *testing.T) {
	s := &kv{m: map[string]string{}, lists: map[string][]string{}}
	for _, c := range [][2]string{{"SET a b c", "OK"}, {"get a", "b c"}, {"DEL a", "OK"}, {"GET a", "NONE"}, {"PING", "PONG"},
		{"PUSH q one", "OK"}, {"PUSH q two", "OK"}, {"POP q", "one"}, {"POP q", "two"}, {"POP q", "NONE"}} {
		if got := s.do(c[0]); got != c[1] {
			t.Errorf("%s: %s", c[0], got)
		}
	}
	if got := s.do("FOO x"); !strings.HasPrefix(got, "ERR ") {
		t.Error(got)
	}
}

func TestServer(t *testing.T) {
	var logged bytes.Buffer
	s := &site{log: log.New(&logged, "", 0), exit: make(chan int, 1)}
	srv := &server{handle: s.answer}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	go func() { _ = srv.listenAndServe(addr) }()
	fetch := func(path string) (int, string) {
		t.Helper()
		var code int
		var body io.ReadCloser
		var err error
		for range 100 {
			if code, body, err = get("http://"+addr+path, time.Second); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		data, _ := io.ReadAll(body)
		return code, string(data)
	}
	t.Setenv("VERSION", "v9")
	if code, body := fetch("/"); code != 200 || !strings.HasPrefix(body, "Hello from demo v9 on ") {
		t.Errorf("%d %q", code, body)
	}
	if code, body := fetch("/json"); code != 200 || !strings.Contains(body, `"Version":"v9"`) {
		t.Errorf("%d %q", code, body)
	}
	fetch("/fail?for=1m")
	if code, _ := fetch("/healthz"); code != 503 {
		t.Errorf("health after fail: %d", code)
	}
	fetch("/recover")
	if code, _ := fetch("/healthz"); code != 200 {
		t.Errorf("health after recover: %d", code)
	}
	if code, body := fetch("/busy?for=5ms"); code != 200 || body != "worked 5ms\n" {
		t.Errorf("%d %q", code, body)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	if work(20 * time.Millisecond); threadTime()-before < 20*time.Millisecond {
		t.Error("work was done in no time")
	}
	if code, _ := fetch("/none"); code != 404 {
		t.Errorf("missing page: %d", code)
	}
	// Two requests on one connection, then a drain that lets the running one finish.
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 2 {
		_, _ = io.WriteString(conn, "POST /log?line=hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
		if a, err := readAnswer(in); err != nil || a.code != 200 {
			t.Fatal(a.code, err)
		} else if data, _ := io.ReadAll(a.body); string(data) != "logged\n" {
			t.Errorf("%q", data)
		}
	}
	_, _ = io.WriteString(conn, "GET /slow?for=100ms HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(30 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := srv.shutdown(ctx); err != nil {
		t.Error(err)
	}
	if a, err := readAnswer(in); err != nil || a.code != 200 || !a.last {
		t.Error(a, err)
	} else if data, _ := io.ReadAll(a.body); string(data) != "slept 100ms\n" {
		t.Errorf("%q", data)
	}
	if !strings.Contains(logged.String(), "hello") {
		t.Errorf("log: %s", logged.String())
	}
}

func TestAsk(t *testing.T) {
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	go func() { _ = udpServe(datagrams) }()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := web.Addr().String()
	web.Close()
	s := &site{log: log.New(io.Discard, "", 0), exit: make(chan int, 1)}
	srv := &server{handle: s.answer}
	go func() { _ = srv.listenAndServe(address) }()
	host, _ := os.Hostname()
	var out, errs bytes.Buffer
	for range 100 {
		out.Reset()
		if ask(env{nil, &out, io.Discard}, []string{"tcp://" + address}) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !strings.HasSuffix(out.String(), " -> "+address+"\n") {
		t.Fatalf("it cannot be reached: %q", out.String())
	}
	udp := "udp://" + datagrams.LocalAddr().String()
	for url, want := range map[string]string{
		udp: host, udp + "/echo a b": "a b", udp + "/what": "unknown: ask for hostname, clientip or echo TEXT",
		"http://" + address + "/hostname": host, address + "/ask?url=" + udp + "/hostname": host,
	} {
		out.Reset()
		if code := ask(env{nil, &out, &errs}, []string{url}); code != 0 || strings.TrimSpace(out.String()) != want {
			t.Errorf("%s: %d %q %s, want %q", url, code, out.String(), errs.String(), want)
		}
	}
	if code := ask(env{nil, &out, &errs}, []string{"http://" + address + "/none"}); code != 1 || !strings.Contains(errs.String(), "404") {
		t.Errorf("a missing page: %d %q", code, errs.String())
	}
}

// TestLoad counts who answers, with connections that are kept and such that are not, and tells of failures with their port.
func TestLoad(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var out bytes.Buffer
	if code := load(env{nil, &out, io.Discard}, []string{"-for", "50ms", "-every", "20ms", "http://" + address + "/hostname"}); code != 0 {
		t.Fatal(code)
	}
	var m miss
	if err := json.NewDecoder(&out).Decode(&m); err != nil || !strings.Contains(m.Error, "refused") || !strings.HasPrefix(m.Local, "0.0.0.0:") {
		t.Errorf("nobody there: %+v %v", m, err)
	}
	s := &site{log: log.New(io.Discard, "", 0), exit: make(chan int, 1)}
	srv := &server{handle: s.answer}
	go func() { _ = srv.listenAndServe(address) }()
	for ask(env{nil, io.Discard, io.Discard}, []string{"tcp://" + address}) != 0 {
		time.Sleep(10 * time.Millisecond)
	}
	host, _ := os.Hostname()
	for _, args := range [][]string{{"-clients", "3"}, {"-keep"}} {
		out.Reset()
		load(env{nil, &out, io.Discard}, append(args, "-for", "300ms", "-every", "10ms", "http://"+address+"/hostname"))
		var got tally
		if err := json.NewDecoder(&out).Decode(&got); err != nil || got.Failed != 0 || got.Asked == 0 || got.Answers[host] != got.Asked {
			t.Errorf("%v: %+v %v", args, got, err)
		}
	}
}
