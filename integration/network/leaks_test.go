package network

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// noLeaks compares what each node has with the pods that it should have: nothing is left of those that were.
func (s *suite) noLeaks() {
	s.Helper()
	machines := map[string]*cluster.Cluster{}
	for _, node := range s.lab.Nodes {
		machines[node] = s.machine(node)
	}
	s.eventually(func() error {
		l, err := s.kube.CoreV1().Pods(metav1.NamespaceAll).List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		return errors.Join(twice(l.Items), each(s.lab.Nodes, func(node string) error { return s.leaksOf(node, machines[node], l.Items) }))
	})
}

// twice complains of an address that two pods have.
func twice(pods []corev1.Pod) error {
	have := map[string]string{}
	for i := range pods {
		p := &pods[i]
		if p.Spec.HostNetwork || p.Status.PodIP == "" {
			continue
		}
		if other, taken := have[p.Status.PodIP]; taken {
			return fmt.Errorf("%s and %s both have %s", other, p.Name, p.Status.PodIP)
		}
		have[p.Status.PodIP] = p.Name
	}
	return nil
}

// podAddress finds pods' addresses in the listings of the kernel's tables; the first of a node's range is the gateway.
var podAddress = regexp.MustCompile(`\b10\.244\.\d+\.\d+\b`)

// podCgroup finds the ids of pods in the names of their cgroups.
var podCgroup = regexp.MustCompile(`pod[0-9a-f]{8}[-_][0-9a-f-_]{27}`)

func (s *suite) leaksOf(node string, at *cluster.Cluster, all []corev1.Pod) error {
	var own, addresses, everywhere []string // pods, their addresses, and those of the whole cluster
	for i := range all {
		p := &all[i]
		everywhere = append(everywhere, p.Status.PodIP)
		if p.Spec.NodeName == node {
			if own = append(own, string(p.UID)); !p.Spec.HostNetwork {
				addresses = append(addresses, p.Status.PodIP)
			}
		}
	}
	var errs []error
	list := func(what string, want int, command ...string) []string {
		out, err := at.Command(command[0], command[1:]...).Output()
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(l string) bool { return l == "" })
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %v: %w", node, command, err))
		} else if want >= 0 && len(lines) != want {
			errs = append(errs, fmt.Errorf("%s has %d %s, want %d:\n%s", node, len(lines), what, want, out))
		}
		return lines
	}
	list("links of pods", len(addresses), "sh", "-c", "ip -o link show type veth | grep ' cor' || true")
	list("routes to other nodes", len(s.lab.Nodes)-1, "ip", "route", "show", "dev", "coracle-vxlan")
	stale := func(what string, lines, known []string) {
		for _, line := range lines {
			for _, a := range podAddress.FindAllString(line, -1) {
				if !slices.Contains(known, a) && !strings.HasSuffix(a, ".0") && !strings.HasSuffix(a, ".1") {
					errs = append(errs, fmt.Errorf("%s has %s in %s: %s", node, a, what, strings.TrimSpace(line)))
				}
			}
		}
	}
	stale("its routes", list("", -1, "ip", "route"), addresses)
	rules := list("", -1, "nft", "list", "ruleset")
	lasting := slices.DeleteFunc(rules, func(l string) bool { return strings.Contains(l, " expires ") }) // the others are of clients, and go by themselves
	stale("its rules", lasting, everywhere)
	stale("its connections", list("", -1, "conntrack", "-L", "-p", "udp"), everywhere)
	errs = append(errs, s.processesOf(node, at, own))
	return errors.Join(errs...)
}

// processesOf compares shims, cgroups and mounts with the pods of a node.
func (s *suite) processesOf(node string, at *cluster.Cluster, pods []string) error {
	netns, err := os.Readlink(at.NetNS)
	if err != nil {
		return err
	}
	shims := 0
	cluster.Processes(func(_ int, dir string) {
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil && ns == netns {
			if exe, _ := os.Readlink(dir + "/exe"); strings.HasSuffix(exe, "containerd-shim-runc-v2") {
				shims++
			}
		}
	})
	var errs []error
	if shims != len(pods) {
		errs = append(errs, fmt.Errorf("%s has %d shims for %d pods", node, shims, len(pods)))
	}
	for what, script := range map[string]string{"cgroups": "find /sys/fs/cgroup -type d", "mounts": "cat /proc/mounts"} {
		out, err := s.lab.Exec(node, "sh", "-c", script)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", node, err, out)
		}
		for _, found := range podCgroup.FindAllString(out, -1) {
			if id := strings.ReplaceAll(strings.TrimPrefix(found, "pod"), "_", "-"); !slices.Contains(pods, id) {
				errs = append(errs, fmt.Errorf("%s has %s of the pod %s, which is gone", node, what, id))
			}
		}
	}
	return errors.Join(errs...)
}
