package controllers_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

// nodeFor plays the scheduler: a pod that is bound to one node by its affinity goes there.
func nodeFor(pod *corev1.Pod) string {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, r := range term.MatchFields {
				return r.Values[0]
			}
		}
	}
	return "n1"
}

func daemonSet() *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "ds"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web, "v1")},
	}
}

func (c *cluster) createDaemons(set *appsv1.DaemonSet) *appsv1.DaemonSet {
	c.Helper()
	set, err := c.client.AppsV1().DaemonSets("default").Create(c.ctx, set, metav1.CreateOptions{})
	c.must(err)
	return set
}

func (c *cluster) daemons() *appsv1.DaemonSet {
	c.Helper()
	set, err := c.client.AppsV1().DaemonSets("default").Get(c.ctx, "ds", metav1.GetOptions{})
	c.must(err)
	return set
}

// changeDaemons edits the set until the write is accepted.
func (c *cluster) changeDaemons(edit func(*appsv1.DaemonSet)) {
	c.Helper()
	for {
		set := c.daemons()
		edit(set)
		if _, err := c.client.AppsV1().DaemonSets("default").Update(c.ctx, set, metav1.UpdateOptions{}); err == nil {
			return
		} else if !apierrors.IsConflict(err) {
			c.Fatal(err)
		}
	}
}

// daemonsOn waits until exactly these nodes have a pod that serves, of the present template, and gives the pods by node.
func (c *cluster) daemonsOn(nodes ...string) map[string]*corev1.Pod {
	c.Helper()
	var on map[string]*corev1.Pod
	c.eventually("daemons", func() error {
		set := c.daemons()
		s, n := set.Status, int32(len(nodes))
		if s.ObservedGeneration != set.Generation || s.DesiredNumberScheduled != n || s.CurrentNumberScheduled != n || s.NumberAvailable != n || s.NumberReady != n ||
			s.UpdatedNumberScheduled != n || s.NumberUnavailable != 0 || s.NumberMisscheduled != 0 {
			return fmt.Errorf("generation %d: %+v", set.Generation, s)
		}
		on = map[string]*corev1.Pod{}
		for _, pod := range c.pods("app=web") {
			on[pod.Spec.NodeName] = &pod
		}
		if len(c.pods("app=web")) != len(nodes) {
			return fmt.Errorf("%d pods", len(c.pods("app=web")))
		}
		for _, node := range nodes {
			if on[node] == nil {
				return fmt.Errorf("none on %s", node)
			}
		}
		return nil
	})
	return on
}

// patchNode changes a node by a merge patch.
func (c *cluster) patchNode(name, patch string) {
	c.Helper()
	_, err := c.client.CoreV1().Nodes().Patch(c.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	c.must(err)
}

func TestDaemonSetLife(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.node("n2")
	c.createDaemons(daemonSet())
	on := c.daemonsOn("n1", "n2")
	c.event("ds", "SuccessfulCreate", "Created pod: "+on["n1"].Name)
	pod := on["n2"]
	want := []string{
		"node.kubernetes.io/disk-pressure:NoSchedule", "node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/not-ready:NoExecute",
		"node.kubernetes.io/pid-pressure:NoSchedule", "node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unschedulable:NoSchedule",
	}
	var got []string
	for _, t := range pod.Spec.Tolerations {
		if t.Operator == corev1.TolerationOpExists && t.TolerationSeconds == nil {
			got = append(got, t.Key+":"+string(t.Effect))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("tolerations %v", got)
	}
	c.node("n3")
	on = c.daemonsOn("n1", "n2", "n3")
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, on["n2"].Name, metav1.DeleteOptions{}))
	c.eventually("a replacement", func() error {
		if c.daemonsOn("n1", "n2", "n3")["n2"].UID == on["n2"].UID {
			return fmt.Errorf("still the old one")
		}
		return nil
	})
	c.must(c.client.CoreV1().Nodes().Delete(c.ctx, "n3", metav1.DeleteOptions{}))
	for _, pod := range c.pods("") {
		if pod.Spec.NodeName == "n3" { // the garbage collection of pods takes its time
			c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		}
	}
	c.daemonsOn("n1", "n2")
	c.must(c.client.AppsV1().DaemonSets("default").Delete(c.ctx, "ds", metav1.DeleteOptions{}))
	c.podCount("", 0)
}

func TestDaemonSetNodes(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.node("n2")
	set := daemonSet()
	set.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "fast"}
	c.createDaemons(set)
	c.daemonsOn()
	c.patchNode("n2", `{"metadata":{"labels":{"disk":"fast"}}}`)
	c.daemonsOn("n2")
	c.patchNode("n2", `{"metadata":{"labels":{"disk":"slow"}}}`)
	c.daemonsOn()
	c.patchNode("n1", `{"metadata":{"labels":{"disk":"fast"}}}`)
	on := c.daemonsOn("n1")
	c.patchNode("n1", `{"spec":{"unschedulable":true}}`) // which daemons do not mind

	// A taint that repels but does not evict leaves the pod where it is, misscheduled.
	c.patchNode("n1", `{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`)
	c.eventually("misscheduled", func() error {
		if s := c.daemons().Status; s.NumberMisscheduled != 1 || s.DesiredNumberScheduled != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if pods := c.pods("app=web"); len(pods) != 1 || pods[0].UID != on["n1"].UID || pods[0].DeletionTimestamp != nil {
		t.Fatal("the pod did not stay")
	}
	c.patchNode("n1", `{"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}`)
	c.daemonsOn()
	c.changeDaemons(func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	})
	c.daemonsOn("n1")
}

func TestDaemonSetFailedPod(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.createDaemons(daemonSet())
	for _, phase := range []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded, corev1.PodFailed} {
		old := c.daemonsOn("n1")["n1"]
		_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, old.Name, types.MergePatchType, fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase), metav1.PatchOptions{}, "status")
		c.must(err)
		c.eventually("a replacement", func() error {
			if _, err := c.client.CoreV1().Pods("default").Get(c.ctx, old.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("still there: %v", err)
			}
			return nil
		})
		if phase == corev1.PodFailed {
			c.event("ds", "FailedDaemonPod", "Found failed daemon pod default/"+old.Name+" on node n1, will try to kill it")
		} else {
			c.event("ds", "SucceededDaemonPod", "Found succeeded daemon pod default/"+old.Name+" on node n1, will try to delete it")
		}
	}
	c.daemonsOn("n1")
}

// TestDaemonSetRollout runs a rollout of each kind, and what kubectl rollout status, history and undo are made of.
func TestDaemonSetRollout(t *testing.T) {
	c := start(t, nil)
	for i := range 4 {
		c.node(fmt.Sprintf("n%d", i+1))
	}
	set := daemonSet()
	set.Annotations = map[string]string{"kubernetes.io/change-cause": "first"}
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
		MaxUnavailable: ptr.To(intstr.FromString("50%")),
	}}
	set.Spec.RevisionHistoryLimit = ptr.To[int32](2)
	c.createDaemons(set)
	all := []string{"n1", "n2", "n3", "n4"}
	c.daemonsOn(all...)
	c.changeDaemons(func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		d.Annotations["kubernetes.io/change-cause"] = "second"
	})
	c.daemonsRun("v2", all...)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c.daemons())
	c.must(err)
	said, done, err := (&polymorphichelpers.DaemonSetStatusViewer{}).Status(unstructuredOf(content), 0)
	if err != nil || !done || said != "daemon set \"ds\" successfully rolled out\n" {
		t.Fatal(said, done, err)
	}
	kind := appsv1.SchemeGroupVersion.WithKind("DaemonSet").GroupKind()
	history, err := polymorphichelpers.HistoryViewerFor(kind, c.client)
	c.must(err)
	expect := func(want string) {
		c.Helper()
		table, err := history.ViewHistory("default", "ds", 0)
		c.must(err)
		if got := strings.Join(strings.Fields(table), " "); got != "REVISION CHANGE-CAUSE "+want {
			t.Fatal(table)
		}
	}
	expect("1 first 2 second")
	undo, err := polymorphichelpers.RollbackerFor(kind, c.client)
	c.must(err)
	if said, err := undo.Rollback(c.daemons(), nil, 2, cmdutil.DryRunNone); err != nil || !strings.HasPrefix(said, "skipped rollback") {
		t.Fatal(said, err)
	}
	if said, err := undo.Rollback(c.daemons(), nil, 0, cmdutil.DryRunNone); err != nil || said != "rolled back" {
		t.Fatal(said, err)
	}
	c.daemonsRun("v1", all...)
	expect("2 second 3 first")

	c.changeDaemons(func(d *appsv1.DaemonSet) { // a new pod beside each old one
		d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(0)), MaxSurge: ptr.To(intstr.FromInt32(1))}
		d.Spec.Template.Spec.Containers[0].Image = "v3"
	})
	c.daemonsRun("v3", all...)
	c.changeDaemons(func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
		d.Spec.Template.Spec.Containers[0].Image = "v4"
	})
	c.eventually("no updated pod", func() error {
		if d := c.daemons(); d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedNumberScheduled != 0 {
			return fmt.Errorf("%+v", d.Status)
		}
		return nil
	})
	for _, pod := range c.pods("") {
		if pod.Spec.Containers[0].Image != "v3" {
			t.Fatalf("%s runs %s", pod.Name, pod.Spec.Containers[0].Image)
		}
		c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, pod.Name, metav1.DeleteOptions{}))
	}
	c.daemonsRun("v4", all...)
	c.eventually("truncation", func() error {
		list, err := c.client.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != 3 {
			err = fmt.Errorf("%d revisions", len(list.Items))
		}
		return err
	})
}

// daemonsRun waits until the nodes' pods are of the image.
func (c *cluster) daemonsRun(image string, nodes ...string) {
	c.Helper()
	c.eventually("image "+image, func() error {
		for _, pod := range c.daemonsOn(nodes...) {
			if got := pod.Spec.Containers[0].Image; got != image {
				return fmt.Errorf("%s runs %s", pod.Name, got)
			}
		}
		return nil
	})
}

// TestDaemonSetAdoption: a set takes over the pods and the history of a former one without a restart of theirs, also where another writer
// has added a second revision of the same template.
// collects waits until the garbage collector has seen a revision: another one that was made after it, of an owner that there is not, goes.
func (c *cluster) collects(after *appsv1.ControllerRevision) {
	c.Helper()
	probe := after.DeepCopy()
	probe.ObjectMeta = metav1.ObjectMeta{Name: "probe", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "nobody", UID: "nobody"}}}
	revisions := c.client.AppsV1().ControllerRevisions("default")
	_, err := revisions.Create(c.ctx, probe, metav1.CreateOptions{})
	c.must(err)
	c.eventually("collection", func() error {
		_, err := revisions.Get(c.ctx, "probe", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the probe: %v", err)
	})
}

func TestDaemonSetAdoption(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.createDaemons(daemonSet())
	uid := c.daemonsOn("n1")["n1"].UID
	revisions := c.client.AppsV1().ControllerRevisions("default")
	list, err := revisions.List(c.ctx, metav1.ListOptions{})
	c.must(err)
	second := list.Items[0].DeepCopy()
	second.ObjectMeta = metav1.ObjectMeta{Name: "ds-second", Labels: map[string]string{"app": "web", "controller-revision-hash": "second"}, OwnerReferences: second.OwnerReferences}
	second.Revision = 2
	_, err = revisions.Create(c.ctx, second, metav1.CreateOptions{})
	c.must(err)
	c.collects(second) // else it may not know of it when it orphans
	c.must(c.client.AppsV1().DaemonSets("default").Delete(c.ctx, "ds", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}))
	c.eventually("orphaning", func() error {
		_, err := c.client.AppsV1().DaemonSets("default").Get(c.ctx, "ds", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the set: %v", err)
	})
	set := c.createDaemons(daemonSet())
	pod := c.daemonsOn("n1")["n1"]
	if ref := metav1.GetControllerOf(pod); pod.UID != uid || ref == nil || ref.UID != set.UID {
		t.Fatal("the pod was not adopted")
	}
	list, err = revisions.List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, r := range list.Items {
		if ref := metav1.GetControllerOf(&r); ref == nil || ref.UID != set.UID {
			t.Fatalf("%s was not adopted", r.Name)
		}
		var patch map[string]any
		c.must(json.Unmarshal(r.Data.Raw, &patch))
	}
	if len(list.Items) != 2 {
		t.Fatalf("%d revisions", len(list.Items))
	}
	if _, err := c.client.CoreV1().Pods("default").Patch(c.ctx, pod.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("release", func() error {
		live := c.podNamed(pod.Name)
		if len(live.OwnerReferences) > 0 {
			return fmt.Errorf("still owned")
		}
		return nil
	})
	c.daemonsOn("n1")
}

// TestDaemonSetNeverTwo rolls out, loses pods and restarts the controllers, and watches that no node ever has two pods of the set.
func TestDaemonSetNeverTwo(t *testing.T) {
	c := start(t, nil)
	for i := range 20 {
		c.node(fmt.Sprintf("n%d", i+1))
	}
	w, err := c.client.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{})
	c.must(err)
	defer w.Stop()
	failed := make(chan string, 100)
	go func() {
		on := map[string]string{}
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			node := nodeFor(pod)
			switch {
			case event.Type == watch.Deleted && on[node] == pod.Name:
				delete(on, node)
			case event.Type == watch.Added && on[node] != "":
				failed <- fmt.Sprintf("%s comes to %s beside %s", pod.Name, node, on[node])
			case event.Type == watch.Added:
				on[node] = pod.Name
			}
		}
	}()
	set := daemonSet()
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromString("25%"))}}
	c.createDaemons(set)
	for i := range 4 {
		time.Sleep(15 * time.Millisecond)
		c.restart()
		c.changeDaemons(func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("v", i) })
		for _, pod := range c.pods("") {
			if strings.HasSuffix(pod.Spec.NodeName, "7") {
				_ = c.client.CoreV1().Pods("default").Delete(c.ctx, pod.Name, metav1.DeleteOptions{})
			}
		}
	}
	c.eventually("the end of the rollout", func() error {
		if s := c.daemons().Status; s.UpdatedNumberScheduled != 20 || s.NumberAvailable != 20 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	select {
	case said := <-failed:
		t.Fatal(said)
	default:
	}
}

// TestSetsAtRest: sets that are as they should be cost no request, and getting there few writes of their statuses.
func TestSetsAtRest(t *testing.T) {
	requests := &counter{}
	c := start(t, func(cfg *controllers.Config) {
		cfg.RestConfig = rest.CopyConfig(cfg.RestConfig)
		cfg.RestConfig.Wrap(func(rt http.RoundTripper) http.RoundTripper { requests.next = rt; return requests })
	})
	c.node("n1")
	c.node("n2")
	daemons, set := daemonSet(), withClaim(statefulSet(5))
	daemons.Spec.Selector.MatchLabels, daemons.Spec.Template.Labels = map[string]string{"app": "ds"}, map[string]string{"app": "ds"}
	set.Spec.PodManagementPolicy, set.Spec.MinReadySeconds = appsv1.ParallelPodManagement, 1
	c.createDaemons(daemons)
	c.createSet(set)
	c.settled()
	writes := map[string]int{}
	for quiet := 0; quiet < 5; quiet++ { // until nothing has been asked for half a second
		time.Sleep(100 * time.Millisecond)
		for _, r := range requests.take() {
			quiet = 0
			if !strings.HasPrefix(r, "GET ") && !strings.HasSuffix(r, "/events") {
				writes[r]++
			}
		}
	}
	for r, n := range writes {
		if n > 12 {
			t.Errorf("%d times %s", n, r)
		}
	}
	if n := writes["POST /apis/apps/v1/namespaces/default/controllerrevisions"]; n != 2 {
		t.Errorf("%d revisions made: %v", n, writes)
	}
	time.Sleep(1500 * time.Millisecond)
	if seen := requests.take(); len(seen) > 0 {
		t.Fatalf("idle controllers ask: %q", seen)
	}
}
