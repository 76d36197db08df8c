// Package agent is the node's side of the cluster: it registers the node, runs the pods bound to it, and reports both.
//
// Each pod has one worker. The worker looks at the pod and at its containers, lets package lifecycle decide,
// carries the actions out and looks again; events only wake it. What it knows can be rebuilt from the API server and the
// runtime at any time, so that an agent that starts anew disturbs nothing that runs.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/agent/imagegc"
	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/volumes"
	"github.com/coracle-dev/coracle/internal/paths"
)

// Sandboxes are what a pod's containers share.
type Sandboxes interface {
	RunSandbox(ctx context.Context, cfg runtime.SandboxConfig) (*runtime.Sandbox, error)
	RemoveSandbox(ctx context.Context, uid string) error
	// ResizeSandbox gives the pod's cgroup other limits.
	ResizeSandbox(ctx context.Context, uid string, res runtime.Resources) error
	// SetCgroup gives a cgroup above the pods' those of the limits that are not zero.
	SetCgroup(path string, res runtime.Resources) error
	// Pod tells what is known of a pod, from memory.
	Pod(uid string) runtime.Pod
	// List rebuilds that memory.
	List(ctx context.Context) (map[string]runtime.Pod, error)
	// Events gives the UIDs of pods of which something ended.
	Events(ctx context.Context) <-chan string
}

// Containers run.
type Containers interface {
	Create(ctx context.Context, cfg runtime.ContainerConfig) (id string, err error)
	Start(ctx context.Context, id string) error
	// Stop ends the container with its stop signal, and after grace with SIGKILL; it returns when it has ended.
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	// Update changes the limits of a container that runs, and adds labels to its own.
	Update(ctx context.Context, id string, res runtime.Resources, labels map[string]string) error
	Exec(ctx context.Context, id string, cfg runtime.ExecConfig) (exitCode int, err error)
}

// Usage is what containers use; what there is none of uses nothing.
type Usage interface {
	Usage(id string) runtime.Usage
	PodUsage(uid string) runtime.Usage
	// Written is what a container has written to its root file system: bytes on disk, and files.
	Written(ctx context.Context, id string) (bytes, inodes int64, err error)
}

// Images are pulled and looked up.
type Images interface {
	Get(ctx context.Context, ref string) (runtime.Image, error)
	Pull(ctx context.Context, ref string, opts images.PullOptions) (runtime.Image, error)
	List(ctx context.Context) ([]runtime.Image, error)
	Remove(ctx context.Context, ref string) error
}

// Network gives pods their addresses.
type Network interface {
	// Configure brings the network up for the node's range of addresses, which is not valid as long as the node has none. It may be called again at any time.
	Configure(ctx context.Context, cidr netip.Prefix) error
	Setup(ctx context.Context, pod network.Pod) ([]netip.Addr, error)
	Teardown(ctx context.Context, pod runtime.PodRef) error
	// Pods lists who holds an address, by UID.
	Pods() map[string]netip.Addr
	// Status tells of the ways to other nodes; Changes has an element after that, or what Configure does, has become another.
	Status() network.Status
	Changes() <-chan struct{}
}

// Policies keep pods' traffic to what is allowed.
type Policies interface {
	// Protect puts in force what is said of a pod's traffic. It is called once the pod has its addresses, before any of its containers runs.
	Protect(ctx context.Context, pod *v1.Pod, addrs []netip.Addr) error
	// Release is called when the pod has the address no more; another may have got it already.
	Release(uid string, addr netip.Addr)
}

// NodePods are the pods of this node, for its API.
type NodePods interface {
	// Pod finds one by name.
	Pod(namespace, name string) (*v1.Pod, bool)
	Pods() []*v1.Pod
	// VolumePaths tells where a pod's volumes are that are in place, by name.
	VolumePaths(uid string) map[string]string
	// ProbeCounts tells how often each running container was probed, by the probe's kind and outcome.
	ProbeCounts(tell func(pod *v1.Pod, container, kind, outcome string, count uint64))
}

// Config is what Run needs.
type Config struct {
	RestConfig *rest.Config
	NodeName   string
	Layout     paths.Layout
	// NodeIPs are the node's own addresses, the first of each family counts.
	NodeIPs []netip.Addr
	// PodCIDR is used until, and unless, Node.spec.podCIDR says otherwise.
	PodCIDR netip.Prefix
	// ClusterDNS are the servers that pods ask; ClusterDomain is what they search.
	ClusterDNS    []netip.Addr
	ClusterDomain string
	// ControlPlane labels the node as one; Labels and Taints are added at registration.
	ControlPlane bool
	Labels       map[string]string
	Taints       []v1.Taint
	// MaxPods on this node; zero is 110.
	MaxPods int
	// Handlers are the names that RuntimeClasses have for the OCI runtimes that there are beside the default.
	Handlers []string
	// Reserved is kept from pods for the system and the cluster's own processes: cpu, memory, ephemeral-storage and pid.
	Reserved v1.ResourceList
	// PodPids is how many processes a pod may have; zero is any number.
	PodPids int64
	// CgroupRoot is the cgroup of all pods; empty is kubepods.
	CgroupRoot string
	// Shutdown is how pods end before their machine does.
	Shutdown Shutdown
	// LeaseDuration is how long the node's Lease is valid, in whole seconds; 40 s when zero. It is renewed four times as often.
	LeaseDuration time.Duration
	// Manifests is the folder of static pods; empty is none.
	Manifests string
	// ResolvConf is the host's; empty is /etc/resolv.conf.
	ResolvConf string
	// Port is where the node's own API listens, for Node.status; zero is none (it is reached by the tunnel).
	Port int32
	// ParallelPulls is how many images are pulled at once; zero is 5.
	ParallelPulls int
	// Eviction is how the node guards itself; the zero value holds pods to their limits of local storage alone.
	Eviction eviction.Policy
	// Observe reads what the node has left, Alarm (which may be nil) tells when memory runs short; SplitImages says that
	// images have a file system of their own.
	Observe     func(context.Context) (eviction.Observations, error)
	Alarm       <-chan struct{}
	SplitImages bool
	// ImageGC says when unused images are removed; nil removes none but where the disk is so full that pods would be evicted.
	ImageGC *imagegc.Policy

	// Support is what pods can have here beyond what every node gives them.
	Support podspec.Support

	Sandboxes  Sandboxes
	Containers Containers
	Usage      Usage
	Images     Images
	Network    Network
	// Policies may be nil: then all traffic is allowed.
	Policies Policies
	// VolumeImages mounts images as volumes; nil refuses such volumes.
	VolumeImages volumes.Images
	// Serve, if set, is run beside the pods: the node's API.
	Serve func(ctx context.Context, pods NodePods) error
	// RuntimeVersion is told in Node.status, as containerd://2.4.2.
	RuntimeVersion string
	Log            *slog.Logger
}

func (c *Config) complete() error {
	switch {
	case c.RestConfig == nil:
		return errors.New("agent: RestConfig is needed")
	case c.NodeName == "":
		return errors.New("agent: NodeName is needed")
	case len(c.NodeIPs) == 0:
		return errors.New("agent: the node has no address: name one with --node-ip")
	case c.Sandboxes == nil || c.Containers == nil || c.Usage == nil || c.Images == nil || c.Network == nil:
		return errors.New("agent: Sandboxes, Containers, Usage, Images and Network are needed")
	}
	if c.Shutdown.CriticalGrace > c.Shutdown.Grace {
		return errors.New("agent: the grace of critical pods at a shutdown is a part of the whole: it cannot be longer")
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "kubepods"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.ParallelPulls == 0 {
		c.ParallelPulls = 5
	}
	if c.Observe == nil {
		c.Observe = func(context.Context) (eviction.Observations, error) { return nil, nil }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Log = c.Log.With("component", "agent")
	return nil
}
