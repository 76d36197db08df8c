package announce

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// socket sends and receives the frames of one EtherType on one link, before the kernel's packet filter sees them.
type socket struct {
	file     *os.File
	conn     syscall.RawConn
	link     int
	protocol uint16
}

func openSocket(link int, protocol uint16) (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // nothing is received before it is bound
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(protocol), Ifindex: link}); err != nil {
		return nil, fmt.Errorf("packet socket: %w", closeAfter(fd, err))
	}
	s := &socket{file: os.NewFile(uintptr(fd), "packet"), link: link, protocol: protocol}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("packet socket: %w", closeAfter(fd, err))
	}
	return s, nil
}

func closeAfter(fd int, err error) error {
	_ = unix.Close(fd)
	return err
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

func (s *socket) close() { _ = s.file.Close() }

// receive waits for a frame, whose Ethernet header is left out.
func (s *socket) receive(buffer []byte) (n int, err error) {
	ended := s.conn.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buffer, 0)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if ended != nil {
		return 0, ended
	}
	return n, err
}

// send sends a frame at once; one that cannot be sent is lost, as any frame may be.
func (s *socket) send(to net.HardwareAddr, data []byte) error {
	addr := &unix.SockaddrLinklayer{Protocol: bigEndian(s.protocol), Ifindex: s.link, Halen: uint8(len(to))}
	copy(addr.Addr[:], to)
	var err error
	ended := s.conn.Control(func(fd uintptr) { err = unix.Sendto(int(fd), data, unix.MSG_DONTWAIT, addr) })
	if ended != nil {
		return ended
	}
	return err
}

// filter lets the kernel keep what is not wanted.
func (s *socket) filter(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	ended := s.conn.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog)
	})
	if ended != nil {
		return ended
	}
	return err
}
