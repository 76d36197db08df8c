package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestNamesOverRestart kills the process that answers names, while they are asked for: no question is refused or lost, the answers only come
// when the process is back.
func TestNamesOverRestart(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	conn, err := c.Dial(context.Background(), "udp", "10.96.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	asker := &dns.Conn{Conn: conn}
	defer asker.Close()
	stop, done := make(chan struct{}), make(chan struct{})
	var asked atomic.Int64
	var longest time.Duration
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			took, err := ask(asker, "kubernetes.default.svc.cluster.local.")
			if err != nil {
				t.Errorf("after %d answers and %v: %v", asked.Load(), took, err)
				return
			}
			asked.Add(1)
			longest = max(longest, took)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	for range 3 {
		for _, pid := range cluster.ProcessesOf(c.Binary()) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if !bytes.Contains(line, []byte(c.Dir)) {
				continue // another test's
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		before := asked.Load()
		cluster.Eventually(t, time.Minute, func() error {
			if now := asked.Load(); now < before+20 {
				return fmt.Errorf("%d answers since the process was killed", now-before)
			}
			return nil
		})
	}
	close(stop)
	<-done
	t.Logf("%d questions, the longest waited %v for its answer", asked.Load(), longest.Round(time.Millisecond))
}

// ask waits as long as a process may take to come back on a busy machine.
func ask(conn *dns.Conn, name string) (time.Duration, error) {
	begun := time.Now()
	_ = conn.SetDeadline(begun.Add(30 * time.Second))
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
		return time.Since(begun), err
	}
	_, err := conn.ReadMsg()
	return time.Since(begun), err
}
