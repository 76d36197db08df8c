package simulate

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// byNode indexes pods by the node they are bound to.
const byNode = "node"

// runner is a simulator with its watches.
type runner struct {
	*simulator
	nodeLister corelisters.NodeLister
	pods       cache.Indexer
	nodeLoop   *loop.Loop
	podLoop    *loop.Loop
	lag        *loop.Lag

	mu      sync.Mutex
	records map[string]*record // by the pod's namespace/name; each is its key's worker's
}

func (s *simulator) run(ctx context.Context) error {
	r := &runner{simulator: s, lag: loop.NewLag(clock.Real{}), records: map[string]*record{}}
	log := s.cfg.Log
	r.nodeLoop = loop.New(loop.Config{Name: "simulated-nodes", Sync: func(ctx context.Context, name string) error {
		return r.patient(ctx, r.nodeLoop, name, r.syncNode(ctx, name))
	}, Workers: parallel, Log: log})
	r.podLoop = loop.New(loop.Config{Name: "simulated-pods", Sync: func(ctx context.Context, key string) error {
		return r.patient(ctx, r.podLoop, key, r.syncPod(ctx, key))
	}, Workers: parallel, Log: log})

	nodes := client.Informers(s.kube, only(func(o *metav1.ListOptions) { o.LabelSelector = LabelNode + "=true" }))
	pods := client.Informers(s.kube, only(func(o *metav1.ListOptions) { o.FieldSelector = "spec.nodeName!=" }),
		informers.WithTransform(s.trim))
	podInformer := pods.Core().V1().Pods().Informer()
	if err := podInformer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		if pod, ok := obj.(*v1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}}); err != nil {
		return err
	}
	r.pods, r.nodeLister = podInformer.GetIndexer(), nodes.Core().V1().Nodes().Lister()
	loop.On(r.nodeLoop, nodes.Core().V1().Nodes().Informer(), r.nodeChanged)
	loop.On(r.podLoop, podInformer, r.podChanged)
	r.podLoop.Wait(nodes.Core().V1().Nodes().Informer())
	for _, f := range []informers.SharedInformerFactory{nodes, pods} {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	return run.All(ctx, r.nodeLoop.Run, r.podLoop.Run)
}

// again is how soon what failed is tried again: agents do not wait ever longer for a server that was away, or their nodes would be given up.
const again = time.Second

// patient has a key that failed tried again after a while. A conflict with another writer is left to the loop, which tries at once.
func (r *runner) patient(ctx context.Context, l *loop.Loop, key string, err error) error {
	if err == nil || apierrors.IsConflict(err) || ctx.Err() != nil {
		return err
	}
	r.cfg.Log.Debug("failed, will retry", "key", key, "error", err)
	l.AddAfter(key, again)
	return nil
}

func only(tweak func(*metav1.ListOptions)) informers.SharedInformerOption {
	return informers.WithTweakListOptions(tweak)
}

// wakePods has the pods of a node looked at.
func (r *runner) wakePods(node string) {
	keys, err := r.pods.IndexKeys(byNode, node)
	if err != nil {
		return // there is no such index, which cannot be
	}
	for _, key := range keys {
		r.podLoop.Add(key)
	}
}

func (r *runner) podChanged(old, cur *v1.Pod) {
	pod := cur
	if pod == nil {
		pod = old
	}
	r.lag.Saw(pod.ResourceVersion)
	n := r.nodes[pod.Spec.NodeName]
	if n == nil {
		return
	}
	if old == nil && cur.Status.PodIP != "" && !terminal(&cur.Status) {
		n.claim(cur.Status.PodIP, cur.UID) // before any other pod is given one: loops wait for this
	}
	r.podLoop.AddObject(pod)
}

func terminal(s *v1.PodStatus) bool { return s.Phase == v1.PodSucceeded || s.Phase == v1.PodFailed }

// trim keeps of the pods on simulated nodes what their lives depend on, and of others that they are there.
func (s *simulator) trim(obj any) (any, error) {
	o, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	if s.nodes[o.Spec.NodeName] == nil {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}}, nil
	}
	pod := &v1.Pod{ObjectMeta: o.ObjectMeta, Status: o.Status}
	pod.ManagedFields = nil
	pod.Spec = v1.PodSpec{
		NodeName: o.Spec.NodeName, RestartPolicy: o.Spec.RestartPolicy, HostNetwork: o.Spec.HostNetwork, ReadinessGates: o.Spec.ReadinessGates,
		ActiveDeadlineSeconds: o.Spec.ActiveDeadlineSeconds, TerminationGracePeriodSeconds: o.Spec.TerminationGracePeriodSeconds,
		Resources: o.Spec.Resources, Containers: trimContainers(o.Spec.Containers), InitContainers: trimContainers(o.Spec.InitContainers),
	}
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].ReadinessProbe = &v1.Probe{} // its verdict is Config's
	}
	return pod, nil
}

func trimContainers(list []v1.Container) []v1.Container {
	var out []v1.Container
	for i := range list {
		c := &list[i]
		out = append(out, v1.Container{Name: c.Name, Image: c.Image, Resources: c.Resources, VolumeMounts: c.VolumeMounts,
			RestartPolicy: c.RestartPolicy, RestartPolicyRules: c.RestartPolicyRules})
	}
	return out
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
