// Package simulate is nodes without machines: it registers as many Nodes as asked, keeps their Leases and statuses, and takes the pods bound to them through
// a life in which nothing runs. Control planes are tried at scale with it.
//
// What a pod's status says is decided by package lifecycle, as on a real node; only the runtime is a pretence, whose actions take the time
// that Config or the pod's annotations say.
//
// Invariant: one watch of pods and one of nodes serve all nodes, and nothing is asked or written while nothing changes but
// for Leases. What a simulator knows of a pod can be rebuilt from its status, so that the next one takes over where this one ended.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/internal/client"
)

// What simulated nodes and pods carry.
const (
	// LabelNode is on every simulated node, with the value "true". Used as the key of a taint it keeps other pods away.
	LabelNode = "simulate.coracle.dev/node"
	// LabelState on a node is obeyed while the simulator runs: with the value StateDown the node is as if it had lost power.
	LabelState = "simulate.coracle.dev/state"
	StateDown  = "down"

	// AnnotationRunFor on a pod is how long its containers run, whatever its restart policy; "0" is for ever.
	AnnotationRunFor = "simulate.coracle.dev/run-for"
	// AnnotationExitCode is with what they end.
	AnnotationExitCode = "simulate.coracle.dev/exit-code"
	// AnnotationReadyAfter is how long after their start they become ready; "never" is never.
	AnnotationReadyAfter = "simulate.coracle.dev/ready-after"
)

// Defaults of Config.
const (
	DefaultPrefix  = "sim-"
	DefaultPodCIDR = "100.64.0.0/10" // RFC 6598: not used by clusters or machines
	addresses      = "198.18.0.0/15" // of nodes; RFC 2544: for tests of networks
)

// Config says what to simulate.
type Config struct {
	RestConfig *rest.Config
	// Nodes is how many there are; their names are Prefix with 0, 1, ...
	Nodes  int
	Prefix string
	// CPU, Memory and Pods are each node's capacity, all of which is offered.
	CPU, Memory resource.Quantity
	Pods        int
	// Zones is how many values of topology.kubernetes.io/zone the nodes are spread over; 0 leaves that label out.
	Zones  int
	Labels map[string]string
	Taints []v1.Taint
	// PodCIDR is what each node gets a /24 of. Where it is not valid the cluster gives nodes their ranges, and pods wait for it.
	PodCIDR netip.Prefix

	// Pending is how long a pod takes from its binding until its containers start, and Ready from then until they are ready. A state
	// that lasts no time is not written.
	Pending, Ready time.Duration
	// RunFor is how long containers run that are not to be restarted when they succeed; 0 is for ever.
	RunFor time.Duration
	// Terminate is how long a stopped container takes to end, at most its grace period.
	Terminate time.Duration
	// Fail is the share, from 0 to 1, of the ends by RunFor that are failures.
	Fail float64
	// LeaseInterval is how far apart a node's Lease renewals are; 10 s when zero.
	LeaseInterval time.Duration
	// Version is what nodes report as the kubelet's.
	Version string
	// Log tells how it goes; slog's default when nil.
	Log *slog.Logger
	// Registered, where set, is called once, when all nodes are.
	Registered func()
}

func (c *Config) complete() error {
	if c.RestConfig == nil || c.Nodes <= 0 {
		return errors.New("simulate: an API server and at least one node are needed")
	}
	if c.Fail < 0 || c.Fail > 1 {
		return fmt.Errorf("simulate: the share of failures is %v, not from 0 to 1", c.Fail)
	}
	setDefault(&c.Prefix, DefaultPrefix)
	setDefault(&c.Pods, 110)
	setDefault(&c.LeaseInterval, 10*time.Second)
	if c.CPU.IsZero() {
		c.CPU = resource.MustParse("32")
	}
	if c.Memory.IsZero() {
		c.Memory = resource.MustParse("64Gi")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Log = c.Log.With("component", "simulate")
	if c.PodCIDR.IsValid() {
		if room := ranges(c.PodCIDR); c.Nodes > room {
			return fmt.Errorf("simulate: %s has ranges for %d nodes, not for %d: give a larger one", c.PodCIDR, room, c.Nodes)
		}
	}
	return nil
}

func setDefault[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// simulator is one run.
type simulator struct {
	cfg   Config
	kube  kubernetes.Interface
	nodes map[string]*node
}

// Run registers the nodes and simulates them until ctx ends. They stay, and become NotReady as nodes do whose agents end; Clean removes them.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	kube, err := client.Config{RestConfig: cfg.RestConfig, Component: "simulate"}.Clientset()
	if err != nil {
		return err
	}
	s := &simulator{cfg: cfg, kube: kube, nodes: make(map[string]*node, cfg.Nodes)}
	for i := range cfg.Nodes {
		n := newNode(&s.cfg, i)
		s.nodes[n.name] = n
	}
	if err := s.registerAll(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	cfg.Log.Info("nodes are registered", "nodes", cfg.Nodes, "prefix", cfg.Prefix)
	if cfg.Registered != nil {
		cfg.Registered()
	}
	return s.run(ctx)
}

// Clean deletes the nodes of a prefix that simulators have registered, and returns how many they were.
func Clean(ctx context.Context, config *rest.Config, prefix string) (int, error) {
	kube, err := client.Config{RestConfig: config, Component: "simulate"}.Clientset()
	if err != nil {
		return 0, err
	}
	all, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: LabelNode}) // the newest: what is missed stays for ever
	if err != nil {
		return 0, err
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	count := 0
	for i := range all.Items {
		n := &all.Items[i]
		if !strings.HasPrefix(n.Name, prefix) {
			continue
		}
		count++
		g.Go(func() error {
			err := kube.CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &n.UID}})
			return ignoreGone(err)
		})
	}
	return count, g.Wait()
}
