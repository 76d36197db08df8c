package nodeapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// TestRefusals: what kubectl shows where there is nothing to exec in.
func TestRefusals(t *testing.T) {
	base := start(t, onePod(""))
	for _, c := range []struct{ path, spdy, websocket string }{
		{"/exec/default/p/other", `unable to upgrade connection: container not found ("other")`, `Internal error occurred: unable to upgrade connection: container not found ("other")`},
		{"/attach/default/p/other", `unable to upgrade connection: container not found ("other")`, `Internal error occurred: unable to upgrade connection: container not found ("other")`},
		{"/exec/default/q/c", `unable to upgrade connection: pod does not exist`, `Internal error occurred: unable to upgrade connection: pod does not exist`},
	} {
		u := *base
		u.Path, u.RawQuery = c.path, "command=true&output=1"
		for name, e := range executors(t, &u) {
			want := map[string]string{"spdy": c.spdy, "websocket": c.websocket}[name]
			if err := e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || err.Error() != want {
				t.Errorf("%s by %s: %v, want %s", c.path, name, err, want)
			}
		}
	}
	u := *base
	u.Path, u.RawQuery = "/attach/default/p/c", "input=1"
	for name, e := range executors(t, &u) {
		in, _ := io.Pipe()
		err := e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: in})
		if err == nil || !strings.Contains(err.Error(), "error attaching to container: no output") {
			t.Errorf("attach by %s: %v", name, err)
		}
	}
}

// TestOldWebSockets: the subprotocols that browsers and older clients speak.
func TestOldWebSockets(t *testing.T) {
	base := start(t, onePod(""))
	for _, protocol := range []string{"", "channel.k8s.io", "v4.channel.k8s.io", "base64.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"} {
		out, status := oldWebSocket(t, "ws://"+base.Host+"/exec/default/p/c?command=both&output=1&error=1", protocol)
		if out[1] != "out" || out[2] != "err" {
			t.Errorf("%q: output %q", protocol, out)
		}
		if v4 := strings.HasPrefix(protocol, "v"); v4 != strings.Contains(status, `"status":"Success"`) {
			t.Errorf("%q: status %q", protocol, status)
		}
		_, status = oldWebSocket(t, "ws://"+base.Host+"/exec/default/p/c?command=exit&command=3&output=1", protocol)
		if !strings.Contains(status, "3") {
			t.Errorf("%q: status of an exit code: %q", protocol, status)
		}
	}
}

// oldWebSocket reads all channels to the end.
func oldWebSocket(t *testing.T, url, protocol string) (out map[byte]string, status string) {
	t.Helper()
	d := websocket.Dialer{}
	if protocol != "" {
		d.Subprotocols = []string{protocol}
	}
	conn, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatalf("%q: %v", protocol, err)
	}
	defer conn.Close()
	if conn.Subprotocol() != protocol {
		t.Errorf("%q became %q", protocol, conn.Subprotocol())
	}
	out = map[byte]string{}
	for {
		_, m, err := conn.ReadMessage()
		if err != nil {
			return out, out[3]
		}
		channel, data := m[0], m[1:]
		if strings.Contains(protocol, "base64") {
			channel -= '0'
			if data, err = base64.StdEncoding.DecodeString(string(data)); err != nil {
				t.Fatal(err)
			}
		}
		out[channel] += string(data)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestClosedPort: a port that nobody listens on is an error of that connection alone.
func TestClosedPort(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0") // listens in one family only
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "six")
			c.Close()
		}
	}()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().(*net.TCPAddr).Port
	closed.Close()
	base := start(t, onePod(""))
	base.Path = "/portForward/default/p"
	transport, upgrade, err := spdy.RoundTripperFor(&rest.Config{Host: base.Host})
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrade, &http.Client{Transport: transport}, http.MethodPost, base)
	conn, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil || protocol != portforward.PortForwardProtocolV1Name {
		t.Fatal(protocol, err)
	}
	defer conn.Close()
	request := func(id string, port int) (data, failure string) {
		header := http.Header{} // Set brings the names into one form
		header.Set(corev1.StreamType, corev1.StreamTypeError)
		header.Set(corev1.PortHeader, fmt.Sprint(port))
		header.Set(corev1.PortForwardRequestIDHeader, id)
		failures, err := conn.CreateStream(header.Clone())
		if err != nil {
			t.Fatal(err)
		}
		failures.Close()
		header.Set(corev1.StreamType, corev1.StreamTypeData)
		stream, err := conn.CreateStream(header.Clone())
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 1024)
		n, _ := failures.Read(first) // an error comes in one piece; without one this is the end
		if n > 0 {
			return "", string(first[:n])
		}
		got, _ := io.ReadAll(stream)
		return string(got), ""
	}
	_, failure := request("0", nobody)
	if want := fmt.Sprintf("error forwarding port %d to pod p, uid u: failed to connect to localhost:%d inside namespace of pod p", nobody, nobody); !strings.HasPrefix(failure, want) ||
		!strings.Contains(failure, "connection refused") {
		t.Errorf("error %q", failure)
	}
	if data, failure := request("1", l.Addr().(*net.TCPAddr).Port); data != "six" || failure != "" {
		t.Errorf("after that: %q, %q", data, failure)
	}
}

// TestWhyThereIsNoLog has the kubelet's words.
func TestWhyThereIsNoLog(t *testing.T) {
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "at length"}}
	}
	pod := &corev1.Pod{}
	pod.Name = "p"
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: waiting("CreateContainerConfigError")}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "pull", State: waiting("ErrImagePull")}, {Name: "back", State: waiting("ImagePullBackOff")},
		{Name: "later", State: waiting("PodInitializing")}, {Name: "again", State: waiting("CrashLoopBackOff")}, {Name: "once"}}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debug", State: waiting("ContainerCreating")}}
	known := runtime.Pod{Containers: []runtime.Container{
		{Name: "again", Attempt: 1, State: runtime.StateExited, ID: "again-1"}, {Name: "again", Attempt: 2, State: runtime.StateExited, ID: "again-2"},
		{Name: "once", State: runtime.StateExited, ID: "once-0"}, {Name: "starting", Attempt: 3, State: runtime.StateExited, ID: "starting-3"},
		{Name: "starting", Attempt: 4, State: runtime.StateCreated}, {Name: "pull", State: runtime.StateCreated}}}
	for _, c := range []struct {
		name     string
		previous bool
		want     string
	}{
		{"init", false, `container "init" in pod "p" is waiting to start: CreateContainerConfigError`},
		{"pull", false, `container "pull" in pod "p" is waiting to start: image can't be pulled`},
		{"back", false, `container "back" in pod "p" is waiting to start: trying and failing to pull image`},
		{"later", false, `container "later" in pod "p" is waiting to start: PodInitializing`},
		{"debug", false, `container "debug" in pod "p" is waiting to start: ContainerCreating`},
		{"later", true, `previous terminated container "later" in pod "p" not found`},
		{"once", false, "once-0"},
		{"once", true, `previous terminated container "once" in pod "p" not found`},
		{"again", false, "again-2"},
		{"again", true, "again-2"},
		{"starting", false, "starting-3"},
	} {
		got, err := logContainer(pod, known, c.name, c.previous)
		said := got.ID
		if err != nil {
			said = err.Error()
		}
		if said != c.want {
			t.Errorf("%s, previous %v: %s, want %s", c.name, c.previous, said, c.want)
		}
	}
}

// TestBigOutputToASlowReader: the whole output arrives, however slowly it is read.
func TestBigOutputToASlowReader(t *testing.T) {
	base := start(t, onePod(""))
	want := bytes.Repeat([]byte("0123456789abcdef"), 256<<10/16)
	for name, e := range executors(t, execURL(base, "command=cat&input=1&output=1")) {
		var got bytes.Buffer
		slow := writerFunc(func(p []byte) (int, error) { time.Sleep(time.Millisecond); return got.Write(p) })
		if err := e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: bytes.NewReader(want), Stdout: slow}); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d bytes of %d, %v", name, got.Len(), len(want), err)
		}
	}
}
