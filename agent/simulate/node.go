package simulate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	goruntime "runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	coordv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	parallel     = 16 // requests at the same time, of pods and of nodes each
	leaseSeconds = 40
	statusEvery  = 5 * time.Minute // the kubelet's
)

// node is what the simulator remembers of one.
type node struct {
	name  string
	index int
	ip    netip.Addr
	down  atomic.Bool

	// Only the node's own sync touches these.
	leaseVersion string
	renewed      time.Time
	reported     time.Time

	mu   sync.Mutex
	cidr netip.Prefix
	held map[netip.Addr]types.UID
	next netip.Addr
}

func newNode(cfg *Config, index int) *node {
	n := &node{name: cfg.Prefix + strconv.Itoa(index), index: index, held: map[netip.Addr]types.UID{},
		ip: offset(netip.MustParsePrefix(addresses).Addr(), uint32(index)+1)}
	if cfg.PodCIDR.IsValid() {
		n.setRange(rangeOf(cfg.PodCIDR, index))
	}
	return n
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// registerAll makes the nodes there are not, and takes over those there are.
func (s *simulator) registerAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, n := range s.nodes {
		g.Go(func() error { return s.register(ctx, n) })
	}
	return g.Wait()
}

func (s *simulator) register(ctx context.Context, n *node) error {
	nodes := s.kube.CoreV1().Nodes()
	_, err := nodes.Create(ctx, s.object(n), metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	have, err := nodes.Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if have.Labels[LabelNode] != "true" {
		return fmt.Errorf("simulate: node %s exists and is not a simulated one: choose another prefix", n.name)
	}
	return nil
}

// object is the node as it registers.
func (s *simulator) object(n *node) *v1.Node {
	labels := map[string]string{
		LabelNode: "true", v1.LabelHostname: n.name, v1.LabelOSStable: "linux", v1.LabelArchStable: goruntime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	if s.cfg.Zones > 0 {
		labels[v1.LabelTopologyZone] = "zone-" + strconv.Itoa(n.index%s.cfg.Zones)
		labels[v1.LabelTopologyRegion] = "simulated"
	}
	maps.Copy(labels, s.cfg.Labels)
	o := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels}, Spec: v1.NodeSpec{Taints: s.cfg.Taints, ProviderID: "simulate://" + n.name}}
	if cidr := n.cidrNow(); cidr.IsValid() {
		o.Spec.PodCIDR, o.Spec.PodCIDRs = cidr.String(), []string{cidr.String()}
	}
	o.Status = s.status(n, &o.Status, time.Now())
	return o
}

// status is the node's now; what others write in it is kept.
func (s *simulator) status(n *node, old *v1.NodeStatus, now time.Time) v1.NodeStatus {
	st := *old.DeepCopy()
	room := v1.ResourceList{
		v1.ResourceCPU: s.cfg.CPU, v1.ResourceMemory: s.cfg.Memory, v1.ResourcePods: *resource.NewQuantity(int64(s.cfg.Pods), resource.DecimalSI),
		v1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
	}
	if st.Capacity == nil {
		st.Capacity = v1.ResourceList{}
	}
	if st.Allocatable == nil {
		st.Allocatable = v1.ResourceList{}
	}
	maps.Copy(st.Capacity, room) // extended resources, which others announce, stay
	maps.Copy(st.Allocatable, room)
	st.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: n.ip.String()}, {Type: v1.NodeHostName, Address: n.name}}
	st.NodeInfo = v1.NodeSystemInfo{OperatingSystem: "linux", Architecture: goruntime.GOARCH, KubeletVersion: s.cfg.Version,
		OSImage: "simulated", KernelVersion: "simulated", ContainerRuntimeVersion: "simulated://0", MachineID: n.name, SystemUUID: n.name, BootID: n.name}
	st.Conditions = conditions(old.Conditions, metav1.NewTime(now).Rfc3339Copy())
	return st
}

// own are a healthy node's conditions in the kubelet's words.
var own = []v1.NodeCondition{
	{Type: v1.NodeMemoryPressure, Status: v1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
	{Type: v1.NodeDiskPressure, Status: v1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
	{Type: v1.NodePIDPressure, Status: v1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
	{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
}

func conditions(old []v1.NodeCondition, now metav1.Time) []v1.NodeCondition {
	var out []v1.NodeCondition
	for _, c := range own {
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		for i := range old {
			if old[i].Type == c.Type && old[i].Status == c.Status {
				c.LastTransitionTime = old[i].LastTransitionTime
			}
		}
		out = append(out, c)
	}
	for _, c := range old {
		if !has(out, c.Type) {
			out = append(out, c)
		}
	}
	return out
}

func has(list []v1.NodeCondition, t v1.NodeConditionType) bool {
	for i := range list {
		if list[i].Type == t {
			return true
		}
	}
	return false
}

// nodeChanged takes in what the watch says of a node.
func (r *runner) nodeChanged(old, cur *v1.Node) {
	if cur == nil {
		if n := r.nodes[old.Name]; n != nil {
			n.down.Store(true) // until it is registered again, by whom ever
		}
		return
	}
	n := r.nodes[cur.Name]
	if n == nil {
		return
	}
	isDown := cur.Labels[LabelState] == StateDown
	wasDown := n.down.Swap(isDown)
	ranged := n.observe(cur)
	if isDown {
		return
	}
	if wasDown || ranged || old == nil {
		r.wakePods(n.name)
	}
	// A heartbeat is nothing to answer; what says that the node is not well is.
	if wasDown || old == nil || !healthy(&cur.Status) {
		r.nodeLoop.Add(n.name)
	}
}

// healthy: all of the agent's conditions are what they are on a healthy node.
func healthy(s *v1.NodeStatus) bool {
	for i := range own {
		ok := false
		for j := range s.Conditions {
			ok = ok || s.Conditions[j].Type == own[i].Type && s.Conditions[j].Status == own[i].Status
		}
		if !ok {
			return false
		}
	}
	return true
}

// syncNode writes the node's Lease and status where they are due.
func (r *runner) syncNode(ctx context.Context, name string) error {
	n := r.nodes[name]
	cur, err := r.nodeLister.Get(name)
	if n == nil || err != nil || n.down.Load() {
		return ignoreGone(err)
	}
	now := time.Now()
	if n.reported.IsZero() { // heartbeats of many nodes must not fall together
		n.reported = now.Add(-rand.N(statusEvery))
	}
	if !healthy(&cur.Status) || now.Sub(n.reported) >= statusEvery {
		if err := r.report(ctx, n, cur, now); err != nil {
			return err
		}
	}
	if n.renewed.IsZero() || now.Sub(n.renewed) >= r.cfg.LeaseInterval {
		first := n.renewed.IsZero()
		if err := r.renew(ctx, n, cur, now); err != nil {
			return err
		}
		if first {
			n.renewed = now.Add(-rand.N(r.cfg.LeaseInterval))
		}
	}
	r.nodeLoop.AddAfter(name, time.Until(n.renewed.Add(r.cfg.LeaseInterval)))
	return nil
}

func (r *runner) report(ctx context.Context, n *node, cur *v1.Node, now time.Time) error {
	fresh := *cur
	fresh.Status = r.status(n, &cur.Status, now)
	_, err := r.kube.CoreV1().Nodes().UpdateStatus(ctx, &fresh, metav1.UpdateOptions{})
	if err == nil {
		n.reported = now
	}
	return err
}

// renew writes the Lease; where it is not as it was left, it is read first.
func (r *runner) renew(ctx context.Context, n *node, cur *v1.Node, now time.Time) error {
	leases := r.kube.CoordinationV1().Leases(v1.NamespaceNodeLease)
	renewed := metav1.NewMicroTime(now)
	lease := &coordv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Namespace: v1.NamespaceNodeLease, ResourceVersion: n.leaseVersion,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: cur.Name, UID: cur.UID}}},
		Spec: coordv1.LeaseSpec{HolderIdentity: &n.name, LeaseDurationSeconds: new(int32(leaseSeconds)), RenewTime: &renewed},
	}
	var got *coordv1.Lease
	var err error
	if n.leaseVersion == "" {
		got, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			if got, err = leases.Get(ctx, n.name, metav1.GetOptions{}); err == nil {
				lease.ResourceVersion = got.ResourceVersion
				got, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
			}
		}
	} else {
		got, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		n.leaseVersion = ""
		return err
	}
	n.leaseVersion, n.renewed = got.ResourceVersion, now
	return nil
}
