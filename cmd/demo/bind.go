package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// bindFirst takes a local port before the connection is tried, and notes it.
func bindFirst(local *string) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, network, _ string, c syscall.RawConn) error {
		if strings.HasSuffix(network, "6") {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) {
			if failed = syscall.Bind(int(fd), &syscall.SockaddrInet4{}); failed != nil {
				return
			}
			var name syscall.Sockaddr
			if name, failed = syscall.Getsockname(int(fd)); failed == nil {
				if v4, ok := name.(*syscall.SockaddrInet4); ok {
					*local = fmt.Sprintf("%s:%d", net.IP(v4.Addr[:]), v4.Port)
				}
			}
		})
		if err != nil {
			return err
		}
		return failed
	}
}
