package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// ready asks the API server whether it is.
func ready(config *rest.Config) error {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return kube.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(time.Second).Do(context.Background()).Error()
}

// demo is a pod of the demo image with nothing special.
func demo(name string) *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "demo", Image: "coracle/demo:v1"}},
		},
	}
}

// running hears when pods are Running, by one watch.
type running struct {
	mu   sync.Mutex
	at   map[string]time.Time
	more chan struct{}
}

func watchRunning(b *testing.B, ctx context.Context, kube kubernetes.Interface) *running {
	b.Helper()
	w, err := kube.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.Stop)
	r := &running{at: map[string]time.Time{}, more: make(chan struct{}, 1)}
	go func() {
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && pod.Status.Phase == corev1.PodRunning {
				r.saw(pod.Name)
			}
		}
	}()
	return r
}

func (r *running) saw(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.at[name]; !known {
		r.at[name] = time.Now()
		select {
		case r.more <- struct{}{}:
		default:
		}
	}
}

// await returns when the last of the named pods was seen Running.
func (r *running) await(b *testing.B, within time.Duration, names ...string) time.Time {
	b.Helper()
	deadline := time.After(within)
	for {
		if last, all := r.last(names); all {
			return last
		}
		select {
		case <-r.more:
		case <-deadline:
			b.Fatalf("not all of %d pods were Running within %v", len(names), within)
		}
	}
}

func (r *running) last(names []string) (last time.Time, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		at, seen := r.at[name]
		if !seen {
			return last, false
		}
		if at.After(last) {
			last = at
		}
	}
	return last, true
}

func create(b *testing.B, kube kubernetes.Interface, pod *corev1.Pod) time.Time {
	b.Helper()
	began := time.Now()
	if _, err := kube.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	return began
}

// awaitAccount waits for what pods of a new namespace need.
func awaitAccount(b *testing.B, kube kubernetes.Interface) {
	b.Helper()
	cluster.Eventually(b, 10*time.Second, func() error {
		_, err := kube.CoreV1().ServiceAccounts("default").Get(context.Background(), "default", metav1.GetOptions{})
		return err
	})
}

func percentile(sorted []time.Duration, p float64) float64 {
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))].Seconds()
}

// BenchmarkPod measures one pod after another from the create request to Running, as a watch sees it.
func BenchmarkPod(b *testing.B) {
	const pods = 50
	c := begin(b)
	c.Up()
	kube := c.Client()
	awaitAccount(b, kube)
	seen := watchRunning(b, b.Context(), kube)
	var took []time.Duration
	for i := range pods {
		name := fmt.Sprintf("one-%d", i)
		began := create(b, kube, demo(name))
		took = append(took, seen.await(b, 20*time.Second, name).Sub(began))
	}
	slices.Sort(took)
	figure(b, "create to Running p50", percentile(took, 0.5), "s", "<= 0.15")
	figure(b, "create to Running p99", percentile(took, 0.99), "s", "<= 0.4")
	figure(b, "create to Running least", took[0].Seconds(), "s", "")
}

// BenchmarkPodsAtOnce measures 100 pods created together, until all are Running, and the memory that each has added; then that 110 run, as many as the node
// takes, and how long it takes until all are gone.
func BenchmarkPodsAtOnce(b *testing.B) {
	const pods, most = 100, 110
	c := begin(b)
	c.Up()
	kube := c.Client()
	awaitAccount(b, kube)
	seen := watchRunning(b, b.Context(), kube)
	time.Sleep(settle)
	before := memories(b, c)
	began := time.Now()
	all := seen.await(b, 2*time.Minute, createMany(b, kube, "many", pods, demo)...)
	figure(b, "100 pods all Running", all.Sub(began).Seconds(), "s", "<= 7")
	time.Sleep(settle)
	after := memories(b, c)
	shim, grown := after["shim"], after["all"].anon-before["all"].anon-after["shim"].anon
	figure(b, "shim private dirty a pod", shim.private/pods/mb, "MB", "<= 6")
	figure(b, "shim RSS a pod", shim.rss/pods/mb, "MB", "")
	figure(b, "growth of the others a pod", grown/pods/mb, "MB", "")
	figure(b, "100 pods whole cluster RSS", after["all"].rss/mb, "MB", "")
	figure(b, "100 pods whole cluster PSS", after["all"].pss/mb, "MB", "")
	idleCPU(b, c, 20*time.Second)
	seen.await(b, time.Minute, createMany(b, kube, "more", most-pods, demo)...)
	began = time.Now()
	if err := kube.CoreV1().Pods("default").DeleteCollection(b.Context(), metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}, metav1.ListOptions{}); err != nil {
		b.Fatal(err)
	}
	cluster.Eventually(b, 2*time.Minute, func() error {
		list, err := kube.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{ResourceVersion: "0"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(list.Items))
		}
		return err
	})
	figure(b, "110 pods all gone", time.Since(began).Seconds(), "s", "<= 7.7")
}

// createMany creates pods together and gives their names.
func createMany(b *testing.B, kube kubernetes.Interface, prefix string, n int, pod func(name string) *corev1.Pod) []string {
	b.Helper()
	var names []string
	var creates sync.WaitGroup
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		names = append(names, name)
		creates.Go(func() { create(b, kube, pod(name)) })
	}
	creates.Wait()
	return names
}

// BenchmarkNode measures an agent and its containerd, apart from the server, with 50 pods of which each has two probes every ten seconds.
func BenchmarkNode(b *testing.B) {
	const pods = 50
	c := begin(b)
	c.StartServer()
	c.StartAgent()
	c.ImportDemo(testenv.Repository())
	kube := c.Client()
	awaitAccount(b, kube)
	seen := watchRunning(b, b.Context(), kube)
	seen.await(b, 2*time.Minute, createMany(b, kube, "probed", pods, probed)...)
	time.Sleep(settle)
	before := cpu(b, c)
	const during = time.Minute
	time.Sleep(during)
	used := usedBy(cpu(b, c), before)
	for _, role := range []string{"agent", "containerd", "shim", "server"} {
		figure(b, role+" CPU", 100*used[role].Seconds()/during.Seconds(), "%_of_a_core", "")
	}
	by := memories(b, c)
	for _, role := range []string{"agent", "containerd"} {
		figure(b, role+" RSS", by[role].rss/mb, "MB", "")
		figure(b, role+" anonymous", by[role].anon/mb, "MB", "")
	}
	figure(b, "agent and containerd RSS", (by["agent"].rss+by["containerd"].rss)/mb, "MB", "<= 80")
	figure(b, "agent and containerd CPU", 100*(used["agent"]+used["containerd"]).Seconds()/during.Seconds(), "%_of_a_core", "<= 3")
}

// probed is a demo pod that is asked twice every ten seconds.
func probed(name string) *corev1.Pod {
	pod := demo(name)
	probe := &corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	pod.Spec.Containers[0].LivenessProbe, pod.Spec.Containers[0].ReadinessProbe = probe, probe.DeepCopy()
	return pod
}

// BenchmarkStart measures a warm start: the files and the images are there, the processes are not.
func BenchmarkStart(b *testing.B) {
	c := begin(b)
	c.Up()
	awaitAccount(b, c.Client())
	if out, err := c.Coracle("down", "--kubeconfig-out", c.Kubeconfig); err != nil {
		b.Fatalf("down: %v\n%s", err, out)
	}
	config, err := c.REST()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	up := make(chan string, 1)
	go func() { up <- c.Up() }()
	for ready(config) != nil {
		time.Sleep(5 * time.Millisecond)
	}
	figure(b, "API ready", time.Since(began).Seconds(), "s", "<= 1")
	kube := c.Client()
	seen := watchRunning(b, b.Context(), kube)
	create(b, kube, demo("first"))
	for !nodeReady(kube, began) {
		time.Sleep(5 * time.Millisecond)
	}
	figure(b, "node Ready", time.Since(began).Seconds(), "s", "<= 3")
	figure(b, "first pod Running", seen.await(b, 30*time.Second, "first").Sub(began).Seconds(), "s", "<= 5")
	<-up
}

// nodeReady tells whether the node says that it is Ready, and said so after the start.
func nodeReady(kube kubernetes.Interface, since time.Time) bool {
	lease, err := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(context.Background(), "node", metav1.GetOptions{})
	if err != nil || lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since) {
		return false
	}
	node, err := kube.CoreV1().Nodes().Get(context.Background(), "node", metav1.GetOptions{})
	if err != nil {
		return false
	}
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
