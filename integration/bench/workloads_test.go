package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/integration/cluster"
)

const (
	deployments     = 100
	replicasOfEach  = 50
	deploymentsPath = "/apis/apps/v1/namespaces/default/deployments"
	workloadLimit   = 2 * time.Minute
)

// workloads is a control plane with simulated nodes.
type workloads struct {
	*api
	kube kubernetes.Interface
}

// BenchmarkWorkloads measures the control plane with simulated nodes: 5,000 pods bound and run, and 100 Deployments of 50 replicas from
// their creation through a rolling update to their deletion. The simulator and this test take CPU time on the same machine.
//
// Where $CORACLE_BENCH_PROFILES names a folder, CPU and heap profiles of the server and its metrics are written there for each step.
func BenchmarkWorkloads(b *testing.B) {
	c := begin(b)
	startServer(b, c)
	w := &workloads{api: newAPI(b, c), kube: c.Client()}
	awaitAccount(b, w.kube)
	simulateNodes(b, c, fakeNodes)
	w.barePods()
	w.step("100 Deployments of 50 created until Ready", "<= 10", func() {
		w.eachDeployment(func(client *http.Client, name string) error {
			_, err := w.do(client, "POST", deploymentsPath, asProtobuf, asJSON, deploymentBody(name, replicasOfEach))
			return err
		}, settled)
	})
	w.step("all of them updated", "", func() {
		w.eachDeployment(func(client *http.Client, name string) error {
			_, err := w.do(client, "PATCH", deploymentsPath+"/"+name, asProtobuf, "application/merge-patch+json",
				`{"spec":{"template":{"metadata":{"annotations":{"bench":"second"}}}}}`)
			return err
		}, settled)
	})
	w.rest()
	w.step("all of them deleted in the foreground", "", func() {
		w.eachDeployment(func(client *http.Client, name string) error {
			_, err := w.do(client, "DELETE", deploymentsPath+"/"+name, asProtobuf, asJSON, `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Foreground"}`)
			return err
		}, func(e watch.Event) bool { return e.Type == watch.Deleted })
	})
	if left := w.count(); left != 0 {
		b.Errorf("%d pods are left behind", left)
	}
}

// simulateNodes runs `coracle simulate` until its nodes are registered.
func simulateNodes(b *testing.B, c *cluster.Cluster, nodes int, args ...string) {
	b.Helper()
	began := time.Now()
	c.Start(append([]string{"simulate", "--config", "/dev/null", "--kubeconfig", c.Kubeconfig, "--nodes", fmt.Sprint(nodes)}, args...)...)
	kube := c.Client()
	cluster.Eventually(b, time.Minute, func() error {
		list, err := kube.CoreV1().Nodes().List(b.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) < nodes {
			err = fmt.Errorf("%d of %d nodes", len(list.Items), nodes)
		}
		return err
	})
	figure(b, fmt.Sprintf("%d nodes registered", nodes), time.Since(began).Seconds(), "s", "")
}

// step measures how long do takes, and the CPU time of server and simulator meanwhile.
func (w *workloads) step(what, goal string, do func()) {
	w.b.Helper()
	before, began := cpu(w.b, w.c), time.Now()
	stop := w.profile(what)
	do()
	took := time.Since(began)
	stop()
	figure(w.b, what, took.Seconds(), "s", goal)
	for role, used := range usedBy(cpu(w.b, w.c), before) {
		figure(w.b, what+", CPU of the "+role, used.Seconds(), "s", "")
	}
}

func usedBy(after, before map[process]time.Duration) map[string]time.Duration {
	used := map[string]time.Duration{}
	for p, total := range after {
		used[p.role] += total - before[p]
	}
	return used
}

// profile begins a CPU profile of the server's first ten seconds, and gives what waits until it is written and adds heap and metrics.
func (w *workloads) profile(what string) (stop func()) {
	dir := os.Getenv("CORACLE_BENCH_PROFILES")
	if dir == "" {
		return func() {}
	}
	base, done := filepath.Join(dir, strings.ReplaceAll(what, " ", "-")), make(chan struct{})
	go func() {
		defer close(done)
		w.save("/debug/pprof/profile?seconds=10", base+".cpu")
	}()
	return func() {
		<-done
		w.save("/debug/pprof/heap", base+".heap")
		w.save("/metrics", base+".metrics")
	}
}

// save writes what the server answers into a file.
func (w *workloads) save(path, file string) {
	req, err := http.NewRequestWithContext(w.b.Context(), "GET", w.host+path, nil)
	if err != nil {
		w.b.Error(err)
		return
	}
	resp, err := w.client().Do(req)
	if err != nil {
		w.b.Error(err)
		return
	}
	defer resp.Body.Close()
	out, err := os.Create(file)
	if err != nil {
		w.b.Error(err)
		return
	}
	defer out.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		w.b.Error(err)
	}
}

// barePods creates pods without an owner, waits until all are bound and all run, and deletes them.
func (w *workloads) barePods() {
	bound, running := w.watchPods()
	began := time.Now()
	w.step("5000 pods on 1000 nodes running", "", func() {
		w.together(scheduledPods, func(client *http.Client, i int) error {
			_, err := w.do(client, "POST", podsPath, asProtobuf, asJSON, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod-%d"},
				"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}`, i))
			return err
		})
		figure(w.b, "5000 pods created", time.Since(began).Seconds(), "s", "")
		figure(w.b, "5000 pods on 1000 nodes bound", w.await(bound).Sub(began).Seconds(), "s", "<= 4.2")
		w.await(running)
	})
	w.step("5000 pods deleted", "", func() {
		if _, err := w.do(w.client(), "DELETE", podsPath, asProtobuf, "", ""); err != nil {
			w.b.Fatal(err)
		}
		cluster.Eventually(w.b, workloadLimit, func() error {
			if left := w.count(); left > 0 {
				return fmt.Errorf("%d pods are left", left)
			}
			return nil
		})
	})
}

func (w *workloads) await(c <-chan time.Time) time.Time {
	w.b.Helper()
	select {
	case at := <-c:
		return at
	case <-time.After(workloadLimit):
		w.b.Fatal("pods were not all there in time")
		return time.Time{}
	}
}

// watchPods tells when the last of the bare pods is bound, and when it runs. It counts the events' lines without decoding them: every event before the deletion
// is one of a pod that becomes something it was not.
func (w *workloads) watchPods() (bound, running <-chan time.Time) {
	return w.countAdded("spec.nodeName!=", scheduledPods), w.countAdded("status.phase=Running", scheduledPods)
}

// countAdded tells when a watch of pods with a field selector has shown want of them.
func (w *workloads) countAdded(selector string, want int) <-chan time.Time {
	w.b.Helper()
	ctx, cancel := context.WithCancel(w.b.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", w.host+"/api/v1/pods?watch=true&fieldSelector="+selector, nil)
	if err != nil {
		w.b.Fatal(err)
	}
	req.Header.Set("Accept", asJSON)
	client := w.client()
	client.Timeout = 0
	resp, err := client.Do(req)
	if err != nil {
		w.b.Fatal(err)
	}
	done := make(chan time.Time, 1)
	go func() {
		defer cancel()
		defer resp.Body.Close()
		lines := bufio.NewReaderSize(resp.Body, 64<<10)
		for seen, whole := 0, true; seen < want; {
			line, more, err := lines.ReadLine()
			if err != nil {
				return
			}
			if whole && strings.HasPrefix(string(line[:min(len(line), 30)]), `{"type":"ADDED"`) {
				seen++
			}
			whole = !more
		}
		done <- time.Now()
	}()
	return done
}

// count is how many pods there are.
func (w *workloads) count() int64 {
	w.b.Helper()
	list, err := w.kube.CoreV1().Pods("").List(w.b.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		w.b.Fatal(err)
	}
	count := int64(len(list.Items))
	if list.RemainingItemCount != nil {
		count += *list.RemainingItemCount
	}
	return count
}

// eachDeployment makes a request for every Deployment and waits until the watch has shown each of them as done.
func (w *workloads) eachDeployment(request func(client *http.Client, name string) error, done func(watch.Event) bool) {
	w.b.Helper()
	list, err := w.kube.AppsV1().Deployments("default").List(w.b.Context(), metav1.ListOptions{})
	if err != nil {
		w.b.Fatal(err)
	}
	events, err := w.kube.AppsV1().Deployments("default").Watch(w.b.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		w.b.Fatal(err)
	}
	defer events.Stop()
	w.together(deployments, func(client *http.Client, i int) error { return request(client, fmt.Sprintf("web-%d", i)) })
	finished, late := map[string]bool{}, time.After(workloadLimit)
	for len(finished) < deployments {
		select {
		case e, ok := <-events.ResultChan():
			d, isOne := e.Object.(*appsv1.Deployment)
			if !ok || !isOne {
				w.b.Fatalf("the watch ended: %+v", e)
			}
			if done(e) {
				finished[d.Name] = true
			}
		case <-late:
			w.b.Fatalf("%d of %d Deployments were done in time", len(finished), deployments)
		}
	}
}

// settled: the Deployment's newest template is what all of its replicas are of, and all are available.
func settled(e watch.Event) bool {
	d := e.Object.(*appsv1.Deployment)
	s := &d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == replicasOfEach && s.AvailableReplicas == replicasOfEach && s.Replicas == replicasOfEach
}

func deploymentBody(name string, replicas int) string {
	return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%[1]q},"spec":{"replicas":%[2]d,"selector":{"matchLabels":{"app":%[1]q}},
		"template":{"metadata":{"labels":{"app":%[1]q}},"spec":{"containers":[{"name":"c","image":"registry.example/app:1",
		"resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}}}`, name, replicas)
}

// rest measures what 5,000 pods and 1,000 nodes take when nothing happens but the nodes' Leases.
func (w *workloads) rest() {
	time.Sleep(quietAfterLoad)
	w.atRest("5000 pods on 1000 nodes at rest", "")
	var ready int32
	list, err := w.kube.AppsV1().Deployments("default").List(w.b.Context(), metav1.ListOptions{})
	if err != nil {
		w.b.Fatal(err)
	}
	for i := range list.Items {
		ready += list.Items[i].Status.ReadyReplicas
	}
	if ready != deployments*replicasOfEach {
		w.b.Errorf("%d replicas are ready", ready)
	}
}

// atRest measures memory, and the CPU time of half a minute.
func (w *workloads) atRest(what, goal string) {
	w.b.Helper()
	for role, m := range memories(w.b, w.c) {
		figure(w.b, what+", RSS of "+role, m.rss/mb, "MB", "")
	}
	const during = 30 * time.Second
	before := cpu(w.b, w.c)
	time.Sleep(during)
	for role, used := range usedBy(cpu(w.b, w.c), before) {
		limit := ""
		if role == "server" {
			limit = goal
		}
		figure(w.b, what+", CPU of "+role, 100*used.Seconds()/during.Seconds(), "%_of_a_core", limit)
	}
	stop := w.profile(what)
	stop()
}

// BenchmarkBigSet measures one Deployment of 5,000 replicas, whose every part of the work falls to one key of each controller, and the end of a namespace that
// is as full.
func BenchmarkBigSet(b *testing.B) {
	c := begin(b)
	startServer(b, c)
	w := &workloads{api: newAPI(b, c), kube: c.Client()}
	awaitAccount(b, w.kube)
	simulateNodes(b, c, 50)
	_, err := w.kube.CoreV1().Namespaces().Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "big"}}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	cluster.Eventually(b, time.Minute, func() error {
		_, err := w.kube.CoreV1().ServiceAccounts("big").Get(b.Context(), "default", metav1.GetOptions{})
		return err
	})
	const path = "/apis/apps/v1/namespaces/big/deployments"
	full := func() {
		running := w.countAdded("status.phase=Running", scheduledPods)
		if _, err := w.do(w.client(), "POST", path, asProtobuf, asJSON, deploymentBody("web", scheduledPods)); err != nil {
			b.Fatal(err)
		}
		w.await(running)
	}
	empty := func(path, options string) {
		if _, err := w.do(w.client(), "DELETE", path, asProtobuf, asJSON, options); err != nil {
			b.Fatal(err)
		}
		cluster.Eventually(b, workloadLimit, func() error {
			_, err := w.do(w.client(), "GET", path, asProtobuf, "", "")
			if err == nil {
				err = errors.New("it is there still")
			} else if strings.Contains(err.Error(), "404") {
				err = nil
			}
			return err
		})
	}
	w.step("one Deployment of 5000 running", "", full)
	w.step("it is deleted in the foreground", "", func() {
		empty(path+"/web", `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Foreground"}`)
	})
	full()
	w.step("its namespace is deleted", "", func() {
		empty("/api/v1/namespaces/big", `{"kind":"DeleteOptions","apiVersion":"v1"}`)
	})
	if left := w.count(); left != 0 {
		b.Errorf("%d pods are left behind", left)
	}
}

// BenchmarkIdlePods measures a control plane whose 5,000 pods all run, a hundred a node, and where nothing happens: memory, and CPU time, of which most is
// what the nodes' Leases cost.
func BenchmarkIdlePods(b *testing.B) {
	const nodes, pods = 50, 5000
	c := begin(b)
	startServer(b, c)
	w := &workloads{api: newAPI(b, c), kube: c.Client()}
	awaitAccount(b, w.kube)
	simulateNodes(b, c, nodes)
	running := w.countAdded("status.phase=Running", pods)
	w.together(pods, func(client *http.Client, i int) error {
		_, err := w.do(client, "POST", podsPath, asProtobuf, asJSON, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod-%d"},
			"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}`, i))
		return err
	})
	w.await(running)
	time.Sleep(quietAfterLoad)
	w.atRest(fmt.Sprintf("%d pods on %d nodes at rest", pods, nodes), "<= 2")
}
