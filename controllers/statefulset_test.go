package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"
	"k8s.io/utils/ptr"
)

func statefulSet(replicas int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web, "v1"),
		},
	}
}

func withClaim(set *appsv1.StatefulSet) *appsv1.StatefulSet {
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"tier": "disk"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}}
	return set
}

func (c *cluster) createSet(set *appsv1.StatefulSet) *appsv1.StatefulSet {
	c.Helper()
	set, err := c.client.AppsV1().StatefulSets("default").Create(c.ctx, set, metav1.CreateOptions{})
	c.must(err)
	return set
}

func (c *cluster) stateful() *appsv1.StatefulSet {
	c.Helper()
	set, err := c.client.AppsV1().StatefulSets("default").Get(c.ctx, "db", metav1.GetOptions{})
	c.must(err)
	return set
}

// changeSet edits the set until the write is accepted.
func (c *cluster) changeSet(edit func(*appsv1.StatefulSet)) {
	c.Helper()
	for {
		set := c.stateful()
		edit(set)
		if _, err := c.client.AppsV1().StatefulSets("default").Update(c.ctx, set, metav1.UpdateOptions{}); err == nil {
			return
		} else if !apierrors.IsConflict(err) {
			c.Fatal(err)
		}
	}
}

// setStatus waits until the set's status, of its present generation, satisfies check.
func (c *cluster) setStatus(what string, check func(*appsv1.StatefulSet) bool) {
	c.Helper()
	c.eventually(what, func() error {
		set := c.stateful()
		if set.Status.ObservedGeneration != set.Generation || !check(set) {
			return fmt.Errorf("generation %d: %+v", set.Generation, set.Status)
		}
		return nil
	})
}

// settled waits until all pods are of the present template and available.
func (c *cluster) settled() {
	c.Helper()
	c.setStatus("the set's pods", func(set *appsv1.StatefulSet) bool {
		n, s := *set.Spec.Replicas, set.Status
		return s.Replicas == n && s.ReadyReplicas == n && s.AvailableReplicas == n && s.UpdatedReplicas == n && s.CurrentRevision == s.UpdateRevision
	})
}

// journal notes the names of pods as they come and go.
type journal struct {
	w     watch.Interface
	lines chan string
}

func (c *cluster) journal() *journal {
	c.Helper()
	w, err := c.client.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{})
	c.must(err)
	c.Cleanup(w.Stop)
	j := &journal{w: w, lines: make(chan string, 1000)}
	go func() {
		defer close(j.lines)
		for event := range w.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && event.Type != watch.Modified {
				j.lines <- map[watch.EventType]string{watch.Added: "+", watch.Deleted: "-"}[event.Type] + pod.Name
			}
		}
	}()
	return j
}

// expect waits for the next lines.
func (j *journal) expect(c *cluster, want ...string) {
	c.Helper()
	for i, line := range want {
		var got string
		c.eventually(line, func() error {
			select {
			case got = <-j.lines:
				return nil
			default:
				return fmt.Errorf("nothing happens")
			}
		})
		if got != line {
			c.Fatalf("%s where %s should come, line %d of %v", got, line, i, want)
		}
	}
}

func (c *cluster) podNamed(name string) *corev1.Pod {
	c.Helper()
	pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	return pod
}

func TestStatefulSetLife(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	j := c.journal()
	c.createSet(statefulSet(3))
	c.settled()
	j.expect(c, "+db-0", "+db-1", "+db-2")
	c.event("db", "SuccessfulCreate", "create Pod db-0 in StatefulSet db successful")

	pod := c.podNamed("db-1")
	if pod.Spec.Hostname != "db-1" || pod.Spec.Subdomain != "db" || pod.Labels[appsv1.StatefulSetPodNameLabel] != "db-1" || pod.Labels[appsv1.PodIndexLabel] != "1" ||
		pod.Labels[appsv1.StatefulSetRevisionLabel] != c.stateful().Status.CurrentRevision {
		t.Fatalf("identity: %+v %q %q", pod.Labels, pod.Spec.Hostname, pod.Spec.Subdomain)
	}
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "db-1", metav1.DeleteOptions{}))
	j.expect(c, "-db-1", "+db-1")
	c.settled()

	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.settled()
	j.expect(c, "-db-2", "+db-2", "-db-1", "+db-1", "-db-0", "+db-0")
	for _, pod := range c.pods("") {
		if image := pod.Spec.Containers[0].Image; image != "v2" {
			t.Fatalf("%s runs %s", pod.Name, image)
		}
	}
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	j.expect(c, "-db-2", "-db-1")
	c.settled()
	c.event("db", "SuccessfulDelete", "delete Pod db-2 in StatefulSet db successful")
	c.must(c.client.AppsV1().StatefulSets("default").Delete(c.ctx, "db", metav1.DeleteOptions{}))
	j.expect(c, "-db-0")
	c.eventually("the end of the revisions", func() error {
		list, err := c.client.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d left", len(list.Items))
		}
		return err
	})
}

// TestStatefulSetHalts: with a pod that is not ready nothing comes, and nothing but it goes.
func TestStatefulSetHalts(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	set := statefulSet(2)
	set.Spec.Template.Spec.Containers[0].Image = "broken"
	c.createSet(set)
	c.podCount("", 1)
	c.setStatus("the first pod", func(s *appsv1.StatefulSet) bool { return s.Status.Replicas == 1 && s.Status.ReadyReplicas == 0 })
	c.setReady("db-0", corev1.ConditionTrue)
	c.podCount("", 2)
	c.setReady("db-1", corev1.ConditionTrue)
	c.settled()

	c.setReady("db-0", corev1.ConditionFalse)
	c.setReady("db-1", corev1.ConditionFalse)
	c.setStatus("no ready pod", func(s *appsv1.StatefulSet) bool { return s.Status.ReadyReplicas == 0 })
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](0) })
	c.setStatus("no ready pod", func(s *appsv1.StatefulSet) bool { return s.Status.ReadyReplicas == 0 })
	j := c.journal()
	j.expect(c, "+db-0", "+db-1")
	if n := len(c.pods("")); n != 2 {
		t.Fatalf("%d pods: a scale-down went on past a pod that is not ready", n)
	}
	c.setReady("db-1", corev1.ConditionTrue)
	j.expect(c, "-db-1", "-db-0")
}

// setReady plays the agent of a pod that does not become ready by itself.
func (c *cluster) setReady(name string, status corev1.ConditionStatus) {
	c.Helper()
	c.eventually("readiness of "+name, func() error {
		pod := c.podNamed(name)
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
		_, err := c.client.CoreV1().Pods("default").UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
		return err
	})
}

func TestStatefulSetParallel(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	set := statefulSet(5)
	set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 7}
	set.Spec.Template.Spec.Containers[0].Image = "broken"
	c.createSet(set)
	c.podCount("", 5)
	var names []string
	for _, pod := range c.pods("") {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "db-10 db-11 db-7 db-8 db-9" {
		t.Fatal(got)
	}
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v2" }) // pods that do not run are replaced at once
	c.settled()
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	c.podCount("", 1)
	c.podNamed("db-7")
}

func TestStatefulSetPartition(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	set := statefulSet(3)
	set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](2)}}
	c.createSet(set)
	c.settled()
	first := c.stateful().Status.CurrentRevision
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v2" })
	partial := func(s *appsv1.StatefulSet) bool {
		return s.Status.UpdatedReplicas == 1 && s.Status.CurrentReplicas == 2 && s.Status.ReadyReplicas == 3 && s.Status.CurrentRevision == first
	}
	c.setStatus("a partial update", partial)
	for _, name := range []string{"db-0", "db-2"} { // each comes back at its own revision
		old := c.podNamed(name)
		c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, name, metav1.DeleteOptions{}))
		c.eventually("another "+name, func() error {
			pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
			if err == nil && pod.UID == old.UID {
				err = fmt.Errorf("still the old one")
			}
			if err == nil && pod.Spec.Containers[0].Image != old.Spec.Containers[0].Image {
				t.Fatalf("%s runs %s", name, pod.Spec.Containers[0].Image)
			}
			return err
		})
	}
	c.setStatus("a partial update again", partial)
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
	c.settled()
}

func TestStatefulSetOnDelete(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	set := statefulSet(2)
	set.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	c.createSet(set)
	c.setStatus("two pods", func(s *appsv1.StatefulSet) bool { return s.Status.ReadyReplicas == 2 })
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.setStatus("an update revision", func(s *appsv1.StatefulSet) bool { return s.Status.UpdateRevision != s.Status.CurrentRevision })
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "db-0", metav1.DeleteOptions{}))
	c.setStatus("one updated pod", func(s *appsv1.StatefulSet) bool { return s.Status.UpdatedReplicas == 1 && s.Status.ReadyReplicas == 2 })
	if image := c.podNamed("db-1").Spec.Containers[0].Image; image != "v1" {
		t.Fatalf("db-1 runs %s", image)
	}
}

func (c *cluster) claimNamed(name string) (*corev1.PersistentVolumeClaim, error) {
	return c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{})
}

func TestStatefulSetClaims(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	set := withClaim(statefulSet(2))
	set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	}
	set = c.createSet(set)
	c.settled()
	c.event("db", "SuccessfulCreate", "create Claim data-db-0 Pod db-0 in StatefulSet db success")
	claim, err := c.claimNamed("data-db-1")
	c.must(err)
	if claim.Labels["app"] != "web" || claim.Labels["tier"] != "disk" || len(claim.OwnerReferences) != 0 {
		t.Fatalf("%v %v", claim.Labels, claim.OwnerReferences)
	}
	if v := c.podNamed("db-1").Spec.Volumes[0]; v.Name != "data" || v.PersistentVolumeClaim.ClaimName != "data-db-1" {
		t.Fatalf("%+v", v)
	}
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	c.eventually("the end of the claim", func() error {
		_, err := c.claimNamed("data-db-1")
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v", err)
	})
	c.changeSet(func(s *appsv1.StatefulSet) {
		s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		s.Spec.Replicas = ptr.To[int32](2)
	})
	c.settled()
	c.eventually("owners of the claims", func() error {
		for _, name := range []string{"data-db-0", "data-db-1"} {
			claim, err := c.claimNamed(name)
			if err != nil {
				return err
			}
			if ref := metav1.GetControllerOf(claim); ref == nil || ref.UID != set.UID {
				return fmt.Errorf("%s: %v", name, claim.OwnerReferences)
			}
		}
		return nil
	})
	c.must(c.client.AppsV1().StatefulSets("default").Delete(c.ctx, "db", metav1.DeleteOptions{}))
	c.eventually("the end of all claims", func() error {
		list, err := c.client.CoreV1().PersistentVolumeClaims("default").List(c.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d left", len(list.Items))
		}
		return err
	})
}

func TestStatefulSetFailedPod(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.createSet(statefulSet(2))
	c.settled()
	for name, phase := range map[string]corev1.PodPhase{"db-0": corev1.PodFailed, "db-1": corev1.PodSucceeded} {
		old := c.podNamed(name)
		_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase), metav1.PatchOptions{}, "status")
		c.must(err)
		c.eventually("another "+name, func() error {
			pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
			if err == nil && pod.UID == old.UID {
				err = fmt.Errorf("still the old one")
			}
			return err
		})
		c.settled()
	}
}

func TestStatefulSetAdoption(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	c.createSet(statefulSet(2))
	c.settled()
	uid, revisions := c.podNamed("db-0").UID, func() []appsv1.ControllerRevision {
		list, err := c.client.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{})
		c.must(err)
		return list.Items
	}
	c.must(c.client.AppsV1().StatefulSets("default").Delete(c.ctx, "db", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}))
	c.eventually("orphaning", func() error {
		if len(c.podNamed("db-0").OwnerReferences) > 0 || len(revisions()[0].OwnerReferences) > 0 {
			return fmt.Errorf("still owned")
		}
		_, err := c.client.AppsV1().StatefulSets("default").Get(c.ctx, "db", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the set: %v", err)
	})
	set := c.createSet(statefulSet(2))
	c.settled()
	if pod := c.podNamed("db-0"); pod.UID != uid || metav1.GetControllerOf(pod).UID != set.UID {
		t.Fatal("pods were not adopted")
	}
	if list := revisions(); len(list) != 1 || metav1.GetControllerOf(&list[0]).UID != set.UID {
		t.Fatalf("revisions were not adopted: %+v", list)
	}
	// A pod whose labels no longer match is let go, and in the way of its ordinal as long as it lasts.
	_, err := c.client.CoreV1().Pods("default").Patch(c.ctx, "db-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("release", func() error {
		if len(c.podNamed("db-1").OwnerReferences) > 0 {
			return fmt.Errorf("still owned")
		}
		return nil
	})
	c.must(c.client.CoreV1().Pods("default").Delete(c.ctx, "db-1", metav1.DeleteOptions{}))
	c.eventually("another db-1", func() error {
		pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, "db-1", metav1.GetOptions{})
		if err == nil && pod.Labels["app"] != "web" {
			err = fmt.Errorf("still the old one")
		}
		return err
	})
	// Labels of identity are put back.
	_, err = c.client.CoreV1().Pods("default").Patch(c.ctx, "db-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"statefulset.kubernetes.io/pod-name":null}}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("repair", func() error {
		if c.podNamed("db-1").Labels[appsv1.StatefulSetPodNameLabel] != "db-1" {
			return fmt.Errorf("%v", c.podNamed("db-1").Labels)
		}
		return nil
	})
	c.event("db", "SuccessfulUpdate", "update Pod db-1 in StatefulSet db successful")
}

// TestStatefulSetRollout runs what kubectl rollout status, history and undo are made of, and sees that the history is truncated.
func TestStatefulSetRollout(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	set := statefulSet(2)
	set.Annotations = map[string]string{"kubernetes.io/change-cause": "first"}
	set.Spec.RevisionHistoryLimit = ptr.To[int32](1)
	c.createSet(set)
	c.settled()
	c.changeSet(func(s *appsv1.StatefulSet) {
		s.Spec.Template.Spec.Containers[0].Image = "v2"
		s.Annotations["kubernetes.io/change-cause"] = "second"
	})
	c.settled()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c.stateful())
	c.must(err)
	said, done, err := (&polymorphichelpers.StatefulSetStatusViewer{}).Status(unstructuredOf(content), 0)
	if err != nil || !done || !strings.HasPrefix(said, "partitioned roll out complete: 2 new pods have been updated") {
		t.Fatal(said, done, err)
	}
	kind := appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind()
	history, err := polymorphichelpers.HistoryViewerFor(kind, c.client)
	c.must(err)
	expect := func(want string) {
		c.Helper()
		table, err := history.ViewHistory("default", "db", 0)
		c.must(err)
		if got := strings.Join(strings.Fields(table), " "); got != "REVISION CHANGE-CAUSE "+want {
			t.Fatal(table)
		}
	}
	expect("1 first 2 second")
	undo, err := polymorphichelpers.RollbackerFor(kind, c.client)
	c.must(err)
	if said, err := undo.Rollback(c.stateful(), nil, 2, cmdutil.DryRunNone); err != nil || !strings.HasPrefix(said, "skipped rollback") {
		t.Fatal(said, err)
	}
	if said, err := undo.Rollback(c.stateful(), nil, 0, cmdutil.DryRunNone); err != nil || said != "rolled back" {
		t.Fatal(said, err)
	}
	c.settled()
	if image := c.podNamed("db-0").Spec.Containers[0].Image; image != "v1" {
		t.Fatalf("db-0 runs %s", image)
	}
	expect("2 second 3 first")
	c.changeSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v3" })
	c.settled()
	c.eventually("truncation", func() error {
		list, err := c.client.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != 2 {
			err = fmt.Errorf("%d revisions", len(list.Items))
		}
		return err
	})
}
