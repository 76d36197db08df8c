package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// For gives the same cluster for a subtest: failures are that test's.
func (c *Cluster) For(t testing.TB) *Cluster {
	copied := *c
	copied.t = t
	return &copied
}

// Dial opens a connection from inside the cluster's network namespace; it stays there wherever it is used.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := c.inside(func() (err error) {
		// No fast fallback: it dials on other threads, which are not inside.
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the cluster's network namespace.
func (c *Cluster) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := c.inside(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket takes datagrams inside the cluster's network namespace.
func (c *Cluster) ListenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := c.inside(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// inside runs do on a thread that is in the cluster's network namespace.
func (c *Cluster) inside(do func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // not unlocked unless it is back where it was: else the thread ends with the goroutine
		here, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer here.Close()
		there, err := netns.GetFromPath(c.NetNS)
		if err == nil {
			err = netns.Set(there)
			there.Close()
		}
		if err == nil {
			err = do()
		}
		if netns.Set(here) == nil {
			goruntime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// HTTP gives a client of services inside the cluster; each request is a connection of its own, unless keepAlive.
func (c *Cluster) HTTP(timeout time.Duration, keepAlive bool) *http.Client {
	return &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: !keepAlive},
	}
}

// REST leads to the API server as the admin.
func (c *Cluster) REST() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("admin's kubeconfig: %w", err)
	}
	config.Dial = c.Dial
	config.QPS, config.Burst = -1, -1
	return config, nil
}

// Client is the admin's client.
func (c *Cluster) Client() kubernetes.Interface {
	c.t.Helper()
	config, err := c.REST()
	if err != nil {
		c.fatalf("%v", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		c.fatalf("%v", err)
	}
	return client
}
