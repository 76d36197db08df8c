package nodeapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	//lint:ignore SA1019 what client-go's dialers still are
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// fakeRuntime has one pod with one running container; an exec of it copies its input or does as its command says.
type fakeRuntime struct{ pod runtime.Pod }

func (f fakeRuntime) Pod(string) runtime.Pod { return f.pod }

func (f fakeRuntime) Exec(_ context.Context, _ string, cfg runtime.ExecConfig) (int, error) {
	switch cfg.Command[0] {
	case "cat":
		_, err := io.Copy(cfg.Stdout, cfg.Stdin)
		return 0, err
	case "size":
		size := <-cfg.Resize
		_, err := fmt.Fprintf(cfg.Stdout, "%dx%d", size.Width, size.Height)
		return 0, err
	case "both":
		_, _ = io.WriteString(cfg.Stdout, "out")
		_, _ = io.WriteString(cfg.Stderr, "err")
		return 0, nil
	case "fail":
		return 0, errors.New("no such file")
	}
	return strconv.Atoi(cfg.Command[1])
}

func (f fakeRuntime) Running() []runtime.Container { return f.pod.Containers }

func (f fakeRuntime) Follow(string) (<-chan struct{}, bool) { return nil, false }

func (f fakeRuntime) Attach(_ context.Context, _ string, cfg runtime.AttachConfig) error {
	if cfg.Stdout == nil {
		return errors.New("no output")
	}
	_, err := io.WriteString(cfg.Stdout, "attached")
	return err
}

func start(t *testing.T, pod runtime.Pod) *url.URL {
	t.Helper()
	return startWith(t, fakeRuntime{pod})
}

func startWith(t *testing.T, containers Runtime) *url.URL {
	t.Helper()
	logs := t.TempDir()
	if err := os.WriteFile(filepath.Join(logs, "syslog"), []byte("it is on\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(logs, "link")); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(New(Config{
		Runtime: containers,
		Pods:    onlyP{}, Settings: map[string]any{"maxPods": 7}, SystemLogs: logs,
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

type onlyP struct{}

func (onlyP) Pod(_, name string) (*corev1.Pod, bool) {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "u"}}, name == "p"
}

func (o onlyP) Pods() []*corev1.Pod {
	pod, _ := o.Pod("default", "p")
	return []*corev1.Pod{pod}
}

func onePod(logPath string) runtime.Pod {
	return runtime.Pod{Sandbox: &runtime.Sandbox{}, Containers: []runtime.Container{
		{ID: "c1", Name: "c", Attempt: 1, State: runtime.StateRunning, LogPath: logPath, Pod: runtime.PodRef{UID: "u"}},
	}}
}

// executors are the two ways in which client-go reaches a process.
func executors(t *testing.T, u *url.URL) map[string]remotecommand.Executor {
	t.Helper()
	spdyExec, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	webSocket, err := remotecommand.NewWebSocketExecutor(&rest.Config{Host: u.Host}, http.MethodGet, u.String())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"spdy": spdyExec, "websocket": webSocket}
}

func execURL(base *url.URL, query string) *url.URL {
	u := *base
	u.Path, u.RawQuery = "/exec/default/p/c", query
	return &u
}

func TestExec(t *testing.T) {
	base := start(t, onePod(""))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	big := strings.Repeat("0123456789", 100_000)
	for name, e := range executors(t, execURL(base, "command=cat&input=1&output=1&error=1")) {
		var out bytes.Buffer
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out, Stderr: io.Discard})
		if err != nil || out.String() != big {
			t.Errorf("%s: cat gave %d bytes, %v; want %d", name, out.Len(), err, len(big))
		}
	}
	for name, e := range executors(t, execURL(base, "command=both&output=1&error=1")) {
		var out, errOut bytes.Buffer
		if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}); err != nil || out.String() != "out" || errOut.String() != "err" {
			t.Errorf("%s: %q, %q, %v", name, out.String(), errOut.String(), err)
		}
	}
	for name, e := range executors(t, execURL(base, "command=exit&command=42&output=1")) {
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 42 {
			t.Errorf("%s: exit 42 gave %v", name, err)
		}
	}
	for name, e := range executors(t, execURL(base, "command=fail&output=1")) {
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: a failing exec gave %v", name, err)
		}
	}
	for name, e := range executors(t, execURL(base, "command=size&output=1&tty=1&input=1")) {
		var out bytes.Buffer
		in, _ := io.Pipe()
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: &sizes{{Width: 80, Height: 24}}})
		if err != nil || out.String() != "80x24" {
			t.Errorf("%s: size gave %q, %v", name, out.String(), err)
		}
	}
}

type sizes []remotecommand.TerminalSize

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(*s) == 0 {
		return nil
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return &next
}

func TestAttach(t *testing.T) {
	base := start(t, onePod(""))
	base.Path, base.RawQuery = "/attach/default/p/c", "output=1"
	for name, e := range executors(t, base) {
		var out bytes.Buffer
		if err := e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "attached" {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
	}
}

func TestPortForward(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	base := start(t, onePod(""))
	base.Path = "/portForward/default/p"
	transport, upgrade, err := spdy.RoundTripperFor(&rest.Config{Host: base.Host})
	if err != nil {
		t.Fatal(err)
	}
	tunneling, err := portforward.NewSPDYOverWebsocketDialer(base, &rest.Config{Host: base.Host})
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{
		"spdy":      spdy.NewDialer(upgrade, &http.Client{Transport: transport}, http.MethodPost, base),
		"websocket": tunneling,
	} {
		stop, ready := make(chan struct{}), make(chan struct{})
		f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprint("0:", port)}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() { failed <- f.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-failed:
			t.Fatalf("%s: %v", name, err)
		}
		ports, err := f.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			c, err := net.Dial("tcp4", fmt.Sprint("127.0.0.1:", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || string(got) != "hello" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			c.Close()
		}
		close(stop)
	}
}

func TestLogsAndErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1.log")
	if err := os.WriteFile(path, []byte("2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:01Z stderr F there\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := start(t, onePod(path))
	cases := []struct {
		path string
		code int
		want string
	}{
		{"/containerLogs/default/p/c", 200, "hello\nthere\n"},
		{"/containerLogs/default/p/c?tailLines=1&timestamps=true", 200, "2026-01-01T00:00:01Z there\n"},
		{"/containerLogs/default/p/c?previous=true", 400, `previous terminated container \"c\" in pod \"p\" not found`},
		{"/containerLogs/default/p/other", 400, `container \"other\" in pod \"p\" is waiting to start: ContainerCreating`},
		{"/containerLogs/default/q/c", 404, `pods \"q\" not found`},
		{"/containerLogs/default/p/c?tailLines=x", 400, `invalid tailLines`},
		{"/exec/default/p/other?command=x&output=1", 500, `container not found ("other")`},
		{"/exec/default/p/c?command=x", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"/healthz", 200, "ok"},
		{"/healthz/ping", 200, "ok"},
		{"/pods", 200, `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"p","namespace":"default","uid":"u"}`},
		{"/runningpods/", 200, `"containers":[{"name":"c",`},
		{"/configz", 200, `{"kubeletconfig":{"maxPods":7}}`},
		{"/logs/", 200, `<a href="syslog">syslog</a>`},
		{"/logs/syslog", 200, "it is on\n"},
		{"/logs/link", 500, ""}, // leads out of the folder
		{"/logs/../nodeapi.go", 404, ""},
		{"/logs/?query=kubelet", 403, "node log query is not enabled"},
		{"/checkpoint/default/p/c", 404, ""},
	}
	for _, c := range cases {
		resp, err := http.Get(base.String() + c.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.code || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: %d %s; want %d with %s", c.path, resp.StatusCode, body, c.code, c.want)
		}
	}
}
