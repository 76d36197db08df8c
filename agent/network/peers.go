package network

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
)

// Peer is another node, as far as the way to its pods goes.
type Peer struct {
	Name  string
	Addr  netip.Addr   // its first IPv4 InternalIP
	Range netip.Prefix // its first IPv4 range of pod addresses
}

// FollowNodes calls tell with all nodes but the one of that name that have an address and a range, the oldest first: at once when all are known, and
// whenever one of them changed. It ends with ctx.
func FollowNodes(ctx context.Context, kube kubernetes.Interface, self string, tell func([]Peer)) error {
	factory := client.Informers(kube, informers.WithTransform(trimNode))
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	poke := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: poke, DeleteFunc: poke,
		UpdateFunc: func(old, obj any) {
			if was, is := peerOf(old.(*corev1.Node)), peerOf(obj.(*corev1.Node)); was != is {
				poke(obj)
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	for {
		list, err := nodes.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		tell(peers(list, self))
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// trimNode keeps of a node what a Peer is made of.
func trimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, CreationTimestamp: n.CreationTimestamp},
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
	}, nil
}

func peers(nodes []*corev1.Node, self string) []Peer {
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	out := make([]Peer, 0, len(nodes))
	for _, n := range nodes {
		if p := peerOf(n); n.Name != self && p.Addr.IsValid() && p.Range.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// peerOf reads a node; what it lacks is zero.
func peerOf(n *corev1.Node) Peer {
	p := Peer{Name: n.Name}
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && addr.Is4() && a.Type == corev1.NodeInternalIP {
			p.Addr = addr
			break
		}
	}
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Addr().Is4() {
			p.Range = cidr.Masked()
			break
		}
	}
	return p
}
