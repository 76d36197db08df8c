package network

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestAddressesAreKeptAndNeverGivenTwice has pods come and go in any order, with an agent that starts anew in between.
func TestAddressesAreKeptAndNeverGivenTwice(t *testing.T) {
	testenv.NetNS(t)
	const cidr = "10.244.3.0/29" // five addresses for seven pods
	uids := []string{"a", "b", "c", "d", "e", "f", "g"}
	paths := map[string]string{}
	for _, uid := range uids {
		paths[uid] = testenv.PodNetNS(t)
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := open(t, cidr)
		held := map[string]netip.Addr{}
		defer func() {
			for _, uid := range uids {
				_ = n.Teardown(context.Background(), ref(uid))
			}
		}()
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			uid := rapid.SampledFrom(uids).Draw(rt, "pod")
			switch rapid.SampledFrom([]string{"setup", "setup", "teardown", "restart"}).Draw(rt, "step") {
			case "setup":
				addrs, err := n.Setup(context.Background(), onNetwork(uid, paths[uid]))
				if _, has := held[uid]; !has && len(held) == 5 {
					if !errors.Is(err, ErrExhausted) {
						rt.Fatalf("%s gets %v, %v with all addresses held", uid, addrs, err)
					}
					continue
				}
				if err != nil {
					rt.Fatal(err)
				}
				if had, has := held[uid]; has && had != addrs[0] {
					rt.Fatalf("%s had %s and has %s", uid, had, addrs[0])
				}
				held[uid] = addrs[0]
			case "teardown":
				if err := n.Teardown(context.Background(), ref(uid)); err != nil {
					rt.Fatal(err)
				}
				delete(held, uid)
			case "restart":
				n = open(t, cidr)
			}
			owners := map[netip.Addr]string{}
			for pod, addr := range held {
				if other, taken := owners[addr]; taken {
					rt.Fatalf("%s and %s have %s", pod, other, addr)
				}
				owners[addr] = pod
			}
			if got := n.Pods(); len(got) != len(held) {
				rt.Fatalf("held %v, known %v", held, got)
			}
		}
	})
}
