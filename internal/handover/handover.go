// Package handover keeps sockets open while the process that serves them is restarted.
//
// The sockets wait in a message in the queue of a pair of Unix sockets, of which the supervisor holds both ends (SCM_RIGHTS; unix(7)). The process looks
// at the message without taking it, and so the sockets are there for the next one however it ends; what arrives at them meanwhile waits
// in the kernel. When the supervisor ends, so does the queue, and all is closed.
package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Env names the environment variable by which the supervisor tells the queue's two descriptors, as "3,4".
const Env = "CORACLE_HANDOVER"

// maxSockets is how many may be kept.
const maxSockets = 8

// Queue keeps sockets; nil keeps none.
type Queue struct{ in, out int }

// FromEnvironment is the queue that the supervisor gave this process; nil without one. Children of this process do not get it.
func FromEnvironment() *Queue {
	text := os.Getenv(Env)
	if text == "" {
		return nil
	}
	_ = os.Unsetenv(Env)
	var q Queue
	if n, err := fmt.Sscanf(text, "%d,%d", &q.in, &q.out); err != nil || n != 2 {
		return nil
	}
	unix.CloseOnExec(q.in)
	unix.CloseOnExec(q.out)
	return &q
}

// Keep leaves sockets to the next process, in place of those that were left before.
func (q *Queue) Keep(sockets ...syscall.Conn) error {
	if q == nil {
		return nil
	}
	if len(sockets) > maxSockets {
		return fmt.Errorf("%d sockets are more than %d", len(sockets), maxSockets)
	}
	for { // what was left before
		_, _, found, err := q.receive(unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return err
		}
		closeAll(found)
	}
	fds := make([]int, 0, len(sockets))
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, s := range sockets {
		fd, err := duplicate(s)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return unix.Sendmsg(q.in, []byte(strconv.Itoa(len(fds))), unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT)
}

// duplicate gives a descriptor of a socket. The way by File().Fd() would make the socket a blocking one, whose readers no Close wakes.
func duplicate(s syscall.Conn) (int, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fd int
	var failed error
	if err := raw.Control(func(original uintptr) { fd, failed = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("fcntl", failed)
}

// Kept are the sockets that the process before left; none is no error. They stay in the queue as well.
func (q *Queue) Kept() ([]*os.File, error) {
	if q == nil {
		return nil, nil
	}
	text, count, found, err := q.receive(unix.MSG_PEEK | unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) {
		return nil, nil
	}
	if err == nil && count != len(found) {
		err = fmt.Errorf("%q came with %d sockets", text, len(found))
	}
	if err != nil {
		closeAll(found)
		return nil, err
	}
	return found, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func (q *Queue) receive(flags int) (text string, count int, found []*os.File, err error) {
	data, control := make([]byte, 16), make([]byte, unix.CmsgSpace(4*maxSockets))
	n, size, _, _, err := unix.Recvmsg(q.out, data, control, flags|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", 0, nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err != nil {
		return "", 0, nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return "", 0, found, err
		}
		for _, fd := range fds {
			found = append(found, os.NewFile(uintptr(fd), "kept"))
		}
	}
	text = string(data[:n])
	count, err = strconv.Atoi(text)
	return text, count, found, err
}

// Listeners are a UDP socket and a TCP listener on an address: those kept, if they are of the address, or new ones, which then are kept.
func (q *Queue) Listeners(address string) (*net.UDPConn, *net.TCPListener, error) {
	if udp, tcp := q.keptListeners(address); udp != nil {
		return udp, tcp, nil
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, nil, err
	}
	udp, _ := packets.(*net.UDPConn)
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, errors.Join(err, udp.Close())
	}
	tcp, _ := streams.(*net.TCPListener)
	_ = q.Keep(udp, tcp) // without, the next process only has to make its own
	return udp, tcp, nil
}

func (q *Queue) keptListeners(address string) (*net.UDPConn, *net.TCPListener) {
	files, err := q.Kept()
	defer closeAll(files)
	if err != nil || len(files) != 2 {
		return nil, nil
	}
	packets, err := net.FilePacketConn(files[0])
	if err != nil {
		return nil, nil
	}
	streams, err := net.FileListener(files[1])
	if err != nil {
		_ = packets.Close()
		return nil, nil
	}
	udp, isUDP := packets.(*net.UDPConn)
	tcp, isTCP := streams.(*net.TCPListener)
	if !isUDP || !isTCP || udp.LocalAddr().String() != address || tcp.Addr().String() != address {
		_, _ = packets.Close(), streams.Close()
		return nil, nil
	}
	return udp, tcp
}
