// Package nodeapi is the node's own HTTP API, with the kubelet's paths: logs, exec, attach, port-forward and what is used. It has no port; the API
// server reaches it through the tunnel, which has authenticated and authorised whoever asks.
package nodeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// Runtime is what is asked of the container runtime.
type Runtime interface {
	// Pod tells what is known of a pod, from memory.
	Pod(uid string) runtime.Pod
	// Running lists the containers that run now, of all pods.
	Running() []runtime.Container
	Exec(ctx context.Context, id string, cfg runtime.ExecConfig) (exitCode int, err error)
	Attach(ctx context.Context, id string, cfg runtime.AttachConfig) error
	// Follow tells how a container's log goes on: see logs.Next.
	Follow(id string) (changed <-chan struct{}, more bool)
}

// Pods are the pods of this node.
type Pods interface {
	// Pod finds one by name.
	Pod(namespace, name string) (*corev1.Pod, bool)
	Pods() []*corev1.Pod
}

// Config is what New needs.
type Config struct {
	Runtime Runtime
	Pods    Pods
	// Settings are shown at /configz, by the kubelet's names.
	Settings map[string]any
	// SystemLogs is the folder of the machine's logs; empty shows none.
	SystemLogs string
	// Stats tells what the node and its pods use; nil tells nothing.
	Stats Stats
}

// Stats answers with what the node and its pods use.
type Stats interface {
	// ServeMetrics answers /metrics, ServeResource and ServeCadvisor what is below, ServeSummary /stats/summary.
	ServeMetrics(w http.ResponseWriter, r *http.Request)
	ServeResource(w http.ResponseWriter, r *http.Request)
	ServeCadvisor(w http.ResponseWriter, r *http.Request)
	ServeProbes(w http.ResponseWriter, r *http.Request)
	ServeSummary(w http.ResponseWriter, r *http.Request)
}

// IdleTimeout is how long a stream may stay silent.
const IdleTimeout = 4 * time.Hour

// creationTimeout is how long a client may take to open all the streams it asked for.
const creationTimeout = 30 * time.Second

type api struct {
	cfg Config
	log *slog.Logger
}

// New makes the handler. The contexts of its requests are to end with their connections, also with those that it takes over: then the
// client has gone, and what was started for it ends too.
func New(cfg Config) http.Handler {
	a := &api{cfg: cfg, log: slog.With("component", "nodeapi")}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.handle(a.logs))
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", a.handle(a.exec))
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", a.handle(a.attach))
	mux.HandleFunc("/portForward/{namespace}/{pod}", a.handle(a.portForward))
	mux.HandleFunc("GET /connect/{namespace}/{pod}", a.handle(a.connectPod))
	mux.HandleFunc("GET /connect", a.handle(a.connectHost))
	a.node(mux)
	return mux
}

// plainError is an error as the kubelet answers one: a code and text. Clients show it as their own.
type plainError struct {
	code int
	text string
}

func (e *plainError) Error() string { return e.text }

// handle answers a failed request: with plain text, or with the API's Status.
func (a *api) handle(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := serve(w, r)
		if err == nil {
			return
		}
		var plain *plainError
		if errors.As(err, &plain) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(plain.code)
			_, _ = io.WriteString(w, plain.text)
			return
		}
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			status = apierrors.NewInternalError(err)
		}
		body := status.Status()
		body.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(body.Code))
		_ = json.NewEncoder(w).Encode(body)
	}
}

// pod finds the pod of a request, and what the runtime knows of it.
func (a *api) pod(r *http.Request) (*corev1.Pod, runtime.Pod, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	pod, found := a.cfg.Pods.Pod(namespace, name)
	if !found {
		return nil, runtime.Pod{}, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return pod, a.cfg.Runtime.Pod(string(pod.UID)), nil
}

// newest is the container's last attempt.
func newest(pod runtime.Pod, name string) (runtime.Container, bool) {
	var found runtime.Container
	ok := false
	for _, c := range pod.Containers {
		if c.Name == name && (!ok || c.Attempt > found.Attempt) {
			found, ok = c, true
		}
	}
	return found, ok
}

// running is the container to exec in or attach to. The errors are the kubelet's.
func (a *api) running(r *http.Request) (runtime.Container, error) {
	pod, found := a.cfg.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if !found {
		return runtime.Container{}, &plainError{http.StatusNotFound, "pod does not exist"}
	}
	name := r.PathValue("container")
	c, ok := newest(a.cfg.Runtime.Pod(string(pod.UID)), name)
	if !ok || c.State != runtime.StateRunning {
		return c, &plainError{http.StatusInternalServerError, fmt.Sprintf("container not found (%q)", name)}
	}
	return c, nil
}

func (a *api) exec(w http.ResponseWriter, r *http.Request) error {
	command := r.URL.Query()["command"]
	if len(command) == 0 {
		return apierrors.NewBadRequest("you must specify at least 1 command for the container")
	}
	c, err := a.running(r)
	return a.stream(w, r, err, streams{
		doing: "error executing command in container",
		run: func(ctx context.Context, s stdio) error {
			code, err := a.cfg.Runtime.Exec(ctx, c.ID, runtime.ExecConfig{
				Command: command, TTY: s.tty, Stdin: s.in, Stdout: s.out, Stderr: s.err, Resize: s.resize})
			if err == nil && code != 0 {
				err = exitError(code)
			}
			return err
		},
		serve: remotecommandExec(c.Name, command),
	})
}

func (a *api) attach(w http.ResponseWriter, r *http.Request) error {
	c, err := a.running(r)
	return a.stream(w, r, err, streams{
		doing: "error attaching to container",
		run: func(ctx context.Context, s stdio) error {
			return a.cfg.Runtime.Attach(ctx, c.ID, runtime.AttachConfig{Stdin: s.in, Stdout: s.out, Stderr: s.err, Resize: s.resize})
		},
		serve: remotecommandAttach(c.Name),
	})
}

// stream serves one process's streams by whichever protocol the client speaks: its own WebSocket subprotocol v5, or those that the library
// knows (SPDY, WebSocket up to v4). With refused there is no process: by v5 that is told in the stream, as upstream's API server does.
func (a *api) stream(w http.ResponseWriter, r *http.Request, refused error, s streams) error {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		return &plainError{http.StatusBadRequest, err.Error()}
	}
	if websocket.IsWebSocketUpgrade(r) && offers(r, remotecommand.StreamProtocolV5Name) {
		if refused != nil {
			s.run = func(context.Context, stdio) error {
				return apierrors.NewInternalError(fmt.Errorf("unable to upgrade connection: %w", refused))
			}
		}
		a.serveWebSocket(w, r, opts, s)
		return nil
	}
	if refused != nil {
		return refused
	}
	s.serve(w, r, opts, s.run)
	return nil
}

func (a *api) portForward(w http.ResponseWriter, r *http.Request) error {
	pod, found := a.cfg.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if !found {
		return &plainError{http.StatusNotFound, "pod does not exist"}
	}
	sandbox := a.cfg.Runtime.Pod(string(pod.UID)).Sandbox
	if sandbox == nil {
		return &plainError{http.StatusInternalServerError, fmt.Sprintf("pod not found (%q)", pod.Name+"_"+pod.Namespace)}
	}
	ports := podPorts{netns: sandbox.NetNS, gone: r.Context()}
	if websocket.IsWebSocketUpgrade(r) && offers(r, portforward.WebsocketsSPDYTunnelingPortForwardV1) {
		tunnelled, inner, end, err := tunnelSPDY(w, r)
		if err != nil {
			return nil //nolint:nilerr // the upgrader has answered
		}
		defer end()
		w, r = tunnelled, inner
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		return &plainError{http.StatusBadRequest, err.Error()}
	}
	portforward.ServePortForward(w, r, ports, pod.Name, string(pod.UID), opts, IdleTimeout, creationTimeout, portforward.SupportedProtocols)
	return nil
}

func offers(r *http.Request, protocol string) bool {
	for _, p := range websocket.Subprotocols(r) {
		if p == protocol {
			return true
		}
	}
	return false
}
