package decide

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/scheduler/model"
)

func benchNode(i int) *corev1.Node {
	name := fmt.Sprintf("node-%05d", i)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3),
		}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func benchPod(name string, priority int32, cpu, memory string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "sched", UID: types.UID(name), Labels: map[string]string{"color": "blue"}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName, Priority: &priority,
			Containers: []corev1.Container{{Name: "c", Image: "pause", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
			}}}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func benchCluster(nodes int) *model.Cluster {
	cluster := model.New()
	for i := range nodes {
		cluster.SetNode(benchNode(i))
	}
	return cluster
}

func selectColor(c string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"color": c}}
}

func spreadOver(key string, how corev1.UnsatisfiableConstraintAction, skew int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: how, LabelSelector: selectColor("blue"),
		})
	}
}

func apart(p *corev1.Pod) {
	p.Labels = map[string]string{"color": "green"}
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: selectColor("green")}},
	}}
}

// Benchmark places 10,000 pods on 5,000 nodes, in upstream's scenarios. A pod's decoding is not in it, its preparation is.
func Benchmark(b *testing.B) {
	scenarios := []struct {
		name   string
		nodes  int
		before int // pods that run already, on all nodes in turn
		pods   int
		change []func(*corev1.Pod)
	}{
		{"Basic", 5000, 1000, 10000, nil},
		{"TopologySpread", 5000, 5000, 10000, []func(*corev1.Pod){spreadOver(corev1.LabelTopologyZone, corev1.DoNotSchedule, 5)}},
		{"TopologySpreadHost", 5000, 5000, 10000, []func(*corev1.Pod){spreadOver(corev1.LabelHostname, corev1.DoNotSchedule, 5)}},
		{"PreferredTopologySpread", 5000, 5000, 10000, []func(*corev1.Pod){spreadOver(corev1.LabelTopologyZone, corev1.ScheduleAnyway, 5)}},
		{"PodAntiAffinity", 5000, 1000, 4000, []func(*corev1.Pod){apart}},
	}
	for _, s := range scenarios {
		b.Run(s.name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				cluster := benchCluster(s.nodes)
				for i := range s.before {
					cluster.SetPod(model.NewPod(benchPod(fmt.Sprint("before-", i), 0, "10m", "50Mi")), fmt.Sprintf("node-%05d", i%s.nodes))
				}
				pods := make([]*corev1.Pod, s.pods)
				for i := range pods {
					pods[i] = benchPod(fmt.Sprint("p-", i), 0, "10m", "50Mi", s.change...)
				}
				d, err := New(Defaults())
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				for _, p := range pods {
					pod := model.NewPod(p)
					decision := d.Schedule(cluster, pod)
					if decision.Node == "" {
						b.Fatal(decision.Message)
					}
					cluster.SetPod(pod, decision.Node)
				}
			}
			b.ReportMetric(float64(s.pods*b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

// BenchmarkPreemption places 5,000 pods of high priority on 5,000 nodes full of 20,000 others, three of which must go for
// each, as in upstream's scenario.
func BenchmarkPreemption(b *testing.B) {
	const nodes, pods = 5000, 5000
	for range b.N {
		b.StopTimer()
		cluster := benchCluster(nodes)
		for i := range 4 * nodes {
			cluster.SetPod(model.NewPod(benchPod(fmt.Sprint("low-", i), 0, "900m", "500Mi")), fmt.Sprintf("node-%05d", i%nodes))
		}
		d, err := New(Defaults())
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for i := range pods {
			pod := model.NewPod(benchPod(fmt.Sprint("high-", i), 10, "3000m", "500Mi"))
			decision := d.Schedule(cluster, pod)
			if decision.Preempt == nil || len(decision.Preempt.Victims) != 3 {
				b.Fatalf("%+v", decision)
			}
			cluster.Nominate(pod.Pod.UID, pod, decision.Preempt.Node)
			for _, victim := range decision.Preempt.Victims {
				cluster.RemovePod(victim.Pod.UID)
			}
			again := d.Schedule(cluster, pod)
			if again.Node != decision.Preempt.Node {
				b.Fatalf("%+v", again)
			}
			cluster.SetPod(pod, again.Node)
		}
	}
	b.ReportMetric(float64(pods*b.N)/b.Elapsed().Seconds(), "pods/s")
}
