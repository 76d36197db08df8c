package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

var statefulTests = map[string]func(*env){
	"pods come and go in order, and not past an unhealthy one": statefulOrder,
	"a stateful set has a scale":                               statefulScale,
	"a stateful set has a status":                              statefulStatus,
	"a rollout keeps to its partition and is undone":           statefulRollout,
	"pods have host names, which their service publishes":      statefulNames,
	"claims go with their pods and with the set":               statefulClaims,
	"a failed pod comes back under its name":                   statefulFailed,
}

var daemonTests = map[string]func(*env){
	"a daemon is run, replaced and stopped":         daemonLife,
	"a failed daemon is replaced":                   daemonFailed,
	"daemon sets are listed and deleted together":   daemonsDeleted,
	"a controller revision's life":                  revisionLife,
	"a rollout reaches every node and is undone":    daemonRollout,
	"daemons follow the labels and taints of nodes": daemonNodes,
}

// TestSets shows the behaviours of StatefulSets and DaemonSets on a whole cluster, with real containers, and with simulated nodes beside the
// real one where several are needed.
func TestSets(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	c.Start("simulate", "--config", "/dev/null", "--kubeconfig", c.Kubeconfig, "--nodes", "4", "--taints", simulated+"=true:NoSchedule")
	s := newSuite(t, c)
	t.Run("stateful", func(t *testing.T) {
		for name, test := range statefulTests {
			t.Run(name, func(t *testing.T) { test(s.env(t)) })
		}
	})
	t.Run("daemon", func(t *testing.T) {
		for name, test := range daemonTests {
			t.Run(name, func(t *testing.T) { test(s.env(t)) })
		}
	})
}

// probed is a pod that is unready while it has the file /tmp/unready.
func probed(labels map[string]string) corev1.PodTemplateSpec {
	t := demoPod(labels)
	t.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1,
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "!", "-e", "/tmp/unready"}}}}
	return t
}

func (e *env) stateful(template corev1.PodTemplateSpec, replicas int32) *appsv1.StatefulSet {
	e.Helper()
	set, err := e.kube.AppsV1().StatefulSets(e.ns).Create(e.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: app}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template,
	}}, metav1.CreateOptions{})
	e.must(err)
	return set
}

// statefulIs waits until the set's observed status is as ok wants it.
func (e *env) statefulIs(ok func(*appsv1.StatefulSet) bool) *appsv1.StatefulSet {
	e.Helper()
	var set *appsv1.StatefulSet
	e.eventually(func() (err error) {
		if set, err = e.kube.AppsV1().StatefulSets(e.ns).Get(e.ctx, "web", metav1.GetOptions{}); err != nil {
			return err
		}
		if set.Status.ObservedGeneration < set.Generation || !ok(set) {
			return fmt.Errorf("generation %d: %+v", set.Generation, set.Status)
		}
		return nil
	})
	return set
}

// statefulReady waits until all replicas are of the present template and available.
func (e *env) statefulReady(replicas int32) *appsv1.StatefulSet {
	e.Helper()
	return e.statefulIs(func(set *appsv1.StatefulSet) bool {
		s := set.Status
		return s.Replicas == replicas && s.AvailableReplicas == replicas && s.UpdatedReplicas == replicas && s.CurrentRevision == s.UpdateRevision
	})
}

func (e *env) patchStateful(format string, args ...any) {
	e.Helper()
	_, err := e.kube.AppsV1().StatefulSets(e.ns).Patch(e.ctx, "web", types.StrategicMergePatchType, fmt.Appendf(nil, format, args...), metav1.PatchOptions{})
	e.must(err)
}

// probe makes a pod's probe fail or succeed.
func (e *env) probe(pod string, unready bool) {
	e.Helper()
	command := []string{"rm", "-f", "/tmp/unready"}
	if unready {
		command = []string{"touch", "/tmp/unready"}
	}
	e.cluster.Kubectl(append([]string{"-n", e.ns, "exec", pod, "--"}, command...)...)
}

// unready makes a pod's probe fail or succeed, and waits for it to show.
func (e *env) unready(pod string, unready bool) {
	e.Helper()
	e.probe(pod, unready)
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && (c.Status == corev1.ConditionFalse) == unready {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.Status.Conditions)
	})
}

// changes lists the next n creations and deletions of pods.
func (e *env) changes(w watch.Interface, n int) string {
	e.Helper()
	var seen []string
	for len(seen) < n {
		switch ev := e.next(w); ev.Type {
		case watch.Added:
			seen = append(seen, "+"+ev.Object.(*corev1.Pod).Name)
		case watch.Deleted:
			seen = append(seen, "-"+ev.Object.(*corev1.Pod).Name)
		}
	}
	return strings.Join(seen, " ")
}

func (e *env) watchPods() watch.Interface {
	e.Helper()
	w, err := e.kube.CoreV1().Pods(e.ns).Watch(e.ctx, metav1.ListOptions{})
	e.must(err)
	e.Cleanup(w.Stop)
	return w
}

// statefulOrder scales up and down with all, none, and then all pods healthy again.
func statefulOrder(e *env) {
	w := e.watchPods()
	e.stateful(probed(app), 1)
	e.statefulReady(1)
	e.unready("web-0", true)
	e.statefulIs(func(set *appsv1.StatefulSet) bool { return set.Status.ReadyReplicas == 0 })
	e.patchStateful(`{"spec":{"replicas":3}}`)
	e.statefulIs(func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 1 && set.Status.ReadyReplicas == 0 })
	equal(e, "pods while the first is unhealthy", e.changes(w, 1), "+web-0")
	e.must(e.pods("", 1))
	e.unready("web-0", false)
	e.statefulReady(3)
	equal(e, "scale-up", e.changes(w, 2), "+web-1 +web-2")

	for _, pod := range []string{"web-0", "web-1", "web-2"} {
		e.unready(pod, true)
	}
	e.statefulIs(func(set *appsv1.StatefulSet) bool { return set.Status.ReadyReplicas == 0 })
	e.patchStateful(`{"spec":{"replicas":0}}`)
	e.statefulIs(func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 3 && set.Status.ReadyReplicas == 0 })
	e.must(e.pods("", 3))
	e.unready("web-0", false)
	e.statefulIs(func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 3 && set.Status.ReadyReplicas == 1 })
	e.must(e.pods("", 3))
	e.probe("web-1", false) // only the last one is unhealthy now: it may go
	equal(e, "scale-down", e.changes(w, 3), "-web-2 -web-1 -web-0")
	e.statefulIs(func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 0 })
}

func statefulScale(e *env) {
	e.stateful(demoPod(app), 1)
	e.statefulReady(1)
	all := e.kube.AppsV1().StatefulSets(e.ns)
	scales(e, func() (*autoscalingv1.Scale, error) { return all.GetScale(e.ctx, "web", metav1.GetOptions{}) },
		func(s *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			return all.UpdateScale(e.ctx, "web", s, metav1.UpdateOptions{})
		},
		func(patch []byte) (*autoscalingv1.Scale, error) {
			out := &autoscalingv1.Scale{}
			return out, e.kube.AppsV1().RESTClient().Patch(types.MergePatchType).Namespace(e.ns).Resource("statefulsets").Name("web").SubResource("scale").Body(patch).Do(e.ctx).Into(out)
		}, func(n int32) { e.statefulReady(n) })
}

func statefulStatus(e *env) {
	e.stateful(demoPod(app), 1)
	e.statefulReady(1)
	all := e.kube.AppsV1().StatefulSets(e.ns)
	w, err := all.Watch(e.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	e.must(err)
	e.Cleanup(w.Stop)
	e.eventually(func() error {
		set, err := all.Get(e.ctx, "web", metav1.GetOptions{})
		e.must(err)
		set.Status.Conditions = append(set.Status.Conditions, appsv1.StatefulSetCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E", Message: "Set from e2e test"})
		_, err = all.UpdateStatus(e.ctx, set, metav1.UpdateOptions{})
		return err
	})
	e.seesCondition(w, "StatusUpdate")
	_, err = all.Patch(e.ctx, "web", types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	e.seesCondition(w, "StatusPatched")
	read := &appsv1.StatefulSet{}
	e.must(e.kube.AppsV1().RESTClient().Get().Namespace(e.ns).Resource("statefulsets").Name("web").SubResource("status").Do(e.ctx).Into(read))
	equal(e, "read", string(read.Status.Conditions[0].Type), "StatusPatched")
	equal(e, "replicas beside it", read.Status.Replicas, 1)
}

// seesCondition waits until a watch shows a StatefulSet with the condition.
func (e *env) seesCondition(w watch.Interface, name string) {
	e.Helper()
	for {
		if set, ok := e.next(w).Object.(*appsv1.StatefulSet); ok && len(set.Status.Conditions) > 0 && string(set.Status.Conditions[0].Type) == name {
			return
		}
	}
}

// revisions are the numbers and causes that kubectl rollout history shows, and rollout waits for what kubectl rollout status waits for.
func (e *env) revisions(kind string) string {
	e.Helper()
	return strings.Join(strings.Fields(e.cluster.Kubectl("-n", e.ns, "rollout", "history", kind+"/web"))[3:], " ")
}

func (e *env) rollout(args ...string) {
	e.Helper()
	e.cluster.Kubectl(append([]string{"-n", e.ns, "rollout"}, args...)...)
}

// versions are the variable VERSION of the namespace's pods, by name or node.
func (e *env) versions(by func(*corev1.Pod) string) string {
	e.Helper()
	list, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	var all []string
	for _, p := range list.Items {
		version := ""
		for _, v := range p.Spec.Containers[0].Env {
			version = v.Value
		}
		all = append(all, by(&p)+"="+version)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func podName(p *corev1.Pod) string { return p.Name }

const versionPatch = `{"metadata":{"annotations":{"kubernetes.io/change-cause":%[1]q}},"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"VERSION","value":%[1]q}]}]}}}}`

// statefulRollout rolls a canary out, then the rest, undoes it and restarts.
func statefulRollout(e *env) {
	e.stateful(demoPod(app), 3)
	e.statefulReady(3)
	e.patchStateful(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}`)
	w := e.watchPods()
	e.changes(w, 3) // what there is
	e.patchStateful(versionPatch, "two")
	e.rollout("status", "statefulset/web", "--timeout=60s")
	equal(e, "the canary", e.versions(podName), "web-0= web-1= web-2=two")
	equal(e, "changes", e.changes(w, 2), "-web-2 +web-2")
	set := e.statefulIs(func(set *appsv1.StatefulSet) bool {
		return set.Status.UpdatedReplicas == 1 && set.Status.ReadyReplicas == 3
	})
	if set.Status.CurrentRevision == set.Status.UpdateRevision {
		e.Errorf("the update is taken for complete: %+v", set.Status)
	}
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "web-1", metav1.DeleteOptions{}))
	equal(e, "changes", e.changes(w, 2), "-web-1 +web-1")
	equal(e, "below the partition", e.versions(podName), "web-0= web-1= web-2=two")
	e.patchStateful(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	e.statefulReady(3)
	equal(e, "changes", e.changes(w, 4), "-web-1 +web-1 -web-0 +web-0")
	equal(e, "history", e.revisions("statefulset"), "1 <none> 2 two")
	e.rollout("undo", "statefulset/web")
	e.statefulReady(3)
	equal(e, "undone", e.versions(podName), "web-0= web-1= web-2=")
	equal(e, "history", e.revisions("statefulset"), "2 two 3 <none>")
	equal(e, "changes", e.changes(w, 6), "-web-2 +web-2 -web-1 +web-1 -web-0 +web-0")
	e.rollout("restart", "statefulset/web")
	e.rollout("status", "statefulset/web", "--timeout=60s")
	equal(e, "changes", e.changes(w, 6), "-web-2 +web-2 -web-1 +web-1 -web-0 +web-0")
}

// statefulNames: what DNS knows of a headless service are the host names in its slices.
func statefulNames(e *env) {
	_, err := e.kube.CoreV1().Services(e.ns).Create(e.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Selector: app, Ports: []corev1.ServicePort{{Port: 8080}},
	}}, metav1.CreateOptions{})
	e.must(err)
	e.stateful(demoPod(app), 2)
	e.statefulReady(2)
	for _, name := range []string{"web-0", "web-1"} {
		equal(e, "host name", strings.TrimSpace(e.cluster.Kubectl("-n", e.ns, "exec", name, "--", "hostname")), name)
	}
	e.eventually(func() error {
		list, err := e.kube.DiscoveryV1().EndpointSlices(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			return err
		}
		var names []string
		for _, slice := range list.Items {
			for _, endpoint := range slice.Endpoints {
				names = append(names, ptr.Deref(endpoint.Hostname, "")+"@"+endpoint.TargetRef.Name)
			}
		}
		slices.Sort(names)
		return same(strings.Join(names, " "), "web-0@web-0 web-1@web-1")
	})
}

// statefulClaims: each pod gets a volume of its own, which goes with the pod when the set shrinks, and with the set.
func statefulClaims(e *env) {
	class := "manual-" + e.ns
	for i := range 2 {
		name := fmt.Sprint(e.ns, "-", i)
		_, err := e.kube.CoreV1().PersistentVolumes().Create(e.ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}},
		}}, metav1.CreateOptions{})
		e.must(err)
		e.Cleanup(func() {
			e.must(e.kube.CoreV1().PersistentVolumes().Delete(context.Background(), name, metav1.DeleteOptions{}))
		})
	}
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	_, err := e.kube.AppsV1().StatefulSets(e.ns).Create(e.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: app}, Template: simulatedPod(app),
		PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: remove, WhenScaled: remove},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}},
	}}, metav1.CreateOptions{})
	e.must(err)
	e.statefulReady(2)
	equal(e, "claims", e.claims(), "data-web-0=Bound data-web-1=Bound")
	e.patchStateful(`{"spec":{"replicas":1}}`)
	e.eventually(func() error { return same(e.claims(), "data-web-0=Bound") })
	e.statefulReady(1)
	e.must(e.kube.AppsV1().StatefulSets(e.ns).Delete(e.ctx, "web", metav1.DeleteOptions{}))
	e.eventually(func() error { return same(e.claims(), "") })
}

// claims are the namespace's claims and their phases.
func (e *env) claims() string {
	e.Helper()
	list, err := e.kube.CoreV1().PersistentVolumeClaims(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	var all []string
	for _, c := range list.Items {
		all = append(all, c.Name+"="+string(c.Status.Phase))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// statefulFailed: one whose container ends for good comes back.
func statefulFailed(e *env) {
	e.stateful(demoPod(app), 1)
	e.statefulReady(1)
	e.endPod("web-0")
	e.statefulReady(1)
}

// endPod makes a pod fail, also where its agent says meanwhile that it runs, and waits until it is gone.
func (e *env) endPod(name string) {
	e.Helper()
	p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
	e.must(err)
	e.eventually(func() error {
		now, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && now.UID != p.UID:
			return nil
		case err == nil && now.Status.Phase != corev1.PodFailed && now.DeletionTimestamp == nil:
			_, err = e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"phase":"Failed"}}`, p.UID), metav1.PatchOptions{}, "status")
		}
		return errors.Join(errors.New("still there"), err)
	})
}

func (e *env) daemons(template corev1.PodTemplateSpec) *appsv1.DaemonSet {
	e.Helper()
	set, err := e.kube.AppsV1().DaemonSets(e.ns).Create(e.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: app},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template}}, metav1.CreateOptions{})
	e.must(err)
	return set
}

// daemonsOn waits until n nodes have a daemon of the present template that serves, and no other node has one. It gives the pods.
func (e *env) daemonsOn(n int32) []corev1.Pod {
	e.Helper()
	var list *corev1.PodList
	e.eventually(func() error {
		set, err := e.kube.AppsV1().DaemonSets(e.ns).Get(e.ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := set.Status; s.ObservedGeneration < set.Generation || s.DesiredNumberScheduled != n || s.CurrentNumberScheduled != n || s.UpdatedNumberScheduled != n ||
			s.NumberAvailable != n || s.NumberMisscheduled != 0 {
			return fmt.Errorf("generation %d: %+v", set.Generation, s)
		}
		list, err = e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != int(n) {
			err = fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
	nodes := map[string]bool{}
	for _, p := range list.Items {
		nodes[p.Spec.NodeName] = true
	}
	equal(e, "nodes", len(nodes), int(n))
	return list.Items
}

func daemonLife(e *env) {
	e.daemons(demoPod(app))
	first := e.daemonsOn(1)[0]
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, first.Name, metav1.DeleteOptions{}))
	e.eventually(func() error {
		if second := e.daemonsOn(1)[0]; second.UID == first.UID {
			return errors.New("still the first")
		}
		return nil
	})
	e.must(e.kube.AppsV1().DaemonSets(e.ns).Delete(e.ctx, "web", metav1.DeleteOptions{}))
	e.eventually(func() error { return e.pods("", 0) })
}

func daemonFailed(e *env) {
	e.daemons(demoPod(app))
	e.endPod(e.daemonsOn(1)[0].Name)
	e.daemonsOn(1)
}

func daemonsDeleted(e *env) {
	e.daemons(demoPod(app))
	e.daemonsOn(1)
	all := metav1.ListOptions{LabelSelector: "app=web"}
	list, err := e.kube.AppsV1().DaemonSets("").List(e.ctx, all)
	e.must(err)
	mine := slices.DeleteFunc(list.Items, func(d appsv1.DaemonSet) bool { return d.Namespace != e.ns })
	equal(e, "sets", len(mine), 1)
	e.must(e.kube.AppsV1().DaemonSets(e.ns).DeleteCollection(e.ctx, metav1.DeleteOptions{}, all))
	e.eventually(func() error {
		list, err := e.kube.AppsV1().DaemonSets(e.ns).List(e.ctx, all)
		if err == nil && len(list.Items) > 0 {
			err = errors.New("not deleted")
		}
		return err
	})
	e.eventually(func() error { return e.pods("", 0) })
}

// history waits until n revisions have the labels, and gives them.
func (e *env) history(selector string, n int) []appsv1.ControllerRevision {
	e.Helper()
	var list *appsv1.ControllerRevisionList
	e.eventually(func() (err error) {
		list, err = e.kube.AppsV1().ControllerRevisions(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: selector})
		if err == nil && len(list.Items) != n {
			err = fmt.Errorf("%d revisions, want %d", len(list.Items), n)
		}
		return err
	})
	return list.Items
}

// revisionLife patches, creates, deletes and updates revisions of a DaemonSet's, whose daemon runs on all the while.
func revisionLife(e *env) {
	e.daemons(demoPod(app))
	daemon := e.daemonsOn(1)[0]
	all := e.kube.AppsV1().ControllerRevisions(e.ns)
	first := e.history("app=web", 1)[0]
	_, err := all.Patch(e.ctx, first.Name, types.StrategicMergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:"patched"}}}`, first.Name), metav1.PatchOptions{})
	e.must(err)
	e.history(first.Name+"=patched", 1)
	second, err := all.Create(e.ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "web-second", Labels: map[string]string{"app": "web", appsv1.DefaultDaemonSetUniqueLabelKey: "second"}, OwnerReferences: first.OwnerReferences},
		Data:       first.Data, Revision: first.Revision + 1,
	}, metav1.CreateOptions{})
	e.must(err)
	e.history("app=web", 2)
	e.must(all.Delete(e.ctx, first.Name, metav1.DeleteOptions{}))
	e.history("app=web", 1)
	e.eventually(func() error {
		r, err := all.Get(e.ctx, second.Name, metav1.GetOptions{})
		e.must(err)
		r.Labels["web-second"] = "updated"
		_, err = all.Update(e.ctx, r, metav1.UpdateOptions{})
		return err
	})
	e.history("web-second=updated", 1)
	if now := e.daemonsOn(1)[0]; now.UID != daemon.UID {
		e.Errorf("the daemon was replaced though its template is the same")
	}
	_, err = e.kube.AppsV1().DaemonSets(e.ns).Patch(e.ctx, "web", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`), metav1.PatchOptions{})
	e.must(err)
	e.history("app=web", 2)
	e.daemonsOn(1)
	e.must(all.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "web-second=updated"}))
	equal(e, "the last revision", e.history("app=web", 1)[0].Revision, 3)
}

// daemonRollout rolls out over four simulated nodes, behind and ahead of the old pods.
func daemonRollout(e *env) {
	e.daemons(simulatedPod(app))
	e.daemonsOn(4)
	patch := func(format string, args ...any) {
		_, err := e.kube.AppsV1().DaemonSets(e.ns).Patch(e.ctx, "web", types.StrategicMergePatchType, fmt.Appendf(nil, format, args...), metav1.PatchOptions{})
		e.must(err)
	}
	same := func(version string) string { return strings.TrimSpace(strings.Repeat("="+version+" ", 4)) }
	anywhere := func(*corev1.Pod) string { return "" }
	patch(versionPatch, "two")
	e.rollout("status", "daemonset/web", "--timeout=60s")
	equal(e, "rolled out", e.versions(anywhere), same("two"))
	equal(e, "history", e.revisions("daemonset"), "1 <none> 2 two")
	e.rollout("undo", "daemonset/web", "--to-revision=1")
	e.rollout("status", "daemonset/web", "--timeout=60s")
	equal(e, "undone", e.versions(anywhere), same(""))
	equal(e, "history", e.revisions("daemonset"), "2 two 3 <none>")
	patch(`{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":0,"maxSurge":%q}}}}`, "50%")
	e.rollout("restart", "daemonset/web")
	e.rollout("status", "daemonset/web", "--timeout=60s")
	e.daemonsOn(4)
	set, err := e.kube.AppsV1().DaemonSets(e.ns).Get(e.ctx, "web", metav1.GetOptions{})
	e.must(err)
	equal(e, "surge", set.Spec.UpdateStrategy.RollingUpdate.MaxSurge.String(), ptr.To(intstr.FromString("50%")).String())
	equal(e, "generation of the template", set.Annotations[appsv1.DeprecatedTemplateGeneration], "4")
}

// daemonNodes: a label attracts daemons, a taint that evicts takes them off, cordoning does not keep them away.
func daemonNodes(e *env) {
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{LabelSelector: simulated + "=true"})
	e.must(err)
	node := nodes.Items[0].Name
	e.cluster.Kubectl("cordon", node)
	template := simulatedPod(app)
	template.Spec.NodeSelector["daemons"] = "yes"
	e.daemons(template)
	e.daemonsOn(0)
	e.cluster.Kubectl("label", "node", node, "daemons=yes")
	equal(e, "node", e.daemonsOn(1)[0].Spec.NodeName, node)
	e.cluster.Kubectl("taint", "node", node, "keep=out:NoExecute")
	e.daemonsOn(0)
	e.cluster.Kubectl("taint", "node", node, "keep-")
	e.daemonsOn(1)
	e.cluster.Kubectl("label", "node", node, "daemons-")
	e.daemonsOn(0)
	e.cluster.Kubectl("uncordon", node)
}
