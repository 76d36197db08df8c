package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/internal/testenv"
)

func open(t *testing.T, cidr string) *Network {
	t.Helper()
	n := New(Config{
		ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		Sysctls:     sysctl.NewKeeper(filepath.Join(t.TempDir(), "sysctls.json")),
	})
	if err := n.Configure(context.Background(), netip.MustParsePrefix(cidr)); err != nil {
		t.Fatal(err)
	}
	return n
}

func ref(uid string) runtime.PodRef { return runtime.PodRef{UID: uid, Namespace: "default", Name: uid} }

func onNetwork(uid, path string, ports ...HostPort) Pod {
	return Pod{PodRef: ref(uid), NetNS: path, Ports: ports}
}

// inside runs fn on a thread of its own in the namespace at path.
func inside(t *testing.T, path string, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, path, addr, answer string) {
	t.Helper()
	inside(t, path, func() error {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				_, _ = io.WriteString(c, answer+" "+host)
				c.Close()
			}
		}()
		return nil
	})
}

func ask(addr string) (string, error) {
	c, err := net.DialTimeout("tcp4", addr, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestPodsReachEachOtherAndTheHost(t *testing.T) {
	testenv.NetNS(t)
	n := open(t, "10.244.3.0/24")
	ctx := context.Background()
	a, b := testenv.PodNetNS(t), testenv.PodNetNS(t)
	addrA, err := n.Setup(ctx, onNetwork("a", a))
	if err != nil {
		t.Fatal(err)
	}
	addrB, err := n.Setup(ctx, onNetwork("b", b))
	if err != nil {
		t.Fatal(err)
	}
	if addrA[0].String() != "10.244.3.2" || addrB[0].String() != "10.244.3.3" {
		t.Fatalf("addresses %v and %v", addrA, addrB)
	}
	serve(t, b, addrB[0].String()+":8080", "b")
	got, err := ask(addrB[0].String() + ":8080")
	if err != nil || got != "b 10.244.3.1" {
		t.Errorf("from the host: %q, %v", got, err)
	}
	inside(t, a, func() error {
		got, err := ask(addrB[0].String() + ":8080")
		if err == nil && got != "b 10.244.3.2" {
			t.Errorf("from pod a: %q, want its own address as the source", got)
		}
		return err
	})
	if _, err := n.Setup(ctx, onNetwork("b", b, HostPort{Protocol: "TCP", Port: 8081, PodPort: 8080})); err != nil {
		t.Fatal(err)
	}
	if got, err := ask("10.244.3.1:8081"); err != nil || !strings.HasPrefix(got, "b ") {
		t.Errorf("host port: %q, %v", got, err)
	}
	if _, err := n.Setup(ctx, onNetwork("b", b, HostPort{Protocol: "TCP", Port: 8081, PodPort: 8080},
		HostPort{Address: netip.MustParseAddr("127.0.0.1"), Protocol: "TCP", Port: 8082, PodPort: 8080})); err != nil {
		t.Fatal(err)
	}
	if got, err := ask("127.0.0.1:8082"); err != nil || !strings.HasPrefix(got, "b ") {
		t.Errorf("host port of one address: %q, %v", got, err)
	}
	if got, err := ask("10.244.3.1:8082"); err == nil {
		t.Errorf("the host port of another address answers: %q", got)
	}
	if err := n.Teardown(ctx, ref("b")); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"10.244.3.1:8081", "127.0.0.1:8082"} {
		if _, err := ask(addr); err == nil {
			t.Errorf("the host port %s answers after its pod is gone", addr)
		}
	}
}

func TestSetupIsIdempotentAndSurvivesARestart(t *testing.T) {
	testenv.NetNS(t)
	ctx := context.Background()
	n := open(t, "10.244.3.0/24")
	a, b := testenv.PodNetNS(t), testenv.PodNetNS(t)
	first, err := n.Setup(ctx, onNetwork("a", a))
	if err != nil {
		t.Fatal(err)
	}
	n = open(t, "10.244.3.0/24")
	again, err := n.Setup(ctx, onNetwork("a", a))
	if err != nil || again[0] != first[0] {
		t.Fatalf("after a restart: %v, %v; want %v", again, err, first)
	}
	other, err := n.Setup(ctx, onNetwork("b", b))
	if err != nil || other[0] == first[0] {
		t.Fatalf("b got %v, %v; a holds %v", other, err, first)
	}
	// The pod's namespace was made anew: the pair is too.
	fresh := testenv.PodNetNS(t)
	if _, err := n.Setup(ctx, onNetwork("a", fresh)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Teardown(ctx, ref("a")); err != nil {
			t.Fatal(err)
		}
	}
	if pods := n.Pods(); len(pods) != 1 {
		t.Errorf("after teardown: %v", pods)
	}
}

func TestExhaustion(t *testing.T) {
	testenv.NetNS(t)
	ctx := context.Background()
	n := open(t, "10.244.3.0/29") // .1 is the bridge's, .7 the broadcast: five are left
	ns := testenv.PodNetNS(t)
	for i := range 5 {
		if _, err := n.allocate(string(rune('a' + i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Setup(ctx, onNetwork("z", ns)); !errors.Is(err, ErrExhausted) {
		t.Errorf("got %v, want ErrExhausted", err)
	}
}

func TestCleanupLeavesNothing(t *testing.T) {
	testenv.NetNS(t)
	ctx := context.Background()
	n := open(t, "10.244.3.0/24")
	if _, err := n.Setup(ctx, onNetwork("a", testenv.PodNetNS(t))); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(); err != nil {
		t.Fatal(err)
	}
	if err := n.cfg.Sysctls.Restore(); err != nil {
		t.Fatal(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Name != "lo" && l.Type() != "sit" && l.Type() != "ipip" && l.Type() != "gre" {
			t.Errorf("left behind: link %s (%s)", l.Attrs().Name, l.Type())
		}
	}
	if out, err := exec.Command("nft", "list", "ruleset").Output(); err == nil && strings.Contains(string(out), tableName) {
		t.Errorf("left behind:\n%s", out)
	}
}

func TestNotReadyBeforeConfigure(t *testing.T) {
	if _, err := New(Config{}).Setup(context.Background(), onNetwork("a", "/nowhere")); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v, want ErrNotReady", err)
	}
}
