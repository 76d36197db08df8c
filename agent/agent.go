package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/csi"
	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/agent/imagegc"
	"github.com/coracle-dev/coracle/agent/localvolumes"
	"github.com/coracle-dev/coracle/agent/manifests"
	"github.com/coracle-dev/coracle/agent/node"
	"github.com/coracle-dev/coracle/agent/objects"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/probes"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/volumes"
	"github.com/coracle-dev/coracle/internal/client"
	storage "github.com/coracle-dev/coracle/internal/volumes"
)

// Agent runs the pods of one node.
type Agent struct {
	cfg      Config
	client   kubernetes.Interface
	recorder record.EventRecorder
	objects  *objects.Cache
	drivers  *csi.Drivers
	volumes  *volumes.Manager
	kept     *localvolumes.Keeper
	asker    *probes.Asker
	probes   *probes.Manager
	services corelisters.ServiceLister
	reporter *node.Reporter
	guard    *eviction.Manager
	garbage  *imagegc.Collector
	facts    node.Facts
	dns      podspec.DNS
	hostname string
	qos      qosGroups
	forPods  v1.ResourceList // what of the machine is not reserved
	pulls    *pulls
	starts   chan struct{} // one element for each container being started

	node     atomic.Pointer[v1.Node]
	network  networkState
	adopted  atomic.Bool // all pods that the API server had at the start have a worker
	listed   atomic.Bool // the runtime has told what it runs
	down     bool        // the runtime did not answer the reporter's last question
	goesDown atomic.Bool // the machine is about to go down

	registered   chan struct{} // closed when node is set
	registerOnce sync.Once

	// allocating is held while the node's resources are given to a pod; it comes before mu, which comes before a worker's.
	allocating sync.Mutex

	statics *statics

	mu      sync.Mutex
	workers map[string]*worker // by pod UID
	seen    map[string]bool    // UIDs that had a worker, until orphans are adopted; nil from then on
	wg      sync.WaitGroup
}

// Run registers the node and runs its pods until ctx ends. What runs then goes on running: the next Run takes it over.
func Run(ctx context.Context, cfg Config) error {
	a, err := newAgent(ctx, cfg)
	if err != nil {
		return err
	}
	return a.run(ctx)
}

func newAgent(ctx context.Context, cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	c, err := client.Config{RestConfig: cfg.RestConfig, Component: "agent"}.Clientset()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.Layout.Pods(), cfg.Layout.PodLogs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	a := &Agent{statics: newStatics(), network: newNetworkState(), cfg: cfg, client: c, workers: map[string]*worker{}, seen: map[string]bool{}, registered: make(chan struct{}),
		starts: make(chan struct{}, max(4, 2*goruntime.NumCPU())), pulls: newPulls(cfg.Images, cfg.ParallelPulls)}
	if a.facts, err = node.ReadFacts("/", cfg.Layout.Data); err != nil {
		return nil, err
	}
	a.qos.written = map[string]runtime.Resources{}
	a.forPods = node.ForPods(a.facts, cfg.Reserved)
	a.facts.Info.KubeletVersion = KubeletVersion()
	a.facts.Info.ContainerRuntimeVersion = cfg.RuntimeVersion
	a.hostname = a.facts.Host
	a.dns.Domain = cfg.ClusterDomain
	for _, ip := range cfg.ClusterDNS {
		a.dns.Servers = append(a.dns.Servers, ip.String())
	}
	a.objects = objects.New(ctx, c, cfg.Log)
	a.kept = localvolumes.New(localvolumes.Config{Client: c, Node: cfg.NodeName, Folder: cfg.Layout.Volumes(), Event: a.event, Log: cfg.Log})
	a.drivers = csi.New(csi.Config{Client: c, NodeName: cfg.NodeName, Dir: cfg.Layout.Kubelet(), Log: cfg.Log,
		Changed: func() { a.reporter.Poke() }})
	a.volumes = volumes.New(volumes.Config{Root: cfg.Layout.Pods(), Objects: a.objects, Images: cfg.VolumeImages, Provisioned: a.kept, Drivers: a.drivers, Node: a.node.Load})
	a.asker = probes.NewAsker(a.exec)
	a.probes = probes.New(ctx, a.asker, a)
	return a, nil
}

func (a *Agent) run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	a.recorder = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: a.cfg.NodeName})
	a.reporter = a.newReporter()
	a.garbage = a.newCollector()
	a.guard = a.newGuard(ctx)

	factory := client.Informers(a.client)
	a.services = factory.Core().V1().Services().Lister()
	servicesSynced := factory.Core().V1().Services().Informer().HasSynced
	pods := client.Informers(a.client, one(fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName))).Core().V1().Pods().Informer()
	nodes := client.Informers(a.client, one(fields.OneTermEqualSelector("metadata.name", a.cfg.NodeName))).Core().V1().Nodes().Informer()
	if _, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { a.observeNode(ctx, obj.(*v1.Node)) },
		UpdateFunc: func(_, obj any) { a.observeNode(ctx, obj.(*v1.Node)) },
	}); err != nil {
		return err
	}
	defer a.wg.Wait()
	defer a.probes.Close()
	defer factory.Shutdown()
	factory.Start(ctx.Done())
	a.wg.Go(func() { nodes.RunWithContext(ctx) })
	a.wg.Go(func() { _ = a.reporter.Run(ctx) })
	a.wg.Go(func() { a.keepNetwork(ctx) })
	if !a.listRuntime(ctx) {
		return nil
	}
	events := a.cfg.Sandboxes.Events(ctx)
	a.wg.Go(func() { a.follow(ctx, events) })
	a.wg.Go(func() { a.runStatic(ctx) }) // they need no API server
	a.wg.Go(func() { a.awaitShutdown(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), servicesSynced) || !a.awaitNode(ctx) {
		return nil
	}
	registration, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { a.observePod(ctx, obj.(*v1.Pod)) },
		UpdateFunc: func(old, obj any) {
			if o, p := old.(*v1.Pod), obj.(*v1.Pod); o.UID != p.UID {
				a.vanished(ctx, o)
			}
			a.observePod(ctx, obj.(*v1.Pod))
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if p, ok := obj.(*v1.Pod); ok {
				a.vanished(ctx, p)
			}
		},
	})
	if err != nil {
		return err
	}
	a.wg.Go(func() { pods.RunWithContext(ctx) })
	a.wg.Go(func() { a.guard.Run(ctx) })
	a.wg.Go(func() { a.keepVolumes(ctx) })
	a.wg.Go(func() { a.runDrivers(ctx) })
	a.wg.Go(func() { a.watchClock(ctx) })
	if a.cfg.Serve != nil {
		a.wg.Go(func() { a.serve(ctx, pods.GetStore()) })
	}
	if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		a.wg.Go(func() { a.keepMirrors(ctx, pods.GetStore()) })
		a.adoptOrphans(ctx)
		a.adopted.Store(true)
		a.weighQOS()
		a.allocate()
		a.wg.Go(func() { a.garbage.Run(ctx) }) // not before: it must know every pod
	}
	<-ctx.Done()
	return nil
}

// serve runs the node's API. Without it pods run on, so its failure is not the agent's.
func (a *Agent) serve(ctx context.Context, pods cache.Store) {
	if err := a.cfg.Serve(ctx, nodePods{a, pods}); err != nil && ctx.Err() == nil {
		a.cfg.Log.Error("the node's API ended", "error", err)
	}
}

func one(selector fields.Selector) informers.SharedInformerOption {
	return informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = selector.String() })
}

func (a *Agent) newReporter() *node.Reporter {
	c := a.cfg
	handler := v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(c.Support.RecursiveReadOnly), UserNamespaces: new(c.Support.UserNamespaces == "")}
	return node.New(node.Config{Client: a.client, Handler: handler, Handlers: c.Handlers, Name: c.NodeName, IPs: c.NodeIPs, PodCIDR: c.PodCIDR, ControlPlane: c.ControlPlane,
		Labels: c.Labels, Annotations: map[string]string{storage.LocalFolders: c.Layout.Volumes()}, Taints: c.Taints, MaxPods: c.MaxPods, Reserved: a.reserved(), Port: c.Port, Facts: a.facts, LeaseDuration: c.LeaseDuration,
		Pressure:     func() []v1.NodeConditionType { return a.guard.Conditions() },
		VolumesInUse: a.volumesInUse, Look: a.look, Network: c.Network.Status, Recorder: a.recorder, Log: c.Log})
}

// look lists the images, and says what keeps the node from running pods.
func (a *Agent) look(ctx context.Context) (images []runtime.Image, notReady []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	images, err := a.cfg.Images.List(ctx)
	a.noteRuntime(err)
	if err != nil || !a.listed.Load() {
		notReady = append(notReady, "container runtime is down")
	}
	if a.goesDown.Load() {
		notReady = append(notReady, shuttingDown)
	}
	if why := a.network.notReady(); why != "" {
		notReady = append(notReady, "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:"+why)
	}
	return images, notReady
}

// noteRuntime logs when the runtime stops answering, and when it answers again.
func (a *Agent) noteRuntime(err error) {
	switch {
	case err != nil && !a.down:
		a.cfg.Log.Warn("the container runtime does not answer", "error", err)
	case err == nil && a.down:
		a.cfg.Log.Info("the container runtime answers again")
	}
	a.down = err != nil
}

// listRuntime asks the runtime what it runs, until it answers.
func (a *Agent) listRuntime(ctx context.Context) bool {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		_, err := a.cfg.Sandboxes.List(ctx)
		if err == nil {
			a.listed.Store(true)
			a.reporter.Poke()
			return true
		}
		a.cfg.Log.Debug("container runtime does not answer yet", "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// awaitNode waits until the node is registered: admission needs it.
func (a *Agent) awaitNode(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-a.registered:
		return true
	}
}

// observeNode takes the node as the API server has it, and its range of pod addresses once it has one.
func (a *Agent) observeNode(ctx context.Context, n *v1.Node) {
	old := a.node.Swap(n)
	if old != nil && !equality.Semantic.DeepEqual(old.Status.Allocatable, n.Status.Allocatable) {
		a.allocate()
	}
	a.registerOnce.Do(func() { close(a.registered) })
	a.reporter.Observe(n)
	if old == nil || old.Spec.PodCIDR != n.Spec.PodCIDR {
		a.network.poke()
	}
}

// follow wakes the workers of pods of which something ended.
func (a *Agent) follow(ctx context.Context, events <-chan string) {
	for {
		select {
		case <-ctx.Done():
			return
		case uid, ok := <-events:
			if !ok {
				return
			}
			if w := a.worker(uid); w != nil {
				w.poke()
			}
		}
	}
}

func (a *Agent) worker(uid string) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

// observePod hands the pod to its worker, which is made for a new one.
func (a *Agent) observePod(ctx context.Context, pod *v1.Pod) {
	if manifests.MirrorOf(pod) != "" {
		a.observeMirror(pod)
		return
	}
	a.mu.Lock()
	w := a.workers[string(pod.UID)]
	a.mu.Unlock()
	if w != nil {
		w.update(pod)
		return
	}
	a.allocating.Lock()
	defer a.allocating.Unlock()
	w = newWorker(a, pod)
	w.state.Rejection = a.admit(pod, len(a.cfg.Sandboxes.Pod(string(pod.UID)).Containers) > 0)
	a.start(ctx, w)
}

func (a *Agent) start(ctx context.Context, w *worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	a.workers[w.ref.UID] = w
	if a.seen != nil {
		a.seen[w.ref.UID] = true
	}
	a.wg.Go(func() {
		w.run(ctx)
		if ctx.Err() == nil {
			a.mu.Lock()
			delete(a.workers, w.ref.UID)
			a.mu.Unlock()
			if w.ended != nil {
				w.ended()
			}
		}
	})
}

// vanished tells the worker that its pod is no longer in the API server.
func (a *Agent) vanished(_ context.Context, pod *v1.Pod) {
	if manifests.MirrorOf(pod) != "" {
		a.statics.lost(pod)
		return
	}
	if w := a.worker(string(pod.UID)); w != nil {
		w.vanish(pod)
	}
}

// adoptOrphans ends what runs, or lies about, of pods that were deleted while the agent was away.
func (a *Agent) adoptOrphans(ctx context.Context) {
	found, err := a.cfg.Sandboxes.List(ctx)
	if err != nil {
		a.cfg.Log.Warn("orphaned pods not looked for", "error", err)
		return
	}
	folders, err := a.volumes.Known()
	if err != nil {
		a.cfg.Log.Warn("orphaned volumes not looked for", "error", err)
	}
	for _, uid := range folders {
		found[string(uid)] = a.cfg.Sandboxes.Pod(string(uid))
	}
	for uid := range a.cfg.Network.Pods() {
		found[uid] = a.cfg.Sandboxes.Pod(uid)
	}
	a.mu.Lock()
	seen := a.seen
	a.mu.Unlock()
	for uid, pod := range found {
		// One whose worker has come and gone meanwhile is none.
		if !seen[uid] {
			a.startOrphan(ctx, uid, pod)
		}
	}
	a.mu.Lock()
	a.seen = nil
	a.mu.Unlock()
}

// startOrphan gives what is left of a pod a worker that ends it.
func (a *Agent) startOrphan(ctx context.Context, uid string, found runtime.Pod) {
	pod := orphan(uid, found)
	a.cfg.Log.Info("ending a pod that no longer exists", "uid", uid, "pod", pod.Namespace+"/"+pod.Name)
	w := newWorker(a, pod)
	w.state.Gone = true
	a.start(ctx, w)
}

// orphan is what can be told of a pod by its containers alone.
func orphan(uid string, found runtime.Pod) *v1.Pod {
	pod := &v1.Pod{}
	pod.UID, pod.Spec.RestartPolicy = apiUID(uid), v1.RestartPolicyNever
	if found.Sandbox != nil {
		pod.Name, pod.Namespace = found.Sandbox.Pod.Name, found.Sandbox.Pod.Namespace
	}
	for _, rc := range found.Containers {
		pod.Name, pod.Namespace = rc.Pod.Name, rc.Pod.Namespace
		if !slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return c.Name == rc.Name }) {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: rc.Name})
		}
		if g := podspec.Observed(rc).Grace; g >= 0 {
			pod.Spec.TerminationGracePeriodSeconds = new(int64(g.Seconds()))
		}
	}
	return pod
}

// allocatable is what the node offers to pods.
func (a *Agent) allocatable() v1.ResourceList {
	if n := a.node.Load(); n != nil {
		return n.Status.Allocatable
	}
	return nil
}

// machine is what of the node decides about cgroups.
func (a *Agent) machine() podspec.Machine {
	return podspec.Machine{Memory: a.facts.Memory, PageSizes: a.facts.PageSizes(), PodPids: a.cfg.PodPids}
}

func (a *Agent) hostResolv() string {
	data, err := os.ReadFile(a.cfg.ResolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.cfg.Log.Warn(fmt.Sprintf("%s not read", a.cfg.ResolvConf), "error", err)
	}
	return string(data)
}
