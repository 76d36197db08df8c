package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/network"
)

// networkState is whether the node's network is up.
type networkState struct {
	wake chan struct{}
	// why it is not, nil once it is.
	why *atomic.Pointer[string]
}

func newNetworkState() networkState {
	s := networkState{wake: make(chan struct{}, 1), why: &atomic.Pointer[string]{}}
	s.set(network.ErrNotReady)
	return s
}

func (s networkState) set(err error) {
	if err == nil {
		s.why.Store(nil)
		return
	}
	s.why.Store(new(err.Error()))
}

func (s networkState) notReady() string {
	if why := s.why.Load(); why != nil {
		return *why
	}
	return ""
}

// poke has the network brought up for the range that the node has now.
func (s networkState) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// keepNetwork brings the network up whenever the node's range or the network itself says so, and tells of what it lacks.
func (a *Agent) keepNetwork(ctx context.Context) {
	const first, last = 200 * time.Millisecond, 10 * time.Second
	var told []string
	for pause := first; ; {
		var retry <-chan time.Time
		if a.syncNetwork(ctx) {
			pause = first
		} else {
			retry = time.After(pause)
			pause = min(2*pause, last)
		}
		told = a.tellTroubles(told)
		select {
		case <-ctx.Done():
			return
		case <-a.network.wake:
		case <-a.cfg.Network.Changes():
		case <-retry:
		}
	}
}

// syncNetwork brings the node's network up; pods that wait for it go on. It is false where that is to be tried again.
func (a *Agent) syncNetwork(ctx context.Context) bool {
	var cidr netip.Prefix
	if n := a.node.Load(); n != nil && n.Spec.PodCIDR != "" {
		var err error
		if cidr, err = netip.ParsePrefix(n.Spec.PodCIDR); err != nil {
			a.cfg.Log.Error("node has an invalid pod CIDR", "podCIDR", n.Spec.PodCIDR, "error", err)
		}
	}
	err := a.cfg.Network.Configure(ctx, cidr)
	a.network.set(err)
	a.reporter.Poke()
	switch {
	case errors.Is(err, network.ErrNotReady): // its range comes with the node
		return true
	case err != nil:
		a.cfg.Log.Error("pod network not configured", "podCIDR", cidr, "error", err)
		return false
	}
	held := a.cfg.Network.Pods()
	a.mu.Lock()
	for uid, w := range a.workers {
		_, has := held[uid]
		w.networkReady(has)
		delete(held, uid)
	}
	adopted := a.seen == nil
	a.mu.Unlock()
	for uid := range held {
		if adopted { // else adoptOrphans comes to them
			a.startOrphan(ctx, uid, a.cfg.Sandboxes.Pod(uid))
		}
	}
	return true
}

// tellTroubles makes events of what single nodes cannot be reached for, once each.
func (a *Agent) tellTroubles(told []string) []string {
	now := a.cfg.Network.Status().Troubles
	for _, t := range now {
		if !slices.Contains(told, t) {
			a.nodeEvent(v1.EventTypeWarning, "FailedToCreateRoute", "Could not create a route to another node's pods: "+t)
		}
	}
	return now
}
