// Package servicecidr keeps a ServiceCIDR from going while cluster IPs depend on it, and shows whether it is in use.
//
// Invariant: the finalizer is removed only after no address of the range is left that no other range has, looked at later than
// any server may still have chosen one.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

const (
	// finalizer is upstream's.
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// managedBy labels the addresses of Services.
	managedBy = "ipallocator.k8s.io"
	// grace is longer than a server takes to learn that a range is going.
	grace = 10 * time.Second
	// poll is how often a range on its way out is looked at.
	poll = 2 * time.Second

	readyText = "Kubernetes Service CIDR is ready"
	inUseText = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

// Controller serves ServiceCIDRs.
type Controller struct {
	client kubernetes.Interface
	cidrs  networkinglisters.ServiceCIDRLister
	clock  clock.Clock
	loop   *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	informer := e.Informers.Networking().V1().ServiceCIDRs()
	c := &Controller{client: e.Client, cidrs: informer.Lister(), clock: e.Clock}
	c.loop = e.Loop(loop.Config{Name: "servicecidr", Sync: c.sync})
	loop.On(c.loop, informer.Informer(), func(_, cur *networkingv1.ServiceCIDR) {
		if cur != nil {
			c.loop.Add(cur.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, name string) error {
	cidr, err := c.cidrs.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if cidr.DeletionTimestamp == nil {
		if !slices.Contains(cidr.Finalizers, finalizer) {
			fresh := cidr.DeepCopy()
			fresh.Finalizers = append(fresh.Finalizers, finalizer)
			_, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, fresh, metav1.UpdateOptions{})
			return gone(err) // the change brings it here again
		}
		if meta.IsStatusConditionTrue(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			return nil
		}
		return c.report(ctx, cidr, metav1.Condition{Status: metav1.ConditionTrue, Message: readyText})
	}
	if !slices.Contains(cidr.Finalizers, finalizer) {
		return nil
	}
	return c.letGo(ctx, cidr)
}

// letGo removes the finalizer from a range that nothing depends on.
func (c *Controller) letGo(ctx context.Context, cidr *networkingv1.ServiceCIDR) error {
	if wait := cidr.DeletionTimestamp.Add(grace).Sub(c.clock.Now()); wait > 0 {
		c.loop.AddAfter(cidr.Name, min(wait, poll))
	} else {
		c.loop.AddAfter(cidr.Name, poll)
	}
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return err
	}
	addresses, err := c.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{LabelSelector: networkingv1.LabelManagedBy + "=" + managedBy})
	if err != nil {
		return err
	}
	if orphans(cidr, all, addresses.Items) {
		return c.report(ctx, cidr, metav1.Condition{Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating, Message: inUseText})
	}
	if c.clock.Now().Before(cidr.DeletionTimestamp.Add(grace)) {
		return nil
	}
	fresh := cidr.DeepCopy()
	fresh.Finalizers = slices.DeleteFunc(fresh.Finalizers, func(f string) bool { return f == finalizer })
	_, err = c.client.NetworkingV1().ServiceCIDRs().Update(ctx, fresh, metav1.UpdateOptions{})
	return gone(err)
}

// orphans tells whether an address would be of no range if cidr went. It is pure.
func orphans(cidr *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, addresses []networkingv1.IPAddress) bool {
	var others []netip.Prefix
	for _, other := range all {
		if other.Name != cidr.Name && other.DeletionTimestamp == nil {
			others = append(others, prefixes(other)...)
		}
	}
	mine := prefixes(cidr)
	return slices.ContainsFunc(addresses, func(ip networkingv1.IPAddress) bool {
		addr, err := netip.ParseAddr(ip.Name)
		has := func(p netip.Prefix) bool { return p.Contains(addr) }
		return err == nil && slices.ContainsFunc(mine, has) && !slices.ContainsFunc(others, has)
	})
}

func prefixes(cidr *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// report shows the condition Ready, if it is not shown yet.
func (c *Controller) report(ctx context.Context, cidr *networkingv1.ServiceCIDR, ready metav1.Condition) error {
	ready.Type, ready.LastTransitionTime = networkingv1.ServiceCIDRConditionReady, metav1.NewTime(c.clock.Now())
	fresh := cidr.DeepCopy()
	if !meta.SetStatusCondition(&fresh.Status.Conditions, ready) {
		return nil
	}
	_, err := c.client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	return gone(err)
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
