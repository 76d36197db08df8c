package nodeapi

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/vishvananda/netns"

	"github.com/coracle-dev/coracle/internal/thread"
)

// podPorts connects to ports inside a pod: at its loopback, as the pod's own processes would. An empty namespace is the host's.
type podPorts struct{ netns string }

// PortForward implements portforward.PortForwarder.
func (p podPorts) PortForward(ctx context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	conn, err := p.dial(ctx, port)
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside namespace of pod %s: %w", port, name, err)
	}
	defer conn.Close()
	fromPod := make(chan error, 1)
	go func() {
		_, err := io.Copy(stream, conn)
		fromPod <- err
	}()
	go func() {
		_, _ = io.Copy(conn, stream)
		// The client will send no more; the pod may still have much to say.
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	select {
	case err := <-fromPod:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (p podPorts) dial(ctx context.Context, port int32) (net.Conn, error) {
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if p.netns == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp4", address)
	}
	var conn net.Conn
	err := thread.Do(func() error {
		ns, err := netns.GetFromPath(p.netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}
