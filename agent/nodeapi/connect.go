package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/vishvananda/netns"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coracle-dev/coracle/internal/thread"
)

// connectTimeout bounds how long a pod may take to accept a connection.
const connectTimeout = 10 * time.Second

// connectPod switches the connection to one with a port of a pod, for the API server's proxies: ?ip= is one of the pod's addresses.
// It is dialled from within the pod, so that nothing outside of the node is reached this way.
func (a *api) connectPod(w http.ResponseWriter, r *http.Request) error {
	pod, known, err := a.pod(r)
	if err != nil {
		return err
	}
	if known.Sandbox == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s is not running", pod.Name))
	}
	return connect(w, r, known.Sandbox.NetNS)
}

// connectHost is connectPod for a port of the node itself.
func (a *api) connectHost(w http.ResponseWriter, r *http.Request) error { return connect(w, r, "") }

func connect(w http.ResponseWriter, r *http.Request, namespace string) error {
	if r.Header.Get("Upgrade") != "tcp" {
		return apierrors.NewBadRequest("Upgrade: tcp required")
	}
	target, err := connectTarget(r)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	there, err := dialIn(r.Context(), namespace, target)
	if err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer here.Close()
	if _, err := io.WriteString(here, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
		return nil //nolint:nilerr // the API server has gone
	}
	splice(there, buffered.Reader, here)
	return nil
}

func connectTarget(r *http.Request) (netip.AddrPort, error) {
	q := r.URL.Query()
	ip, err := netip.ParseAddr(q.Get("ip"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("address %s not allowed", ip)
	}
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err == nil && port == 0 {
		err = errors.New("port 0 not allowed")
	}
	return netip.AddrPortFrom(ip, uint16(port)), err
}

// dialIn connects from a network namespace; empty is the host's.
func dialIn(ctx context.Context, namespace string, target netip.AddrPort) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	dial := func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", target.String())
		return err
	}
	if namespace == "" {
		return conn, dial()
	}
	err = thread.Do(func() error {
		ns, err := netns.GetFromPath(namespace)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return dial()
	})
	return conn, err
}

// splice copies both ways until both have ended. in holds what was read of here already.
func splice(there net.Conn, in io.Reader, here net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(there, in)
		if half, ok := there.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(here, there)
	here.Close()
	there.Close()
	<-done
}
