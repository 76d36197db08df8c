package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/nftable"
)

// connection is one that lasts, so that what it does can be told from what others do.
type connection struct {
	*nftables.Conn
	port uint32 // the kernel's number of it
}

// open makes the connection, where there is none.
func (t *Table) open() error {
	if t.conn != nil {
		return nil
	}
	c := &connection{}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(s *netlink.Conn) (err error) {
		nftable.MakeRoom(s)
		c.port, err = portOf(s)
		return err
	}))
	if err != nil {
		return fmt.Errorf("nft: %w", err)
	}
	c.Conn = conn
	t.conn = c
	if t.watcher != nil {
		return t.watcher.ignore(c.port)
	}
	return nil
}

func portOf(s *netlink.Conn) (uint32, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var port uint32
	var failed error
	err = raw.Control(func(fd uintptr) {
		address, err := unix.Getsockname(int(fd))
		if own, ok := address.(*unix.SockaddrNetlink); ok {
			port = own.Pid
		}
		failed = err
	})
	if err != nil {
		return 0, err
	}
	return port, failed
}
