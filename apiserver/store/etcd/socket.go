package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
)

// serveSocket serves etcd's API on a unix socket that only the process's own user can open.
func serveSocket(path string, server *etcdserver.EtcdServer, log *slog.Logger) (stop func(), err error) {
	l, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("etcd socket: %w", err)
	}
	s := v3rpc.Server(server, nil, nil)
	go func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			log.Error("etcd socket failed", "error", err)
		}
	}()
	return func() {
		s.Stop()
		os.Remove(path)
	}, nil
}

// listenPrivate listens on a socket of mode 0600, which takes the place of one left behind. It is made in a
// directory of its own first, so that nobody can open it before its mode is set.
func listenPrivate(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	temp := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(temp, 0o600); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
