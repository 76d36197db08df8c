package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	goruntime "runtime"
	"slices"
	"sync/atomic"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// Intervals, as the kubelet's.
const (
	checkEvery = 10 * time.Second
	writeEvery = 5 * time.Minute
	// leaseLife is how long a Lease is valid where the configuration does not say; it is renewed leaseShare times in it.
	leaseLife  = 40 * time.Second
	leaseShare = 4
	firstRetry = 200 * time.Millisecond
	lastRetry  = 7 * time.Second
)

// Config of a Reporter.
type Config struct {
	Client       kubernetes.Interface
	Name         string
	IPs          []netip.Addr
	PodCIDR      netip.Prefix // set at registration, if valid
	ControlPlane bool
	Labels       map[string]string
	// Annotations are kept on the node, as labels are.
	Annotations map[string]string
	Taints      []v1.Taint
	MaxPods     int
	Reserved    v1.ResourceList // kept from pods
	Port        int32
	Facts       Facts
	// Pressure tells which pressures the node is under.
	Pressure func() []v1.NodeConditionType
	// Handler has what pods can have here of what not every container runtime gives.
	Handler v1.NodeRuntimeHandlerFeatures
	// Handlers are the names of further runtimes, of which no more is known.
	Handlers []string
	// VolumesInUse lists the attachable volumes that are in place for pods: nobody detaches them.
	VolumesInUse func() []v1.UniqueVolumeName
	// Network tells of the ways to other nodes' pods.
	Network func() network.Status
	// Look lists the images there are, nil where that is not known, and says what keeps the node from being ready.
	Look func(context.Context) (images []runtime.Image, notReady []string)
	// LeaseDuration is how long the node's Lease is valid, in whole seconds; 40 s when zero.
	LeaseDuration time.Duration
	Recorder      record.EventRecorder
	Log           *slog.Logger
}

// Reporter keeps one Node.
type Reporter struct {
	cfg     Config
	poke    chan struct{}
	current atomic.Pointer[v1.Node] // as last read or written
	started time.Time
	settle  time.Duration
}

// settle is how long a node that was ready stays so while its new agent finds its bearings: its pods serve all along.
const settle = 10 * time.Second

func isReady(s *v1.NodeStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// New makes a Reporter; Run must follow.
func New(cfg Config) *Reporter {
	cfg.LeaseDuration = cmp.Or(cfg.LeaseDuration, leaseLife)
	return &Reporter{cfg: cfg, poke: make(chan struct{}, 1), settle: settle}
}

// Poke has the status looked at now.
func (r *Reporter) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Observe takes the node as a watch saw it.
func (r *Reporter) Observe(n *v1.Node) {
	old := r.current.Load()
	r.current.Store(n)
	if old != nil && old.UID != n.UID {
		r.Poke()
	}
}

// Run registers the node and keeps it until ctx ends. It survives any absence of the API server.
func (r *Reporter) Run(ctx context.Context) error {
	r.started = time.Now()
	if !retry(ctx, func() error { return r.logged("node not registered yet", r.register(ctx)) }) {
		return nil
	}
	go r.renewLease(ctx)
	r.cfg.Recorder.Event(r.ref(), v1.EventTypeNormal, "Starting", "Starting kubelet.")
	written := time.Time{}
	for {
		retry(ctx, func() error { return r.logged("node status not written", r.report(ctx, &written)) })
		select {
		case <-ctx.Done():
			return nil
		case <-r.poke:
		case <-time.After(checkEvery):
		}
	}
}

// retry calls f until it succeeds; it is false where ctx ended before.
func retry(ctx context.Context, f func() error) bool {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		if f() == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (r *Reporter) logged(what string, err error) error {
	if err != nil {
		r.cfg.Log.Debug(what, "error", err)
	}
	return err
}

// ref names the node in events; its UID is its name, as the kubelet has it.
func (r *Reporter) ref() *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.cfg.Name, UID: types.UID(r.cfg.Name)}
}

// RoleLabel marks a control plane node. Node identities may not set it on themselves.
const RoleLabel = "node-role.kubernetes.io/control-plane"

func (r *Reporter) labels() map[string]string {
	out := map[string]string{
		v1.LabelHostname: r.cfg.Name, v1.LabelOSStable: "linux", v1.LabelArchStable: goruntime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	for k, v := range r.cfg.Labels {
		out[k] = v
	}
	if r.cfg.ControlPlane {
		out[RoleLabel] = ""
	}
	return out
}

// register creates the node, or takes over the one there is.
func (r *Reporter) register(ctx context.Context) error {
	nodes := r.cfg.Client.CoreV1().Nodes()
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Labels: r.labels(), Annotations: r.cfg.Annotations}, Spec: v1.NodeSpec{Taints: r.cfg.Taints}}
	if r.cfg.PodCIDR.IsValid() {
		n.Spec.PodCIDR = r.cfg.PodCIDR.String()
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	n.Status = Status(r.input(ctx), &n.Status)
	got, err := nodes.Create(ctx, n, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) && r.cfg.ControlPlane {
		// Only the control plane itself may hand out the role; it does without then.
		delete(n.Labels, RoleLabel)
		got, err = nodes.Create(ctx, n, metav1.CreateOptions{})
	}
	if apierrors.IsAlreadyExists(err) {
		got, err = r.adopt(ctx)
	}
	if err != nil {
		return err
	}
	r.current.Store(got)
	return nil
}

// adopt sees to it that an existing node has the labels and annotations it should.
func (r *Reporter) adopt(ctx context.Context) (*v1.Node, error) {
	nodes := r.cfg.Client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, r.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	fresh := n.DeepCopy()
	changed := false
	for k, v := range r.labels() {
		if have, ok := fresh.Labels[k]; k != RoleLabel && (!ok || have != v) {
			if fresh.Labels == nil {
				fresh.Labels = map[string]string{}
			}
			fresh.Labels[k], changed = v, true
		}
	}
	for k, v := range r.cfg.Annotations {
		if have, ok := fresh.Annotations[k]; !ok || have != v {
			metav1.SetMetaDataAnnotation(&fresh.ObjectMeta, k, v)
			changed = true
		}
	}
	if !changed {
		return n, nil
	}
	return nodes.Update(ctx, fresh, metav1.UpdateOptions{})
}

func (r *Reporter) input(ctx context.Context) Input {
	in := Input{Facts: r.cfg.Facts, Name: r.cfg.Name, IPs: r.cfg.IPs, MaxPods: r.cfg.MaxPods, Reserved: r.cfg.Reserved, Port: r.cfg.Port,
		Handler: r.cfg.Handler, Handlers: r.cfg.Handlers, Now: time.Now()}
	in.Images, in.NotReady = r.cfg.Look(ctx)
	in.Network = r.cfg.Network()
	in.Pressure = r.cfg.Pressure()
	in.VolumesInUse = r.cfg.VolumesInUse()
	return in
}

// report writes the status if it says something new or the last one is old.
func (r *Reporter) report(ctx context.Context, written *time.Time) error {
	in := r.input(ctx)
	if len(in.NotReady) > 0 && time.Since(r.started) < r.settle && isReady(&r.current.Load().Status) {
		return nil // poked again as soon as that changes
	}
	n := r.current.Load()
	st := Status(in, &n.Status)
	if in.Images == nil {
		st.Images = n.Status.Images
	}
	if same(&st, &n.Status) && time.Since(*written) < writeEvery {
		return nil
	}
	fresh := *n
	fresh.Status = st
	got, err := r.cfg.Client.CoreV1().Nodes().UpdateStatus(ctx, &fresh, metav1.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return r.register(ctx)
	case err != nil:
		r.refresh(ctx, err)
		return err
	}
	if was, is := n.Status.NodeInfo.BootID, st.NodeInfo.BootID; was != "" && was != is {
		r.cfg.Recorder.Event(r.ref(), v1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", r.cfg.Name, is))
	}
	for _, reason := range transitions(n.Status.Conditions, st.Conditions) {
		r.cfg.Recorder.Event(r.ref(), v1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", r.cfg.Name, reason))
	}
	r.current.CompareAndSwap(n, got) // else the watch has told of what others wrote since
	*written = time.Now()
	return nil
}

// refresh reads the node after its write was refused: the copy at hand may be older than what others wrote. The API server says so by a
// conflict, or takes what they changed for the agent's own doing and forbids it.
func (r *Reporter) refresh(ctx context.Context, refusal error) {
	if !apierrors.IsConflict(refusal) && !apierrors.IsForbidden(refusal) {
		return
	}
	if got, err := r.cfg.Client.CoreV1().Nodes().Get(ctx, r.cfg.Name, metav1.GetOptions{}); err == nil {
		r.current.Store(got)
	}
}

// renewLease says, four times in a Lease's life, that the node is alive.
func (r *Reporter) renewLease(ctx context.Context) {
	var have *coordv1.Lease
	for ctx.Err() == nil {
		retry(ctx, func() error {
			var err error
			have, err = r.renew(ctx, have)
			return r.logged("node lease not renewed", err)
		})
		select {
		case <-ctx.Done():
		case <-time.After(r.cfg.LeaseDuration / leaseShare):
		}
	}
}

// renew writes the lease; where that fails it forgets the lease, so that it is read anew.
func (r *Reporter) renew(ctx context.Context, have *coordv1.Lease) (*coordv1.Lease, error) {
	leases := r.cfg.Client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	ctx, cancel := context.WithTimeout(ctx, r.cfg.LeaseDuration/leaseShare)
	defer cancel()
	if have == nil {
		got, err := leases.Get(ctx, r.cfg.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return leases.Create(ctx, r.lease(&coordv1.Lease{}), metav1.CreateOptions{})
		}
		if err != nil {
			return nil, err
		}
		have = got
	}
	got, err := leases.Update(ctx, r.lease(have), metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return got, nil
}

func (r *Reporter) lease(from *coordv1.Lease) *coordv1.Lease {
	l := from.DeepCopy()
	l.Name, l.Namespace = r.cfg.Name, v1.NamespaceNodeLease
	now := metav1.NewMicroTime(time.Now())
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &r.cfg.Name, new(int32(r.cfg.LeaseDuration.Seconds())), &now
	if n := r.current.Load(); n != nil {
		owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
		if !slices.Contains(l.OwnerReferences, owner) {
			l.OwnerReferences = []metav1.OwnerReference{owner}
		}
	}
	return l
}
