package network

import (
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// testDisturbed restarts one thing after the other while clients ask all the time.
func (s *suite) testDisturbed() {
	s.deployment("web", 6)
	s.service("web", "web", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	t := append(s.asking("web", s.lab.Nodes...), s.askingFromPods("web")...)
	begin := time.Now()
	t.flows(s)
	for _, step := range []struct {
		what string
		do   func() (gone []corev1.Pod)
	}{
		{"pods are replaced", s.rollOut},
		{"pods are fewer, and more", s.scale},
		{"agents and proxies are killed", func() []corev1.Pod { s.killEverywhere("agent"); return nil }},
		{"containerd is killed", func() []corev1.Pod { s.killEverywhere("containerd"); return nil }},
		{"the control plane is killed", s.restartServer},
	} {
		gone := step.do()
		t.flows(s)
		t.lost(s, step.what, excuse{gone: gone})
		s.Logf("%s: %v", step.what, time.Since(begin).Round(100*time.Millisecond))
		begin = time.Now()
	}
	t.report(s)
}

func (s *suite) patch(deployment, patch string) {
	s.Helper()
	_, err := s.kube.AppsV1().Deployments(s.ns).Patch(s.ctx, deployment, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	s.must(err)
}

// rolled waits until a Deployment has as many pods as it wants, all of its newest template, and no others are left.
func (s *suite) rolled(deployment string) {
	s.Helper()
	s.eventually(func() error {
		d, err := s.kube.AppsV1().Deployments(s.ns).Get(s.ctx, deployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		l, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + deployment})
		if err != nil {
			return err
		}
		if st := d.Status; st.ObservedGeneration != d.Generation || st.UpdatedReplicas != *d.Spec.Replicas || st.AvailableReplicas != *d.Spec.Replicas || len(l.Items) != int(*d.Spec.Replicas) {
			return fmt.Errorf("status %+v, %d pods", st, len(l.Items))
		}
		return nil
	})
}

func (s *suite) rollOut() []corev1.Pod {
	old := s.pods("web")
	s.patch("web", fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rolled":%q}}}}}`, time.Now().String()))
	s.rolled("web")
	return old
}

func (s *suite) scale() []corev1.Pod {
	old := s.pods("web")
	for _, n := range []int{2, 6} {
		s.patch("web", fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
		s.rolled("web")
	}
	return old
}

// killEverywhere kills a part on one node after the other, and waits for its successor; it disturbs no pod.
func (s *suite) killEverywhere(part string) {
	s.Helper()
	for _, node := range s.lab.Nodes {
		s.killPart(node, part)
	}
	s.readyNodes(s.lab.Nodes...)
}

// killPart kills "agent" (with the proxy) or "containerd" of a machine, and waits for another.
func (s *suite) killPart(machine, part string) {
	s.Helper()
	old := s.part(machine, part)
	if len(old) != 1 {
		s.Fatalf("%s of %s: processes %v", part, machine, old)
	}
	s.must(unix.Kill(old[0], unix.SIGKILL))
	s.eventually(func() error {
		if now := s.part(machine, part); len(now) != 1 || now[0] == old[0] {
			return fmt.Errorf("%s of %s: processes %v", part, machine, now)
		}
		return nil
	})
}

// part lists the processes of a machine that are coracle in one of its roles.
func (s *suite) part(machine, role string) []int {
	s.Helper()
	netns := s.machine(machine).NetNS
	want, err := os.Readlink(netns)
	s.must(err)
	var found []int
	cluster.Processes(func(pid int, dir string) {
		if ns, err := os.Readlink(dir + "/ns/net"); err != nil || ns != want {
			return
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(line), "\x00")
		if len(args) > 1 && strings.HasSuffix(args[0], "coracle") && args[1] == role {
			found = append(found, pid)
		}
	})
	return found
}

func (s *suite) restartServer() []corev1.Pod {
	s.lab.MustLab("kill", "server")
	time.Sleep(2 * time.Second)
	s.lab.MustLab("start", "server")
	s.eventually(func() error {
		_, err := s.kube.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
		return err
	})
	s.readyNodes(s.lab.Nodes...)
	return nil
}
