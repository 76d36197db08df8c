package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/probes"
	"github.com/coracle-dev/coracle/agent/runtime"
)

func (w *worker) hookTarget(pod *v1.Pod, c *v1.Container, id string) probes.Target {
	return probes.Target{Pod: pod, Container: c, ID: id, IP: podIP(w.facts().PodIPs)}
}

func podIP(ips []string) string {
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

// postStart runs the hook once for the instance; its failure ends the container.
func (w *worker) postStart(ctx context.Context, pod *v1.Pod, act lifecycle.Action) (func(*lifecycle.State), error) {
	c := containerSpec(pod, act.Container)
	err := w.a.runHook(ctx, c.Lifecycle.PostStart, w.hookTarget(pod, c, act.ID))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	hook := lifecycle.Hook{}
	if err != nil {
		hook = lifecycle.Hook{Failed: true, Message: err.Error()}
		w.a.containerEvent(pod, c, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		w.log.Debug("postStart hook failed", "container", c.Name, "error", err)
	}
	return func(s *lifecycle.State) { s.Hooks[act.ID] = hook }, nil
}

// runHook carries out a lifecycle handler.
func (a *Agent) runHook(ctx context.Context, h *v1.LifecycleHandler, t probes.Target) error {
	switch {
	case h.Exec != nil:
		out, code, err := a.exec(ctx, t.ID, h.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out)
		}
		return err
	case h.HTTPGet != nil:
		r, err := probes.NewRequest(ctx, h.HTTPGet, t.Container, t.IP)
		if err != nil {
			return err
		}
		return a.httpHook(r, t)
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("invalid handler: tcpSocket, or no action, is none") // the API takes it, for old manifests
}

// httpHook sends a hook's request; any answer will do. A server without TLS is asked again without, as the kubelet does.
func (a *Agent) httpHook(r *http.Request, t probes.Target) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(r)
	if r.URL.Scheme == "https" && err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		r.URL.Scheme = "http"
		r.Header.Del("Authorization")
		if resp, err = client.Do(r); err == nil {
			a.event(t.Pod, v1.EventTypeWarning, "LifecycleHTTPFallback",
				fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", r.URL.Host))
		}
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// exec runs a command in a container and gathers its output.
func (a *Agent) exec(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, int, error) {
	out := &gather{}
	code, err := a.cfg.Containers.Exec(ctx, id, runtime.ExecConfig{Command: command, Stdout: out, Stderr: out, Timeout: timeout})
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.buf.Bytes(), code, err
}

// gather keeps the first of what is written to it.
type gather struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const gatherMax = 16 << 10

func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if left := gatherMax - g.buf.Len(); left > 0 {
		g.buf.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}
