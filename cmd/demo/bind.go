package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Local ports of clients, as the kernel takes them.
const firstPort, ports = 32768, 28232

// portSequence gives local ports, none twice within four minutes as long as all programs of a network take no more than 100 a second: kernels
// on the way remember connections that failed, and where they led.
type portSequence struct {
	mu   sync.Mutex
	last int64
}

func (s *portSequence) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last+1, time.Now().UnixMilli()/10)
	return firstPort + int(s.last%ports)
}

// bindFirst takes a local port before the connection is tried, and notes it.
func (s *portSequence) bindFirst(local *string) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, network, _ string, c syscall.RawConn) error {
		if strings.HasSuffix(network, "6") {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) {
			for range ports {
				port := s.next()
				*local = fmt.Sprintf("%s:%d", net.IPv4zero, port)
				if failed = syscall.Bind(int(fd), &syscall.SockaddrInet4{Port: port}); failed != syscall.EADDRINUSE {
					return
				}
			}
		})
		if err != nil {
			return err
		}
		return failed
	}
}
