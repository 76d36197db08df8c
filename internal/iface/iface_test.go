package iface

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/coracle-dev/coracle/internal/testenv"
)

func TestBridgeAndDelete(t *testing.T) {
	testenv.NetNS(t)
	made, err := Bridge("br", nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Bridge("br", nil); err != nil || again.Attrs().Index != made.Attrs().Index {
		t.Errorf("the second time: %v, %v", again, err)
	}
	for range 2 {
		if err := Delete("br"); err != nil {
			t.Error(err)
		}
	}
	if _, err := netlink.LinkByName("br"); err == nil {
		t.Error("it is still there")
	}
}

// TestListsAreWhole lists what others change all the time.
func TestListsAreWhole(t *testing.T) {
	testenv.NetNS(t)
	const stay = 60 // more than one answer of the kernel holds
	for i := range stay {
		link, err := Bridge(fmt.Sprint("br", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: netlink.NewIPNet([]byte{10, 0, 0, byte(i)})}); err != nil {
			t.Fatal(err)
		}
	}
	disturb(t)
	interrupted := 0
	for range 300 {
		if _, err := netlink.LinkList(); errors.Is(err, netlink.ErrDumpInterrupted) {
			interrupted++
		}
		links, err := Links()
		if err != nil || len(links) < stay {
			t.Fatalf("%d links, %v", len(links), err)
		}
		addrs, err := Addresses(nil)
		if err != nil || len(addrs) < stay {
			t.Fatalf("%d addresses, %v", len(addrs), err)
		}
		if _, err := Routes(netlink.Route{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 300 plain lists were interrupted", interrupted)
}

// disturb makes and removes a link in this network namespace until the test ends.
func disturb(t *testing.T) {
	t.Helper()
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	var end atomic.Bool
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		defer ns.Close()
		err := netns.Set(ns)
		for err == nil && !end.Load() {
			if _, err = Bridge("comes", nil); err == nil {
				err = Delete("comes")
			}
		}
		done <- err
	}()
	t.Cleanup(func() {
		end.Store(true)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
