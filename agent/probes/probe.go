// Package probes asks containers how they are: by command, HTTP, TCP or gRPC, each on its own schedule, and reports a
// verdict only when it changes.
//
// Invariant: a container instance that is watched has one goroutine for each of its probes, asleep between two
// questions; after Forget returns, no verdict for it is reported.
package probes

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Exec runs a command in a container and gives its output and exit code.
type Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, code int, err error)

const (
	maxBody   = 10 << 10
	userAgent = "kube-probe/1.37"
)

// Asker carries single questions out.
type Asker struct {
	Exec   Exec
	client *http.Client
}

// NewAsker makes an Asker. Connections are not kept: each question is a new one, as for a client of the container's.
func NewAsker(exec Exec) *Asker {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		DialContext: dialer().DialContext,
	}
	return &Asker{Exec: exec, client: &http.Client{Transport: transport, CheckRedirect: sameHost}}
}

// dialer closes without lingering, so that thousands of probes do not fill the table of closed connections.
func dialer() *net.Dialer {
	return &net.Dialer{Control: noLinger}
}

// errElsewhere marks a redirect to another host, which is not followed.
var errElsewhere = http.ErrUseLastResponse

func sameHost(r *http.Request, via []*http.Request) error {
	if r.URL.Hostname() != via[0].URL.Hostname() {
		return errElsewhere
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// Result is what one question came to.
type Result int

// The results of a question.
const (
	// Failure: the container answered that it is not well, or did not answer.
	Failure Result = iota
	Success
	// Warning is a success that is worth an event.
	Warning
	// Unknown: the question could not be asked; that counts as a failure.
	Unknown
)

// OK tells whether the container counts as well.
func (r Result) OK() bool { return r == Success || r == Warning }

// Ask asks once. The message is what an event tells of anything but Success.
func (a *Asker) Ask(ctx context.Context, p *v1.Probe, t Target) (Result, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		return a.command(ctx, p.Exec.Command, t.ID, timeout)
	case p.HTTPGet != nil:
		return a.http(ctx, p.HTTPGet, t)
	case p.TCPSocket != nil:
		return a.tcp(ctx, p.TCPSocket, t)
	case p.GRPC != nil:
		return a.grpc(ctx, p.GRPC, t, timeout)
	}
	return Unknown, fmt.Sprintf("missing probe handler for %s:%s", t.Pod.Namespace+"/"+t.Pod.Name, t.Container.Name)
}

func (a *Asker) command(ctx context.Context, command []string, id string, timeout time.Duration) (Result, string) {
	out, code, err := a.Exec(ctx, id, command, timeout)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout)
	case err != nil:
		return Unknown, err.Error()
	case code != 0:
		return Failure, string(bytes.TrimSuffix(clip(out), []byte("\n")))
	}
	return Success, ""
}

func clip(b []byte) []byte {
	if len(b) > maxBody {
		return b[:maxBody]
	}
	return b
}

// NewRequest is the HTTP request of a handler, to the pod's address unless it names a host.
func NewRequest(ctx context.Context, h *v1.HTTPGetAction, c *v1.Container, ip string) (*http.Request, error) {
	port, err := portNumber(h.Port, c)
	if err != nil {
		return nil, err
	}
	host := h.Host
	if host == "" {
		host = ip
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, kv := range h.HTTPHeaders {
		if strings.EqualFold(kv.Name, "Host") {
			r.Host = kv.Value
			continue
		}
		r.Header.Add(kv.Name, kv.Value)
	}
	addDefault(r.Header, "User-Agent", userAgent)
	addDefault(r.Header, "Accept", "*/*")
	return r, nil
}

// addDefault sets a header unless the handler has it; an empty one there means that none is sent.
func addDefault(h http.Header, name, value string) {
	have, ok := h[http.CanonicalHeaderKey(name)]
	switch {
	case !ok:
		h.Set(name, value)
	case len(have) > 0 && have[0] == "":
		h[http.CanonicalHeaderKey(name)] = nil
	}
}

func (a *Asker) http(ctx context.Context, h *v1.HTTPGetAction, t Target) (Result, string) {
	r, err := NewRequest(ctx, h, t.Container, t.IP)
	if err != nil {
		return Unknown, err.Error()
	}
	resp, err := a.client.Do(r)
	if err != nil {
		return Failure, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return Success, ""
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return Warning, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body))
	}
	return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)
}

func (a *Asker) tcp(ctx context.Context, s *v1.TCPSocketAction, t Target) (Result, string) {
	port, err := portNumber(s.Port, t.Container)
	if err != nil {
		return Unknown, err.Error()
	}
	host := s.Host
	if host == "" {
		host = t.IP
	}
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failure, err.Error()
	}
	_ = conn.Close()
	return Success, ""
}

func (a *Asker) grpc(ctx context.Context, g *v1.GRPCAction, t Target, timeout time.Duration) (Result, string) {
	addr := net.JoinHostPort(t.IP, strconv.Itoa(int(g.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(userAgent), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return Failure, err.Error()
	}
	defer conn.Close()
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case codes.DeadlineExceeded:
		if conn.GetState() != connectivity.Ready {
			return Failure, fmt.Sprintf("timeout: failed to connect service %q within %v", addr, timeout)
		}
		return Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
	default:
		return Failure, fmt.Sprintf("error: health rpc probe failed: %v", err)
	}
	if resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus().String())
	}
	return Success, ""
}

// portNumber resolves a port by number, or by its name among the container's ports.
func portNumber(p intstr.IntOrString, c *v1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String && n == 0 {
		for _, cp := range c.Ports {
			if cp.Name == p.StrVal {
				n = int(cp.ContainerPort)
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return n, nil
}
