// Package ruleset turns Services and EndpointSlices into what the node's packet filter must do: pure and
// sorted, so that equal input gives equal rules, and two of them can be compared.
package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Key is what a packet is addressed to. The zero address stands for every address of the node: a NodePort.
type Key struct {
	Addr     netip.Addr
	Protocol corev1.Protocol
	Port     uint16
}

// NodePort tells whether the key is a port of the node itself.
func (k Key) NodePort() bool { return k.Addr == nodeAddr }

var nodeAddr = netip.AddrFrom4([4]byte{})

func (k Key) String() string {
	return fmt.Sprintf("%s %s:%d", strings.ToLower(string(k.Protocol)), k.Addr, k.Port)
}

func compareKeys(a, b Key) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// Source says whose address an endpoint sees.
type Source uint8

const (
	// Outside hides the addresses of clients that are no pods, so that replies come back through this node.
	Outside Source = iota
	// Hide hides every client's.
	Hide
	// Keep hides none: only endpoints of this node are led to.
	Keep
)

// Refusal is what happens to a connection that nothing was found for.
type Refusal uint8

const (
	// Pass: nothing is refused, for something was found.
	Pass Refusal = iota
	// Reject answers at once that nobody is there: the service has no endpoints at all.
	Reject
	// Drop is silent: the traffic policy is Local, and there are endpoints only elsewhere. A load balancer that goes on sending here
	// for a moment shall try again and not tell its client.
	Drop
)

// Backend is where packets for a key go.
type Backend struct {
	// Endpoints are sorted and distinct; a new connection takes each with the same probability.
	Endpoints []netip.AddrPort
	// Inside are, with the external traffic policy Local, the endpoints for clients of this node, its pods and itself: they are led as by
	// the policy Cluster. Local says that they are.
	Inside []netip.AddrPort
	Local  bool
	// Affinity keeps a client on its endpoint for this long after its last connection; zero is none.
	Affinity time.Duration
	Source   Source
	Refuse   Refusal
	// Guarded: only connections from Sources, which are sorted and do not overlap, are let in.
	Guarded bool
	Sources []netip.Prefix
	// Own are those addresses of Endpoints and Inside that may be pods of this node: one that reaches itself must not see its own address.
	Own []netip.Addr
	// Serving are, where the protocol knows no end of a connection, all endpoints that still serve: flows to them go on, even where new ones
	// go elsewhere.
	Serving []netip.AddrPort
}

// Found tells whether any connection is led anywhere.
func (b *Backend) Found() bool { return len(b.Endpoints)+len(b.Inside) > 0 }

func (b *Backend) equal(o *Backend) bool {
	return b.Local == o.Local && b.Affinity == o.Affinity && b.Source == o.Source && b.Refuse == o.Refuse && b.Guarded == o.Guarded &&
		slices.Equal(b.Endpoints, o.Endpoints) && slices.Equal(b.Inside, o.Inside) && slices.Equal(b.Sources, o.Sources) &&
		slices.Equal(b.Own, o.Own) && slices.Equal(b.Serving, o.Serving)
}

// Entry is one key of a service.
type Entry struct {
	Key     Key
	Backend Backend
}

// Rules are those of one service.
type Rules struct {
	// Service is namespace/name.
	Service string
	// Created is when the service was, in seconds: of two that claim one key, the older has it.
	Created int64
	// Entries are sorted by key, each of which is there once.
	Entries []Entry
	Health  Health
}

// Health is what is told at a service's health check node port.
type Health struct {
	// Port is zero where the service has none.
	Port uint16
	// Local counts the addresses of ready endpoints on this node.
	Local int
}

// String is the form of golden files.
func (r Rules) String() string {
	var b strings.Builder
	for i := range r.Entries {
		fmt.Fprintf(&b, "%s (%s)%s\n", r.Entries[i].Key, r.Service, r.Entries[i].Backend.String())
	}
	if r.Health.Port != 0 {
		fmt.Fprintf(&b, "health check (%s) on %d: %d local\n", r.Service, r.Health.Port, r.Health.Local)
	}
	return b.String()
}

// String is what follows the key in golden files.
func (b *Backend) String() string {
	var s strings.Builder
	list(&s, " ->", b.Endpoints)
	if b.Local {
		list(&s, " inside", b.Inside)
	}
	if b.Affinity > 0 {
		fmt.Fprintf(&s, " affinity %s", b.Affinity)
	}
	s.WriteString(map[Source]string{Outside: "", Hide: " masquerade", Keep: " keep source"}[b.Source])
	s.WriteString(map[Refusal]string{Pass: "", Reject: " reject", Drop: " drop"}[b.Refuse])
	if b.Guarded {
		list(&s, " from", b.Sources)
	}
	list(&s, " own", b.Own)
	list(&s, " serving", b.Serving)
	return s.String()
}

func list[T any](s *strings.Builder, word string, all []T) {
	if len(all) > 0 {
		s.WriteString(word)
	}
	for _, one := range all {
		fmt.Fprintf(s, " %v", one)
	}
}

// NoLocal counts the ports whose traffic policy for cluster IPs, and for all other addresses, is Local while all endpoints are elsewhere.
func (r Rules) NoLocal() (internal, external int) {
	ports := map[Key]bool{}
	for i := range r.Entries {
		switch k, b := r.Entries[i].Key, &r.Entries[i].Backend; {
		case b.Refuse == Drop && !b.Local:
			internal++
		case b.Refuse == Drop && !k.NodePort():
			k.Addr = nodeAddr
			ports[k] = true
		}
	}
	return internal, len(ports)
}
