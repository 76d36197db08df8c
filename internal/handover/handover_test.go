package handover

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newQueue(t *testing.T) *Queue {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[0]); _ = unix.Close(fds[1]) })
	t.Setenv(Env, fmt.Sprintf("%d,%d", fds[0], fds[1]))
	q := FromEnvironment()
	if q == nil || os.Getenv(Env) != "" {
		t.Fatal("no queue, or one that children get")
	}
	return q
}

// TestHandover: what arrives while nobody serves is there for the next process, which finds the same sockets, as does the one after it.
func TestHandover(t *testing.T) {
	q := newQueue(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	udp, tcp, err := q.Listeners(address)
	if err != nil {
		t.Fatal(err)
	}
	// Its readers wake when it is closed: that it is kept has not made it a blocking one.
	ended := make(chan error, 1)
	go func() {
		_, _, err := udp.ReadFrom(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond)
	_ = udp.Close()
	_ = tcp.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("a reader of a closed socket does not end")
	}
	client, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for life := range 3 {
		want := fmt.Sprint("question ", life)
		if _, err := client.Write([]byte(want)); err != nil {
			t.Fatalf("life %d: refused: %v", life, err)
		}
		udp, tcp, err := q.Listeners(address)
		if err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		_ = udp.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 64)
		if n, _, err := udp.ReadFrom(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("life %d: read %q, %v", life, buf[:n], err)
		}
		_ = udp.Close()
		_ = tcp.Close()
	}
	// Those of another address are given up.
	if udp, tcp, err = q.Listeners("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_ = udp.Close()
	_ = tcp.Close()
	again, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatalf("a socket that nobody asks for any more is still open: %v", err)
	}
	_ = again.Close()
}

// TestWithoutSupervisor: there is nothing kept, and nothing fails.
func TestWithoutSupervisor(t *testing.T) {
	t.Setenv(Env, "")
	q := FromEnvironment()
	if q != nil {
		t.Fatal("a queue from nowhere")
	}
	udp, tcp, err := q.Listeners("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = udp.Close()
	_ = tcp.Close()
	for _, text := range []string{"x", "3", ","} {
		t.Setenv(Env, text)
		if FromEnvironment() != nil {
			t.Errorf("%q is a queue", text)
		}
	}
}
