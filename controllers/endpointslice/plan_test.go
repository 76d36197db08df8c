package endpointslice

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/controllers/slicing"
)

func service(ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "s", Labels: map[string]string{"team": "blue"}},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"}, Ports: ports},
	}
}

func http(target intstr.IntOrString) corev1.ServicePort {
	return corev1.ServicePort{Name: "http", Port: 80, TargetPort: target, Protocol: corev1.ProtocolTCP}
}

func pod(i int, ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "default", UID: types.UID(fmt.Sprint("u", i))},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

func podRange(from, to int) []*corev1.Pod {
	var list []*corev1.Pod
	for i := from; i < to; i++ {
		list = append(list, pod(i, true))
	}
	return list
}

func nodes(name string) *corev1.Node {
	if name != "n1" {
		return nil
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}
}

// world carries plans out.
type world struct {
	snapshot
	named  int
	writes int
}

func newWorld(s *corev1.Service) *world { return &world{snapshot: snapshot{service: s, node: nodes}} }

func (w *world) sync() slicing.Plan {
	p := decide(w.snapshot)
	w.writes = len(p.Create) + len(p.Update) + len(p.Remove)
	next := slices.DeleteFunc(slices.Clone(w.slices), func(s *discoveryv1.EndpointSlice) bool { return slices.Contains(p.Remove, s) })
	for _, u := range p.Update {
		i := slices.IndexFunc(next, func(s *discoveryv1.EndpointSlice) bool { return s.Name == u.Name })
		next[i] = u
	}
	for _, c := range p.Create {
		w.named++
		c.Name = fmt.Sprintf("web-%03d", w.named)
		next = append(next, c)
	}
	w.slices = next
	return p
}

func (w *world) counts() []int {
	var n []int
	for _, s := range w.slices {
		n = append(n, len(s.Endpoints))
	}
	slices.Sort(n)
	return n
}

func TestOneEndpoint(t *testing.T) {
	w := newWorld(service(http(intstr.FromString("web"))))
	w.trigger = time.Unix(1700000000, 0)
	w.pods = podRange(0, 1)
	w.sync()
	s := w.slices[0]
	e := s.Endpoints[0]
	if s.Labels[discoveryv1.LabelServiceName] != "web" || s.Labels[discoveryv1.LabelManagedBy] != ManagedBy || s.Labels["team"] != "blue" || s.GenerateName != "web-" ||
		s.AddressType != discoveryv1.AddressTypeIPv4 || s.OwnerReferences[0].Kind != "Service" || s.Annotations[corev1.EndpointsLastChangeTriggerTime] != "2023-11-14T22:13:20Z" {
		t.Fatalf("%+v", s)
	}
	if *s.Ports[0].Port != 8080 || *s.Ports[0].Name != "http" || e.Addresses[0] != "10.244.0.1" || *e.NodeName != "n1" || *e.Zone != "z1" || e.TargetRef.Name != "p0" ||
		!*e.Conditions.Ready || !*e.Conditions.Serving || *e.Conditions.Terminating {
		t.Fatalf("%+v", s)
	}
	if w.sync(); w.writes != 0 {
		t.Fatal("writes without need")
	}
}

func TestConditions(t *testing.T) {
	dying := pod(1, true)
	dying.DeletionTimestamp = ptr.To(metav1.Now())
	ended := pod(2, true)
	ended.Status.Phase = corev1.PodSucceeded
	lost := pod(3, true)
	lost.Spec.NodeName = "gone"
	for _, publish := range []bool{false, true} {
		w := newWorld(service(http(intstr.FromInt32(80))))
		w.service.Spec.PublishNotReadyAddresses = publish
		w.pods = []*corev1.Pod{pod(0, false), dying, ended, lost}
		w.sync()
		var got []string
		for _, e := range w.slices[0].Endpoints {
			got = append(got, fmt.Sprint(e.TargetRef.Name, " ", *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating))
		}
		want := map[bool]string{
			false: "[p0 false false false p1 false true true]",
			true:  "[p0 true false false p1 true true true p3 true true false]",
		}
		if fmt.Sprint(got) != want[publish] {
			t.Errorf("publish %v: %v", publish, got)
		}
	}
}

func TestPacking(t *testing.T) {
	w := newWorld(service(http(intstr.FromInt32(80))))
	w.sync()
	if fmt.Sprint(w.counts()) != "[0]" || len(w.slices[0].Ports) != 0 {
		t.Fatalf("no empty slice: %v", w.counts())
	}
	w.pods = podRange(0, 250)
	w.sync()
	if fmt.Sprint(w.counts()) != "[50 100 100]" || w.named != 3 {
		t.Fatalf("%v, %d made", w.counts(), w.named)
	}
	w.pods = podRange(0, 251)
	if w.sync(); w.writes != 1 || fmt.Sprint(w.counts()) != "[51 100 100]" {
		t.Fatalf("%d writes, %v", w.writes, w.counts())
	}
	w.pods = append(podRange(1, 251), pod(0, false))
	if w.sync(); w.writes != 1 {
		t.Fatalf("%d writes for one pod", w.writes)
	}
	w.pods = podRange(1, 252) // one goes, one comes: both fit into the slice that is written anyway
	if w.sync(); w.writes != 1 || fmt.Sprint(w.counts()) != "[51 100 100]" {
		t.Fatalf("%d writes, %v", w.writes, w.counts())
	}
	w.pods = nil
	if w.sync(); fmt.Sprint(w.counts()) != "[0]" {
		t.Fatal(w.counts())
	}
}

func TestPortsAndNames(t *testing.T) {
	w := newWorld(service(http(intstr.FromString("web"))))
	other := pod(1, true)
	other.Spec.Containers[0].Ports[0].ContainerPort = 9090
	w.pods = []*corev1.Pod{pod(0, true), other}
	w.sync()
	if fmt.Sprint(w.counts()) != "[1 1]" {
		t.Fatal("pods with different ports share a slice")
	}
	headless := service()
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	w = newWorld(headless)
	named := pod(0, true)
	named.Spec.Hostname, named.Spec.Subdomain = "db-0", "web"
	w.pods = []*corev1.Pod{named, other}
	w.sync()
	s := w.slices[0]
	if _, ok := s.Labels[corev1.IsHeadlessService]; !ok || len(s.Ports) != 0 || *s.Endpoints[0].Hostname != "db-0" || s.Endpoints[1].Hostname != nil {
		t.Fatalf("%+v", s)
	}
}

func TestTrafficDistribution(t *testing.T) {
	w := newWorld(service(http(intstr.FromInt32(80))))
	w.pods = podRange(0, 1)
	w.service.Spec.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameNode)
	w.sync()
	h := w.slices[0].Endpoints[0].Hints
	if h == nil || h.ForZones[0].Name != "z1" || h.ForNodes[0].Name != "n1" {
		t.Fatalf("%+v", h)
	}
}

// TestAlwaysExact holds for random changes: every pod is in one slice exactly, no slice is too full, and a second look writes nothing.
func TestAlwaysExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(service(http(intstr.FromString("web"))))
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			from := rapid.IntRange(0, 300).Draw(t, "from")
			w.pods = podRange(from, from+rapid.IntRange(0, 300).Draw(t, "n"))
			for i, p := range w.pods {
				if rapid.IntRange(0, 40).Draw(t, "odd") == 0 {
					w.pods[i] = p.DeepCopy()
					w.pods[i].Spec.Containers[0].Ports[0].ContainerPort = 9090
				}
			}
			w.sync()
			seen := map[string]int{}
			for _, s := range w.slices {
				if len(s.Endpoints) > slicing.Max {
					t.Fatalf("%d endpoints", len(s.Endpoints))
				}
				for _, e := range s.Endpoints {
					seen[e.TargetRef.Name]++
				}
			}
			for _, p := range w.pods {
				if seen[p.Name] != 1 {
					t.Fatalf("%s is there %d times", p.Name, seen[p.Name])
				}
			}
			if len(seen) != len(w.pods) {
				t.Fatalf("%d endpoints for %d pods", len(seen), len(w.pods))
			}
			if w.sync(); w.writes != 0 {
				t.Fatalf("%d needless writes", w.writes)
			}
		}
	})
}
