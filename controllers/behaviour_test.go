package controllers_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/internal/client"
)

// cluster is a real API server in this process, with controllers and, in place of agents, a loop that runs every pod at once.
type cluster struct {
	*testing.T
	ctx    context.Context
	config *rest.Config
	client kubernetes.Interface
	// restart stops the controllers and starts them anew.
	restart func()
}

func start(t *testing.T, change func(*controllers.Config)) *cluster {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{T: t, ctx: ctx}
	config, err := client.Config{RestConfig: apiservertest.Start(t), Component: "test"}.REST()
	if err != nil {
		t.Fatal(err)
	}
	c.config, c.client = config, kubernetes.NewForConfigOrDie(config)
	cfg := controllers.Config{RestConfig: config, ClusterCA: []byte("PEM"), PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if testing.Verbose() {
		cfg.Log = slog.Default()
	}
	if change != nil {
		change(&cfg)
	}
	stop := c.run(cfg)
	c.restart = func() { stop(); stop = c.run(cfg) }
	agents := make(chan struct{})
	go func() { defer close(agents); c.runPods() }()
	t.Cleanup(func() {
		stop()
		cancel()
		<-agents
	})
	return c
}

// run starts the controllers and gives what stops them.
func (c *cluster) run(cfg controllers.Config) (stop func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() { done <- controllers.Run(ctx, cfg) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			c.Errorf("controllers: %v", err)
		}
	}
}

// runPods binds pods, reports them as ready, and ends them when they are deleted. Pods of image "broken" never become ready.
func (c *cluster) runPods() {
	var mu sync.Mutex
	ip := 0
	for c.ctx.Err() == nil {
		w, err := c.client.CoreV1().Pods("").Watch(c.ctx, metav1.ListOptions{})
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted {
				continue
			}
			mu.Lock()
			ip++
			c.runPod(pod, fmt.Sprintf("10.244.%d.%d", ip/250, ip%250+1))
			mu.Unlock()
		}
	}
}

func (c *cluster) runPod(pod *corev1.Pod, ip string) {
	pods := c.client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.Spec.NodeName == "":
		_ = pods.Bind(c.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeFor(pod)}}, metav1.CreateOptions{})
	case pod.DeletionTimestamp != nil:
		_ = pods.Delete(c.ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
	case pod.Status.Phase == corev1.PodPending && pod.Spec.Containers[0].Image != "broken":
		pod = pod.DeepCopy()
		pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		now := metav1.Now()
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
		_, _ = pods.UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
	}
}

// node makes a node whose agent has just reported.
func (c *cluster) node(name string) *corev1.Node {
	c.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := c.client.CoreV1().Nodes().Create(c.ctx, node, metav1.CreateOptions{})
	c.must(err)
	return c.report(name)
}

// report writes a node's status as its agent does.
func (c *cluster) report(name string) *corev1.Node {
	c.Helper()
	for {
		node, err := c.client.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		now := metav1.Now()
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}}
		if node, err = c.client.CoreV1().Nodes().UpdateStatus(c.ctx, node, metav1.UpdateOptions{}); err == nil {
			return node
		}
	}
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// eventually waits until check is satisfied; what it says last is the failure.
func (c *cluster) eventually(what string, check func() error) {
	c.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func template(labels map[string]string, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: image, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
	}}}}
}

var web = map[string]string{"app": "web"}

func deployment(replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web, "v1")},
	}
}

func (c *cluster) deploy(d *appsv1.Deployment) {
	c.Helper()
	_, err := c.client.AppsV1().Deployments("default").Create(c.ctx, d, metav1.CreateOptions{})
	c.must(err)
	c.rolledOut(d.Name)
}

// change edits a deployment until the write is accepted.
func (c *cluster) change(name string, edit func(*appsv1.Deployment)) {
	c.Helper()
	for {
		d, err := c.client.AppsV1().Deployments("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		edit(d)
		if _, err = c.client.AppsV1().Deployments("default").Update(c.ctx, d, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

// rolledOut waits as kubectl rollout status does.
func (c *cluster) rolledOut(name string) {
	c.Helper()
	c.eventually("rollout of "+name, func() error {
		d, err := c.client.AppsV1().Deployments("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		s := d.Status
		if d.Generation > s.ObservedGeneration || s.UpdatedReplicas < *d.Spec.Replicas || s.Replicas > s.UpdatedReplicas || s.AvailableReplicas < s.UpdatedReplicas {
			return fmt.Errorf("generation %d: %+v", d.Generation, s)
		}
		return nil
	})
}

func (c *cluster) sets() []appsv1.ReplicaSet {
	c.Helper()
	list, err := c.client.AppsV1().ReplicaSets("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	return list.Items
}

func (c *cluster) pods(selector string) []corev1.Pod {
	c.Helper()
	list, err := c.client.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{LabelSelector: selector})
	c.must(err)
	return list.Items
}

func (c *cluster) podCount(selector string, want int) {
	c.Helper()
	c.eventually("pods", func() error {
		if n := len(c.pods(selector)); n != want {
			return fmt.Errorf("%d pods, want %d", n, want)
		}
		return nil
	})
}

// event waits for an event by object, reason and message.
func (c *cluster) event(object, reason, message string) {
	c.Helper()
	c.eventually("event "+reason, func() error {
		list, err := c.client.CoreV1().Events("").List(c.ctx, metav1.ListOptions{})
		c.must(err)
		var seen []string
		for _, e := range list.Items {
			if e.InvolvedObject.Name == object && e.Reason == reason && e.Message == message {
				return nil
			}
			seen = append(seen, e.InvolvedObject.Name+" "+e.Reason+": "+e.Message)
		}
		return fmt.Errorf("%q not among %q", message, seen)
	})
}

func service(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: web, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
	}}
}
