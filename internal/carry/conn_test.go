package carry

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	pb "github.com/coracle-dev/coracle/proto/tunnel"
)

// pipe is one direction of an in-memory stream. Like a transport it takes a few messages before it blocks.
type pipe struct {
	chunks chan *pb.Chunk
	ended  chan struct{}
	once   sync.Once
}

func (p *pipe) end() { p.once.Do(func() { close(p.ended) }) }

type half struct{ out, in *pipe }

func (h half) Send(c *pb.Chunk) error {
	dup := &pb.Chunk{Data: bytes.Clone(c.Data), CloseWrite: c.CloseWrite, Window: c.Window} // as if encoded
	select {
	case <-h.out.ended:
		return io.EOF
	default:
	}
	select {
	case h.out.chunks <- dup:
		return nil
	case <-h.out.ended:
		return io.EOF
	}
}

func (h half) Recv() (*pb.Chunk, error) {
	select {
	case c := <-h.in.chunks:
		return c, nil
	default:
	}
	select {
	case c := <-h.in.chunks:
		return c, nil
	case <-h.in.ended:
		select {
		case c := <-h.in.chunks:
			return c, nil
		default:
			return nil, io.EOF
		}
	}
}

// pair makes two connected ends. Closing one ends the stream in both directions, as the server's end does.
func pair() (a, b *Conn, stop func()) {
	ab := &pipe{chunks: make(chan *pb.Chunk, 4), ended: make(chan struct{})}
	ba := &pipe{chunks: make(chan *pb.Chunk, 4), ended: make(chan struct{})}
	a = New(half{ab, ba}, Addr("a"), Addr("b"), ab.end)
	b = New(half{ba, ab}, Addr("b"), Addr("a"), ba.end)
	var wg sync.WaitGroup
	wg.Go(a.Receive)
	wg.Go(b.Receive)
	return a, b, func() {
		_, _ = a.Close(), b.Close()
		wg.Wait()
	}
}

func TestConformsToNetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b, stop := pair()
		return a, b, stop, nil
	})
}

func TestWindowBoundsWhatIsBuffered(t *testing.T) {
	a, b, stop := pair()
	defer stop()
	wrote := make(chan int, 1)
	go func() {
		n, _ := a.Write(make([]byte, 4*Window))
		wrote <- n
	}()
	time.Sleep(50 * time.Millisecond)
	b.mu.Lock()
	buffered := b.buffered
	b.mu.Unlock()
	if buffered != Window {
		t.Errorf("%d bytes buffered, want %d", buffered, Window)
	}
	if n, err := io.CopyN(io.Discard, b, 4*Window); err != nil {
		t.Error(n, err)
	}
	if n := <-wrote; n != 4*Window {
		t.Error(n)
	}
}

func TestHalfClose(t *testing.T) {
	a, b, stop := pair()
	defer stop()
	go func() {
		_, _ = a.Write([]byte("question"))
		_ = a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "question" {
		t.Fatal(string(got), err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Error("write after CloseWrite:", err)
	}
	go func() {
		_, _ = b.Write([]byte("answer"))
		_ = b.Close()
	}()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Error(string(got), err)
	}
}

func TestClosedByThePeer(t *testing.T) {
	a, b, stop := pair()
	defer stop()
	if _, err := a.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
		t.Error(string(got), err)
	}
	deadline := time.Now().Add(time.Second)
	for {
		_, err := b.Write([]byte("x"))
		if errors.Is(err, syscall.EPIPE) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestPeerThatIgnoresTheWindow(t *testing.T) {
	in := &pipe{chunks: make(chan *pb.Chunk, 20), ended: make(chan struct{})}
	c := New(half{&pipe{chunks: make(chan *pb.Chunk, 4), ended: make(chan struct{})}, in}, Addr("a"), Addr("b"), func() {})
	for range Window/maxChunk + 1 {
		in.chunks <- &pb.Chunk{Data: make([]byte, maxChunk)}
	}
	c.Receive() // returns: the connection is over
	if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
}
