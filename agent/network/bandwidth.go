package network

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Annotations of pods that limit their bandwidth, in bits a second.
const (
	IngressBandwidth = "kubernetes.io/ingress-bandwidth"
	EgressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// Bandwidth is what a pod may receive and send at most, in bits a second; zero is any.
type Bandwidth struct{ Ingress, Egress uint64 }

// ParseBandwidth reads a pod's annotations.
func ParseBandwidth(annotations map[string]string) (Bandwidth, error) {
	var b Bandwidth
	var errs []error
	for _, a := range []struct {
		name string
		to   *uint64
	}{{IngressBandwidth, &b.Ingress}, {EgressBandwidth, &b.Egress}} {
		text, given := annotations[a.name]
		if !given {
			continue
		}
		q, err := resource.ParseQuantity(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("annotation %s %q: %w", a.name, text, err))
		case q.Cmp(resource.MustParse("1k")) < 0:
			errs = append(errs, fmt.Errorf("annotation %s %q: resource is unreasonably small (< 1kbit)", a.name, text))
		case q.Cmp(resource.MustParse("1P")) > 0:
			errs = append(errs, fmt.Errorf("annotation %s %q: resource is unreasonably large (> 1Pbit)", a.name, text))
		default:
			*a.to = uint64(q.Value())
		}
	}
	return b, errors.Join(errs...)
}

// shape limits what a link sends to so many bits a second. Each end of a pod's pair of links shapes what it sends.
func shape(replace func(netlink.Qdisc) error, link netlink.Link, bits uint64) error {
	if bits == 0 {
		return nil
	}
	filter := tokenBucket(bits)
	filter.QdiscAttrs = netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	err := replace(filter)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		slog.Warn("this kernel has no token bucket filter (module sch_tbf): the bandwidth of a pod is not limited", "component", "network", "link", link.Attrs().Name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("bandwidth of %d bit/s: %w", bits, err)
	}
	return nil
}

// tokenBucket lets through so many bits a second. Who was silent may send for 20 ms as fast as it can, but at least as much as the kernel hands to a
// link at once; packets wait for 50 ms before they are dropped.
func tokenBucket(bits uint64) *netlink.Tbf {
	const (
		atOnce      = 64 << 10
		most        = 1 << 30
		longestFill = 200 // seconds; the kernel keeps the time that fills the bucket in a number of 32 bits
	)
	rate := bits / 8 // bytes a second
	burst := min(max(rate/50, atOnce), rate*longestFill, most)
	queue := min(max(rate/20, atOnce), most)
	return &netlink.Tbf{Rate: rate, Buffer: netlink.Xmittime(rate, uint32(burst)), Limit: uint32(burst + queue)}
}
