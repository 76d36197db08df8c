// Package carry makes a net.Conn of a Carry stream of the node tunnel; both of its ends use it. Its invariant: what is
// received but not yet read never exceeds Window, and the stream is always read to its end, so that a connection
// nobody reads holds up neither memory nor the other connections that share its transport.
package carry

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	pb "github.com/coracle-dev/coracle/proto/tunnel"
)

const (
	// Window is how many bytes each side may send before the other grants more: the contract's.
	Window = 256 << 10
	// grantAt is how much has to be read before more is granted, so that grants are few.
	grantAt = Window / 4
	// maxChunk is the most data that one message carries.
	maxChunk = 32 << 10
	// stalled is how long past a deadline the transport may take to send one message.
	stalled = 5 * time.Second
)

// Stream is either end's view of a Carry stream.
type Stream interface {
	Send(*pb.Chunk) error
	Recv() (*pb.Chunk, error)
}

// Conn is one byte connection. Start its Receive before using it.
type Conn struct {
	stream        Stream
	local, remote net.Addr
	end           func()
	// sending is held while a message is sent; as a channel it can be waited for with a deadline.
	sending chan struct{}

	readBy, writeBy deadline

	mu       sync.Mutex
	buffer   [][]byte
	buffered int
	read     int   // read but not granted yet
	readErr  error // what follows the buffer: io.EOF or why there is no more
	credit   int   // what may be sent
	writeErr error
	closed   bool
	readable signal
	writable signal
}

var _ net.Conn = (*Conn)(nil)

// New wraps a stream. end is called once, when Close is, and must not block: it ends the stream such that what was
// written still arrives.
func New(stream Stream, local, remote net.Addr, end func()) *Conn {
	return &Conn{stream: stream, local: local, remote: remote, end: end, credit: Window, sending: make(chan struct{}, 1)}
}

// Receive reads the stream until it ends. The stream's owner runs it in a goroutine; it never waits for readers.
func (c *Conn) Receive() {
	for {
		chunk, err := c.stream.Recv()
		if err != nil {
			c.ended(err)
			return
		}
		if err := c.deliver(chunk); err != nil {
			c.ended(err)
			_ = c.Close()
			return
		}
	}
}

func (c *Conn) deliver(chunk *pb.Chunk) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(chunk.Data); n > 0 {
		if c.readErr != nil || c.buffered+c.read+n > Window {
			return errors.New("tunnel: the peer sent more than its window")
		}
		if !c.closed {
			c.buffer = append(c.buffer, chunk.Data)
			c.buffered += n
		}
	}
	if chunk.CloseWrite && c.readErr == nil {
		c.readErr = io.EOF
	}
	if chunk.Window > 0 {
		c.credit += int(min(chunk.Window, Window))
		c.writable.wake()
	}
	c.readable.wake()
	return nil
}

// ended: the peer has closed the connection, or it broke.
func (c *Conn) ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readErr == nil {
		c.readErr = io.EOF
		if !errors.Is(err, io.EOF) {
			c.readErr = fmt.Errorf("tunnel: %w: %w", syscall.ECONNRESET, err)
		}
	}
	if c.writeErr == nil {
		c.writeErr = fmt.Errorf("tunnel: %w", syscall.EPIPE)
	}
	c.readable.wake()
	c.writable.wake()
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		n, grant, wait, err := c.tryRead(p)
		if wait == nil {
			if grant > 0 {
				c.grant(grant)
			}
			return n, err
		}
		select {
		case <-wait:
		case <-c.readBy.passed():
		}
	}
}

// tryRead reads what is there, or returns what to wait for.
func (c *Conn) tryRead(p []byte) (n, grant int, wait <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, 0, nil, net.ErrClosed
	case c.readBy.isPassed():
		return 0, 0, nil, os.ErrDeadlineExceeded
	case len(p) == 0:
		return 0, 0, nil, nil
	case c.buffered == 0 && c.readErr != nil:
		return 0, 0, nil, c.readErr
	case c.buffered == 0:
		return 0, 0, c.readable.wait(), nil
	}
	for n < len(p) && len(c.buffer) > 0 {
		k := copy(p[n:], c.buffer[0])
		n += k
		if c.buffer[0] = c.buffer[0][k:]; len(c.buffer[0]) == 0 {
			c.buffer[0] = nil
			c.buffer = c.buffer[1:]
		}
	}
	c.buffered -= n
	if c.read += n; c.read >= grantAt && c.readErr == nil {
		grant, c.read = c.read, 0
	}
	return n, grant, nil, nil
}

// grant lets the peer send more. Trouble shows when the stream is next received from.
func (c *Conn) grant(n int) {
	c.Between(func() { _ = c.stream.Send(&pb.Chunk{Window: uint32(n)}) })
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n, err := c.acquire(min(len(p)-written, maxChunk))
		if err != nil {
			return written, err
		}
		if err := c.send(&pb.Chunk{Data: p[written : written+n]}); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// acquire waits until some bytes, at most want, may be sent.
func (c *Conn) acquire(want int) (int, error) {
	for {
		c.mu.Lock()
		var err error
		switch {
		case c.closed:
			err = net.ErrClosed
		case c.writeErr != nil:
			err = c.writeErr
		case c.writeBy.isPassed():
			err = os.ErrDeadlineExceeded
		case c.credit > 0:
			n := min(want, c.credit)
			c.credit -= n
			c.mu.Unlock()
			return n, nil
		}
		if err != nil {
			c.mu.Unlock()
			return 0, err
		}
		wait := c.writable.wait()
		c.mu.Unlock()
		select {
		case <-wait:
		case <-c.writeBy.passed():
		}
	}
}

// send sends one message. It is not broken off at the deadline, for half a message cannot be taken back; but a transport
// that takes much longer than the deadline allows is given up.
func (c *Conn) send(chunk *pb.Chunk) error {
	passed := c.writeBy.passed()
	select {
	case c.sending <- struct{}{}:
	case <-passed:
		return os.ErrDeadlineExceeded
	}
	sent := make(chan struct{})
	if passed != nil {
		go c.guard(sent, passed)
	}
	err := c.stream.Send(chunk)
	close(sent)
	<-c.sending
	if err == nil {
		return nil
	}
	c.ended(err)
	return fmt.Errorf("tunnel: %w", syscall.EPIPE)
}

// guard closes a connection whose message has not been sent some time after the deadline.
func (c *Conn) guard(sent, passed <-chan struct{}) {
	select {
	case <-sent:
		return
	case <-passed:
	}
	select {
	case <-sent:
	case <-time.After(stalled):
		c.ended(os.ErrDeadlineExceeded)
		_ = c.Close()
	}
}

// CloseWrite tells the peer that nothing more will be written; reading goes on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return net.ErrClosed
	case c.writeErr != nil:
		c.mu.Unlock()
		return nil
	}
	c.writeErr = fmt.Errorf("tunnel: %w", io.ErrClosedPipe)
	c.writable.wake()
	c.mu.Unlock()
	return c.send(&pb.Chunk{CloseWrite: true})
}

// Close implements net.Conn: it closes both directions, and what was written is still delivered.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.buffer, c.buffered = nil, 0
	c.readable.wake()
	c.writable.wake()
	c.mu.Unlock()
	c.readBy.stop()
	c.writeBy.stop()
	c.end()
	return nil
}

// Between runs f while nothing is being sent: streams do not allow to be ended in the midst of a message.
func (c *Conn) Between(f func()) {
	c.sending <- struct{}{}
	defer func() { <-c.sending }()
	f()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn; it also applies to a Read that is waiting.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readBy, &c.readable, t)
}

// SetWriteDeadline implements net.Conn; it also applies to a Write that is waiting.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeBy, &c.writable, t)
}

func (c *Conn) setDeadline(d *deadline, s *signal, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	d.set(t)
	s.wake() // whoever waits looks at the new deadline
	return nil
}
