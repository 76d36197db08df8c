package nft

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

var testConfig = Config{Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, Pods: netip.MustParsePrefix("10.244.0.0/16")}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(addr string, protocol corev1.Protocol, port uint16) ruleset.Key {
	return ruleset.Key{Addr: netip.MustParseAddr(addr), Protocol: protocol, Port: port}
}

func tcp(addr string, port uint16) ruleset.Key { return key(addr, corev1.ProtocolTCP, port) }

type backends map[ruleset.Key]ruleset.Backend

// kernel is a table together with what it is to hold.
type kernel struct {
	*Table
	state *ruleset.State
	held  backends
}

func newKernel(t testing.TB, cfg Config, first backends) *kernel {
	t.Helper()
	k := &kernel{Table: New(cfg), state: ruleset.NewState(), held: backends{}}
	t.Cleanup(func() { _ = k.Close() })
	k.change(first)
	if _, err := k.Sync(k.state.All()); err != nil {
		t.Fatal(err)
	}
	return k
}

// change replaces everything, each key as a service of its own.
func (k *kernel) change(next backends) []ruleset.Change {
	var rules []ruleset.Rules
	for key := range k.held {
		if _, stays := next[key]; !stays {
			rules = append(rules, ruleset.Rules{Service: key.String()})
		}
	}
	for key, b := range next {
		rules = append(rules, ruleset.Rules{Service: key.String(), Entries: []ruleset.Entry{{Key: key, Backend: b}}})
	}
	k.held = next
	return k.state.Update(rules...)
}

func (k *kernel) update(t testing.TB, next backends) {
	t.Helper()
	must(t, k.Update(k.change(next)))
}

func (k *kernel) sync(t testing.TB, want Outcome) {
	t.Helper()
	if got, err := k.Sync(k.state.All()); err != nil || got != want {
		t.Errorf("sync: outcome %d, %v; want %d", got, err, want)
	}
}

// nft runs the tool, which people read the table with.
func nft(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestServicesInTheKernel(t *testing.T) {
	world(t)
	a, b := newHost(t, "v1", "10.244.0.2").serve(t, 8080), newHost(t, "v2", "10.244.0.3").serve(t, 8080)
	both := []netip.AddrPort{a, b}
	k := newKernel(t, testConfig, backends{
		tcp("10.96.1.1", 80):  {Endpoints: both},
		tcp("10.96.1.2", 80):  {Endpoints: both, Affinity: time.Minute},
		tcp("10.96.1.3", 80):  {Refuse: ruleset.Reject},
		tcp("10.96.1.4", 80):  {Refuse: ruleset.Drop},
		tcp("0.0.0.0", 30080): {Endpoints: []netip.AddrPort{b}, Source: ruleset.Hide},
		tcp("0.0.0.0", 30081): {Refuse: ruleset.Reject},
	})
	if seen := answers(t, here{}, "10.96.1.1:80", 40); len(seen) != 2 {
		t.Errorf("40 connections went to %v, want both endpoints", seen)
	}
	sticky := answers(t, here{}, "10.96.1.2:80", 20)
	if len(sticky) != 1 {
		t.Errorf("with affinity one client went to %v", sticky)
	}
	for _, to := range []string{nodeAddr + ":30080", "127.0.0.1:30080"} {
		if got, _, err := ask(here{}, "tcp4", to, patience); err != nil || got != b.String() {
			t.Errorf("node port at %s: %q, %v", to, got, err)
		}
	}
	for _, to := range []string{"10.96.1.3:80", "10.96.7.7:80", "10.96.1.1:81", nodeAddr + ":30081"} {
		if _, _, err := ask(here{}, "tcp4", to, patience); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want a refusal", to, err)
		}
	}
	if _, _, err := ask(here{}, "tcp4", "10.96.1.4:80", silence); !isTimeout(err) {
		t.Errorf("a service with endpoints elsewhere only: %v, want silence", err)
	}

	// The endpoint that a client sticks to goes: it gets the other one, and stays there when the first comes back.
	gone, left := a, b
	if sticky[b.String()] > 0 {
		gone, left = b, a
	}
	k.update(t, backends{
		tcp("10.96.1.1", 80): {Endpoints: []netip.AddrPort{left}},
		tcp("10.96.1.2", 80): {Endpoints: []netip.AddrPort{left}, Affinity: time.Minute},
	})
	for _, service := range []string{"10.96.1.1:80", "10.96.1.2:80"} {
		if seen := answers(t, here{}, service, 10); seen[gone.String()] > 0 {
			t.Errorf("%s after an endpoint went: %v", service, seen)
		}
	}
	k.update(t, backends{tcp("10.96.1.2", 80): {Endpoints: both, Affinity: time.Minute}})
	if seen := answers(t, here{}, "10.96.1.2:80", 20); seen[gone.String()] > 0 {
		t.Errorf("after the first endpoint came back: %v", seen)
	}
	if _, _, err := ask(here{}, "tcp4", nodeAddr+":30080", patience); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a deleted node port: %v", err)
	}
	must(t, Delete())
	must(t, Delete())
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestUpdatesEqualAFreshTable: any sequence of updates leaves in the kernel what building the last ruleset anew does, and the kernel says so.
func TestUpdatesEqualAFreshTable(t *testing.T) {
	testenv.NetNS(t)
	rng := rand.New(rand.NewPCG(1, 2))
	k := newKernel(t, testConfig, nil)
	for range 80 {
		k.update(t, randomBackends(rng))
	}
	k.sync(t, Equal)
	updated := listing(t)
	must(t, Delete())
	newKernel(t, testConfig, k.held)
	if fresh := listing(t); !slices.Equal(updated, fresh) {
		t.Error(cmp.Diff(fresh, updated))
	}
}

func randomBackends(rng *rand.Rand) backends {
	r := backends{}
	for i := range 12 {
		k := tcp(fmt.Sprintf("10.96.2.%d", i/2), uint16(80+i%2))
		if i == 11 {
			k = tcp("0.0.0.0", 30001)
		}
		b := ruleset.Backend{Affinity: time.Duration(rng.IntN(2)) * time.Hour, Source: ruleset.Source(rng.IntN(2))}
		switch rng.IntN(6) {
		case 0:
			continue
		case 1:
			b = ruleset.Backend{Refuse: ruleset.Reject}
		case 2:
			b.Local, b.Source, b.Inside = true, ruleset.Keep, randomEndpoints(rng)
			if b.Endpoints = randomEndpoints(rng); rng.IntN(2) == 0 {
				b.Endpoints, b.Refuse = nil, ruleset.Drop
			}
		default:
			b.Endpoints = randomEndpoints(rng)
			b.Own = []netip.Addr{b.Endpoints[0].Addr()}
		}
		if !k.NodePort() && rng.IntN(3) == 0 {
			b.Guarded, b.Sources = true, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/25")}[rng.IntN(2):]
		}
		r[k] = b
	}
	return r
}

func randomEndpoints(rng *rand.Rand) []netip.AddrPort {
	var all []netip.AddrPort
	for e := range 1 + rng.IntN(4) {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 9, byte(e + rng.IntN(3)*10)}), uint16(8080+rng.IntN(2))))
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}
