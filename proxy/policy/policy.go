// Package policy enforces NetworkPolicies for the pods of this node: it watches the policies, the node's pods, and the peers that the controller
// networkpolicy publishes, compiles them to rules, and keeps the kernel's table equal to those.
//
// Invariants: a pod's containers start only once the rules that hold for its address are in the kernel (Protect), and these stay until the address is
// given back (Release), whatever becomes of the Pod object meanwhile. The table changes in whole transactions, so no packet meets half of a change.
// The rules outlive this process; the next one replaces them once it knows all there is.
package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/netpolicy"
	"github.com/coracle-dev/coracle/proxy/policy/rules"
)

const (
	// settle is how long changes are collected before they are applied together.
	settle = 5 * time.Millisecond
	// checkEvery is how often the table is looked at, in case someone flushed it.
	checkEvery = 10 * time.Second
	// protectWithin is how long a pod waits for its rules before its start counts as failed, to be tried again.
	protectWithin = 30 * time.Second
	// firstRetry and lastRetry are how long it takes until a transaction that failed is tried again.
	firstRetry, lastRetry = 100 * time.Millisecond, 30 * time.Second
)

// reasonNotEnforced is that of the event on the Node whose kernel refuses the rules.
const reasonNotEnforced = "NetworkPolicyNotEnforced"

// Config is what New needs.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	// Held tells whether some pod of this node has the address; nil: none has one that the API does not show.
	Held func(netip.Addr) bool
}

// Enforcer keeps one node's table.
type Enforcer struct {
	cfg   Config
	log   *slog.Logger
	table Table
	wake  chan struct{} // something has changed
	hurry chan struct{} // and a pod waits for it

	mu    sync.Mutex
	model *rules.Model
	pods  map[rules.IP]owner
	// changed counts changes of the model, applied is its value when the ruleset was taken that the kernel has. ready: all has been listed.
	changed, applied uint64
	ready            bool
	failure          error         // of the last transaction
	moved            chan struct{} // closed and made anew when applied or failure changes
}

// owner is the pod that an address belongs to. Protected ones are known from the agent, which knows best: until it says otherwise, no other pod that the
// API shows with the address, such as one that had it before, takes it over.
type owner struct {
	uid       types.UID
	pod       *rules.Pod
	protected bool
}

// New makes an Enforcer; nothing is watched or written before Run.
func New(cfg Config) *Enforcer {
	if cfg.Held == nil {
		cfg.Held = func(netip.Addr) bool { return false }
	}
	return &Enforcer{cfg: cfg, log: slog.With("component", "policy"), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		model: rules.NewModel(), pods: map[rules.IP]owner{}, moved: make(chan struct{})}
}

// Run enforces policies until ctx ends. The rules stay behind, so that pods stay protected while this process restarts.
func (e *Enforcer) Run(ctx context.Context) error {
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: e.cfg.Client.CoreV1().Events("")})
	defer events.Shutdown()
	synced, err := e.watch(ctx)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	e.mu.Lock()
	e.ready = true
	e.mu.Unlock()
	e.loop(ctx, events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "coracle-policy", Host: e.cfg.NodeName}))
	return nil
}

// watch starts the informers. The functions that it gives tell when all that was listed first is in the model.
func (e *Enforcer) watch(ctx context.Context) ([]cache.InformerSynced, error) {
	policies := client.Informers(e.cfg.Client).Networking().V1().NetworkPolicies().Informer()
	pods := client.Informers(e.cfg.Client, informers.WithTransform(trimPod), only(func(o *metav1.ListOptions) {
		o.FieldSelector = "spec.nodeName=" + e.cfg.NodeName
	})).Core().V1().Pods().Informer()
	peers := client.Informers(e.cfg.Client, informers.WithNamespace(netpolicy.Namespace), only(func(o *metav1.ListOptions) {
		o.LabelSelector = netpolicy.Label + "," + discoveryv1.LabelManagedBy + "=" + netpolicy.ManagedBy
	})).Discovery().V1().EndpointSlices().Informer()
	var synced []cache.InformerSynced
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		changed  func(obj any, gone bool)
	}{{policies, e.policyChanged}, {pods, e.podChanged}, {peers, e.peersChanged}} {
		registration, err := w.informer.AddEventHandler(handler(w.changed))
		if err != nil {
			return nil, err
		}
		synced = append(synced, registration.HasSynced)
		go w.informer.Run(ctx.Done())
	}
	return synced, nil
}

func only(narrow func(*metav1.ListOptions)) informers.SharedInformerOption {
	return informers.WithTweakListOptions(func(o *metav1.ListOptions) { client.Newest(o); narrow(o) })
}

func handler(changed func(obj any, gone bool)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { changed(obj, false) },
		UpdateFunc: func(_, obj any) { changed(obj, false) },
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			changed(obj, true)
		},
	}
}

// trimPod keeps what rules depend on.
func trimPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Labels: pod.Labels, ResourceVersion: pod.ResourceVersion},
		Spec:       corev1.PodSpec{HostNetwork: pod.Spec.HostNetwork, Containers: trimContainers(pod.Spec.Containers), InitContainers: trimContainers(pod.Spec.InitContainers)},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs},
	}
	return kept, nil
}

func trimContainers(list []corev1.Container) []corev1.Container {
	var kept []corev1.Container
	for i := range list {
		if len(list[i].Ports) > 0 {
			kept = append(kept, corev1.Container{Ports: list[i].Ports, RestartPolicy: list[i].RestartPolicy})
		}
	}
	return kept
}

// change runs do, which changes the model, and has the change applied.
func (e *Enforcer) change(do func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	do()
	e.changed++
	poke(e.wake)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (e *Enforcer) policyChanged(obj any, gone bool) {
	p, ok := obj.(*networkingv1.NetworkPolicy)
	if !ok {
		return
	}
	e.change(func() {
		if gone {
			e.model.SetPolicy(p.Namespace, p.Name, nil)
			return
		}
		e.model.SetPolicy(p.Namespace, p.Name, p)
	})
}

func (e *Enforcer) peersChanged(obj any, gone bool) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	var elements []rules.Element
	if !gone {
		elements = elementsOf(slice)
	}
	e.change(func() { e.model.SetPeers(slice.Labels[netpolicy.Label], slice.Name, elements) })
}

// elementsOf are the addresses that a slice publishes, or with ports the endpoints.
func elementsOf(slice *discoveryv1.EndpointSlice) []rules.Element {
	var elements []rules.Element
	for i := range slice.Endpoints {
		for _, text := range slice.Endpoints[i].Addresses {
			addr, ok := rules.ParseIP(text)
			if !ok {
				continue
			}
			if len(slice.Ports) == 0 {
				elements = append(elements, rules.Element{Addr: addr})
			}
			for _, p := range slice.Ports {
				if p.Port != nil && *p.Port > 0 && *p.Port <= math.MaxUint16 {
					elements = append(elements, rules.NewEndpoint(addr, netpolicy.ProtocolOf(p.Protocol), uint16(*p.Port)))
				}
			}
		}
	}
	return elements
}

// podChanged follows the labels and addresses that the API shows. A pod that is gone there but holds its address, as one whose deletion was forced,
// may run for a moment yet: Release ends that.
func (e *Enforcer) podChanged(obj any, gone bool) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	addr, has := rules.ParseIP(netpolicy.Address(pod))
	runs := !gone && netpolicy.HasNetwork(pod)
	for known, o := range e.pods { // at most as many as the node has pods
		switch {
		case o.uid != pod.UID || runs && has && known == addr:
		case runs && !has:
			addr, has = known, true // from Protect; the status is yet to come
		case !e.cfg.Held(netip.AddrFrom4(known)):
			e.forget(known)
		}
	}
	if before := e.pods[addr]; runs && has && (before.uid == pod.UID || !before.protected) {
		e.set(addr, owner{uid: pod.UID, pod: podOf(pod), protected: before.protected})
	}
}

func (e *Enforcer) forget(addr rules.IP) {
	delete(e.pods, addr)
	e.model.SetPod(addr, nil)
	e.changed++
	poke(e.wake)
}

func (e *Enforcer) set(addr rules.IP, o owner) {
	before, had := e.pods[addr]
	e.pods[addr] = o
	if had && before.pod.Equal(o.pod) {
		return
	}
	e.model.SetPod(addr, o.pod)
	e.changed++
	poke(e.wake)
}

func podOf(pod *corev1.Pod) *rules.Pod {
	p := &rules.Pod{Namespace: pod.Namespace, Labels: pod.Labels, Ports: map[netpolicy.Port]uint16{}}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for j := range list[i].Ports {
				port := netpolicy.Port{Name: list[i].Ports[j].Name, Protocol: netpolicy.ProtocolOf(&list[i].Ports[j].Protocol)}
				if number, ok := netpolicy.PortOf(&pod.Spec, port); ok && port.Name != "" {
					p.Ports[port] = uint16(number)
				}
			}
		}
	}
	return p
}

// Protect puts in force what the cluster's policies say of a pod that has got its addresses, and comes back when that is done: before, the pod must not
// run. It fails where the policies are not known yet, because the API server was not reached since this process began, or, for a pod that some policy
// isolates, where the kernel refuses.
func (e *Enforcer) Protect(ctx context.Context, pod *corev1.Pod, addrs []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, protectWithin)
	defer cancel()
	e.mu.Lock()
	for _, a := range addrs {
		if a.Is4() {
			e.set(a.As4(), owner{uid: pod.UID, pod: podOf(pod), protected: true})
		}
	}
	want := e.changed
	e.mu.Unlock()
	poke(e.hurry)
	for {
		e.mu.Lock()
		moved, failure := e.moved, e.failure
		done := e.ready && (e.applied >= want || failure != nil && !e.isolated(addrs))
		e.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if failure == nil {
				failure = errors.New("the cluster's policies are not known yet")
			}
			return fmt.Errorf("network policies: %w", failure)
		}
	}
}

func (e *Enforcer) isolated(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() && e.model.Isolated(a.As4()) })
}

// Release says that the pod of that UID has the address no more. Another may have got it already, and keeps its rules.
func (e *Enforcer) Release(uid string, addr netip.Addr) {
	if !addr.Is4() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pods[addr.As4()].uid == types.UID(uid) {
		e.forget(addr.As4())
	}
}

// loop applies what there is, then what changes.
func (e *Enforcer) loop(ctx context.Context, events record.EventRecorder) {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	retry := firstRetry
	due := time.After(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
			if due == nil {
				due = time.After(settle)
			}
			continue
		case <-e.hurry:
		case <-due:
		case <-check.C:
			if intact, err := e.table.Intact(); err != nil || intact {
				continue
			}
			e.log.Warn("the table of network policies was changed by someone else; making it anew")
			e.table.Forget()
		}
		due = nil
		if err := e.apply(); err != nil {
			e.log.Error("cannot enforce network policies; trying again", "error", err)
			e.report(events, err)
			due, retry = time.After(retry), min(2*retry, lastRetry)
			continue
		}
		retry = firstRetry
	}
}

// apply makes the table what the model says.
func (e *Enforcer) apply() error {
	e.mu.Lock()
	ruleset, version := e.model.Ruleset(), e.changed
	e.mu.Unlock()
	err := e.table.Update(ruleset)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failure = err; err == nil {
		e.applied = version
	}
	close(e.moved)
	e.moved = make(chan struct{})
	return err
}

func (e *Enforcer) report(events record.EventRecorder, err error) {
	node := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: e.cfg.NodeName, UID: types.UID(e.cfg.NodeName)} // as the kubelet refers to it
	text := err.Error()
	if strings.Contains(text, "operation not supported") || strings.Contains(text, "no such file or directory") {
		text += "; the kernel needs nf_tables with sets of intervals and concatenations (5.6 and newer) and connection tracking"
	}
	events.Event(node, corev1.EventTypeWarning, reasonNotEnforced, "Network policies are not enforced: "+text)
}
