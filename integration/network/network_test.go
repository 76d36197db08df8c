// Package network tests the network across the nodes of a lab: that everything is reached from everywhere, that no connection is lost to what
// is none of its business, and that the cluster comes through the loss of nodes and of the links between them.
package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// How soon the lab's control plane notices that a node is gone, and how long pods stay there afterwards.
const (
	grace      = 6 * time.Second
	toleration = 2 * time.Second
	// leaseSeconds is four times the time between a node's signs of life.
	leaseSeconds = 6
)

// suite is a lab and what its tests share.
type suite struct {
	*testing.T
	ctx  context.Context
	lab  *cluster.Lab
	kube kubernetes.Interface
	demo string // the demo program, for clients outside of pods
	ns   string
	all  []*place // set while nothing changes
}

// TestNetwork has all tests of one lab: those that only look run side by side, then those that break things, one after the other.
func TestNetwork(t *testing.T) {
	l := cluster.NewLab(t, 3,
		fmt.Sprintf("--server-flag=--node-monitor-grace-period=%s", grace),
		fmt.Sprintf("--server-flag=--default-unreachable-toleration-seconds=%.0f", toleration.Seconds()),
		fmt.Sprintf("--server-flag=--default-not-ready-toleration-seconds=%.0f", toleration.Seconds()),
		fmt.Sprintf("--agent-flag=--node-lease-duration=%ds", leaseSeconds))
	s := &suite{T: t, ctx: context.Background(), lab: l, kube: l.Client(), demo: buildDemo(t)}
	t.Run("reach", func(t *testing.T) { s.in(t, "reach").testReach() })
	t.Run("disturbed", func(t *testing.T) { s.in(t, "disturbed").testDisturbed() })
	t.Run("failures", func(t *testing.T) { s.in(t, "failures").testFailures() })
}

// in is the suite for a subtest, with a namespace of its own, which goes with it.
func (s *suite) in(t *testing.T, ns string) *suite {
	t.Helper()
	of := s.of(t)
	of.ns = ns
	_, err := s.kube.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	of.must(err)
	of.eventually(func() error {
		_, err := s.kube.CoreV1().ServiceAccounts(ns).Get(s.ctx, "default", metav1.GetOptions{})
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.lab.TryKubectl("", "get", "nodes,pods,endpointslices,events", "-n", ns, "-o", "wide")
			t.Logf("at the end:\n%s", out)
		}
		of.must(s.kube.CoreV1().Namespaces().Delete(s.ctx, ns, metav1.DeleteOptions{}))
	})
	return of
}

// of is the same suite for a subtest.
func (s *suite) of(t *testing.T) *suite {
	copied := *s
	copied.T, copied.lab = t, s.lab.For(t)
	return &copied
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// eventually waits up to a minute until condition gives nil.
func (s *suite) eventually(condition func() error) {
	s.Helper()
	cluster.Eventually(s.T, time.Minute, condition)
}

// buildDemo compiles the program of the demo image for use outside of pods.
func buildDemo(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./cmd/demo")
	build.Dir, build.Env = testenv.Repository(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the demo program: %v\n%s", err, out)
	}
	return program
}

// machine gives what runs commands and dials in the network of one of the lab's machines, as it is now.
func (s *suite) machine(name string) *cluster.Cluster {
	s.Helper()
	return s.lab.Machine(name)
}

// place is from where something is asked.
type place struct {
	name string
	// address is what others see of it: a pod's, a node's, or the host's on the lab's bridge.
	address string
	node    string // empty outside
	pod     *corev1.Pod
	at      *cluster.Cluster
}

// ask asks a URL of the demo program's kinds from there.
func (p *place) ask(s *suite, url string) (string, error) {
	if p.pod != nil {
		url = fmt.Sprintf("http://%s:%d/ask?url=%s", p.address, webPort, escape(url))
	}
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	cmd := p.at.Command(s.demo, "ask", "-T", "4s", url)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s asks %s: %w: %s", p.name, url, err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// escape makes a URL a parameter of another.
func escape(url string) string {
	return strings.NewReplacer("%", "%25", "&", "%26", "?", "%3F", "#", "%23", " ", "%20").Replace(url)
}

// nodeIPs are the nodes' addresses by name.
func (s *suite) nodeIPs() map[string]string {
	s.Helper()
	nodes, err := s.kube.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	found := map[string]string{}
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				found[n.Name] = a.Address
			}
		}
	}
	return found
}

// outside is the host of the lab, on its bridge.
func (s *suite) outside() *place {
	s.Helper()
	node := s.nodeIPs()[s.lab.Nodes[0]]
	return &place{name: "outside", address: node[:strings.LastIndex(node, ".")] + ".1", at: s.lab.Cluster}
}

// places are one pod of an app on each node, each node, and outside.
func (s *suite) places(app string) []*place {
	s.Helper()
	all := []*place{s.outside()}
	pods := s.pods(app)
	for name, ip := range s.nodeIPs() {
		at := s.machine(name)
		all = append(all, &place{name: name, address: ip, node: name, at: at})
		if i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == name }); i >= 0 {
			all = append(all, &place{name: pods[i].Name, address: pods[i].Status.PodIP, node: name, pod: &pods[i], at: at})
		}
	}
	return all
}

// pods are those of an app that are ready and do not go.
func (s *suite) pods(app string) []corev1.Pod {
	s.Helper()
	l, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	s.must(err)
	return slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !podReady(&p) })
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// names are sorted.
func names(pods []corev1.Pod) []string {
	var all []string
	for i := range pods {
		all = append(all, pods[i].Name)
	}
	slices.Sort(all)
	return all
}

// readyNodes waits until these nodes are Ready, and no others.
func (s *suite) readyNodes(want ...string) {
	s.Helper()
	s.eventually(func() error {
		nodes, err := s.kube.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, n := range nodes.Items {
			if slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				got = append(got, n.Name)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("ready are %v, want %v", got, want)
		}
		return nil
	})
}

// parallel runs tests side by side.
func (s *suite) parallel(tests map[string]func(*suite)) {
	for name, test := range tests {
		s.Run(name, func(t *testing.T) {
			t.Parallel()
			test(s.of(t))
		})
	}
}

// each calls do for every one at the same time, and gives all their errors.
func each[T any](all []T, do func(T) error) error {
	results := make(chan error)
	for _, one := range all {
		go func() { results <- do(one) }()
	}
	var errs []error
	for range all {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}
