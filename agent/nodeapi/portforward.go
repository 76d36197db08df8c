package nodeapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// podPorts connects to ports inside a pod: at its loopback, as the pod's own processes would. An empty namespace is the host's.
type podPorts struct {
	netns string
	// gone ends when the client has gone; the library does not always tell.
	gone context.Context
}

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
	case <-p.gone.Done():
		return nil
	}
}

// dial tries both families: what listens may know only one of them.
func (p podPorts) dial(ctx context.Context, port int32) (net.Conn, error) {
	conn, err := dialIn(ctx, p.netns, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)))
	if err == nil {
		return conn, nil
	}
	if conn, err6 := dialIn(ctx, p.netns, netip.AddrPortFrom(netip.IPv6Loopback(), uint16(port))); err6 == nil {
		return conn, nil
	}
	return nil, err
}
