package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// storageTests need no node.
var storageTests = map[string]func(*env){
	"a driver's life":                               driverLife,
	"a pod with a volume of a driver":               podWithDriver,
	"a CSI node's life":                             csiNodeLife,
	"a class's life":                                classLife,
	"an attachment's life":                          attachmentLife,
	"an attachment has a status":                    attachmentStatus,
	"volumes and claims have a status":              volumeStatus,
	"a claim gets the smallest volume that will do": claimSmallest,
	"a volume outlives its claim":                   volumeReleased,
	"a claim without a volume is told why":          claimExplained,
}

// volumeTests need nodes; nothing is mounted on them.
var volumeTests = map[string]func(*env){
	"a pod goes where its volume is":                          podFollowsVolume,
	"a volume is provisioned where its pod goes":              volumeFollowsPod,
	"a volume for one pod is for one only":                    onePodOnly,
	"an ephemeral volume's claim comes and goes with it":      ephemeralClaim,
	"a volume is attached where its pod is, and nowhere else": volumeAttached,
	"a claim waits for its pods to be deleted":                claimProtected,
}

// TestVolumes shows how claims, volumes and pods find each other, on simulated nodes.
func TestVolumes(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	c.Start("simulate", "--config", "/dev/null", "--kubeconfig", c.Kubeconfig, "--nodes", "3", "--zones", "3")
	s := newSuite(t, c)
	t.Run("volumes", func(t *testing.T) {
		for name, test := range volumeTests {
			t.Run(name, func(t *testing.T) { test(s.env(t)) })
		}
	})
}

// life takes objects of a kind through all that its API offers: one is made, read, patched, listed, updated and deleted, two are made and deleted together.
func (e *env) life(group, plural string, form func(name string) string) {
	e.Helper()
	client := e.dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural})
	label := map[string]string{"life": e.ns}
	create := func(name string) *unstructured.Unstructured {
		e.Helper()
		o := e.object("%s", form(name))
		o.SetLabels(label)
		o, err := client.Create(e.ctx, o, metav1.CreateOptions{})
		e.must(err)
		return o
	}
	one := e.ns + "-1"
	create(one)
	o, err := client.Get(e.ctx, one, metav1.GetOptions{})
	e.must(err)
	if o.GetName() != one || o.GetUID() == "" {
		e.Fatalf("%v", o)
	}
	o, err = client.Patch(e.ctx, one, types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{})
	e.must(err)
	if o.GetLabels()["patched"] != "yes" {
		e.Fatalf("%v", o.GetLabels())
	}
	e.selected(client, "patched=yes,life="+e.ns, 1)
	e.must(client.Delete(e.ctx, one, metav1.DeleteOptions{}))
	e.eventually(func() error { return gone(client.Get(e.ctx, one, metav1.GetOptions{})) })
	for _, name := range []string{e.ns + "-2", e.ns + "-3"} {
		o := create(name)
		labels := o.GetLabels()
		labels["updated"] = "yes"
		o.SetLabels(labels)
		o, err := client.Update(e.ctx, o, metav1.UpdateOptions{})
		e.must(err)
		if o.GetLabels()["updated"] != "yes" {
			e.Fatalf("%v", o.GetLabels())
		}
	}
	e.selected(client, "updated=yes,life="+e.ns, 2)
	e.must(client.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "life=" + e.ns}))
	e.eventually(func() error {
		list, err := client.List(e.ctx, metav1.ListOptions{LabelSelector: "life=" + e.ns})
		if err == nil && len(list.Items) > 0 {
			return fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}

func (e *env) selected(client dynamic.ResourceInterface, selector string, want int) {
	e.Helper()
	list, err := client.List(e.ctx, metav1.ListOptions{LabelSelector: selector})
	e.must(err)
	if len(list.Items) != want {
		e.Fatalf("%d of %s, want %d", len(list.Items), selector, want)
	}
}

// gone is nil where the answer was that there is no such object.
func gone[T any](_ T, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("it is still there")
}

func driverLife(e *env) {
	e.life("storage.k8s.io", "csidrivers", func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"storage.k8s.io/v1","kind":"CSIDriver","metadata":{"name":%q},"spec":{"attachRequired":false,"volumeLifecycleModes":["Ephemeral"]}}`, name)
	})
}

func csiNodeLife(e *env) {
	e.life("storage.k8s.io", "csinodes", func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"storage.k8s.io/v1","kind":"CSINode","metadata":{"name":%q},"spec":{"drivers":[]}}`, name)
	})
}

func classLife(e *env) {
	e.life("storage.k8s.io", "storageclasses", func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":%q},"provisioner":"disk.example.com"}`, name)
	})
}

func attachmentLife(e *env) {
	e.life("storage.k8s.io", "volumeattachments", func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttachment","metadata":{"name":%q},
			"spec":{"attacher":"disk.example.com","nodeName":"none","source":{"persistentVolumeName":%q}}}`, name, name)
	})
}

func attachmentStatus(e *env) {
	client := e.kube.StorageV1().VolumeAttachments()
	name := e.ns + "-status"
	_, err := client.Create(e.ctx, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: "disk.example.com", NodeName: "none", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &name},
	}}, metav1.CreateOptions{})
	e.must(err)
	attached := func(want bool) func(*storagev1.VolumeAttachment, error) *storagev1.VolumeAttachment {
		return func(a *storagev1.VolumeAttachment, err error) *storagev1.VolumeAttachment {
			e.must(err)
			if a.Status.Attached != want {
				e.Fatalf("attached: %v", a.Status.Attached)
			}
			return a
		}
	}
	attached(false)(client.Patch(e.ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}))
	attached(false)(client.Get(e.ctx, name, metav1.GetOptions{}))
	a := attached(true)(client.Patch(e.ctx, name, types.MergePatchType, []byte(`{"status":{"attached":true}}`), metav1.PatchOptions{}, "status"))
	a.Status.Attached = false
	attached(false)(client.UpdateStatus(e.ctx, a, metav1.UpdateOptions{}))
	e.must(client.Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(func() error { return gone(client.Get(e.ctx, name, metav1.GetOptions{})) })
}

func podWithDriver(e *env) {
	pods := e.kube.CoreV1().Pods(e.ns)
	p := pod("inline")
	p.Labels = map[string]string{"inline": "yes"}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
		Driver: "inline.example.com", VolumeAttributes: map[string]string{"size": "1"}, ReadOnly: ptr.To(true)}}}}
	_, err := pods.Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
	got, err := pods.Get(e.ctx, "inline", metav1.GetOptions{})
	e.must(err)
	csi := func(v corev1.Volume) bool {
		return v.CSI != nil && v.CSI.Driver == "inline.example.com" && v.CSI.VolumeAttributes["size"] == "1" && *v.CSI.ReadOnly
	}
	if !slices.ContainsFunc(got.Spec.Volumes, csi) {
		e.Fatalf("%+v", got.Spec.Volumes)
	}
	got, err = pods.Patch(e.ctx, "inline", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), metav1.PatchOptions{})
	e.must(err)
	list, err := pods.List(e.ctx, metav1.ListOptions{LabelSelector: "inline=yes"})
	e.must(err)
	if got.Annotations["patched"] != "yes" || len(list.Items) != 1 || !slices.ContainsFunc(list.Items[0].Spec.Volumes, csi) {
		e.Fatalf("%v, %d pods", got.Annotations, len(list.Items))
	}
	e.must(pods.Delete(e.ctx, "inline", metav1.DeleteOptions{}))
	e.eventually(func() error { return gone(pods.Get(e.ctx, "inline", metav1.GetOptions{})) })
}

func storageOf(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

// persistentVolume makes a volume that goes with the test, and is of the class called after the namespace, lest others' claims take it.
func (e *env) persistentVolume(name, size string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	e.Helper()
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns + "-" + name, Labels: map[string]string{"of": e.ns}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: e.ns, Capacity: storageOf(size), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: e.ns + "-" + name}},
		},
	}
	if change != nil {
		change(v)
	}
	v, err := e.kube.CoreV1().PersistentVolumes().Create(e.ctx, v, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _, _ = e.cluster.TryKubectl("", "delete", "pv", v.Name, "--wait=false") })
	return v
}

func (e *env) volumeClaim(name, size string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	e.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To(e.ns), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: storageOf(size)},
	}}
	if change != nil {
		change(c)
	}
	c, err := e.kube.CoreV1().PersistentVolumeClaims(e.ns).Create(e.ctx, c, metav1.CreateOptions{})
	e.must(err)
	return c
}

// waitingClass makes the class called after the namespace, whose claims wait for pods.
func (e *env) waitingClass(provisioner string) {
	e.Helper()
	classes := e.kube.StorageV1().StorageClasses()
	_, err := classes.Create(e.ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _, _ = e.cluster.TryKubectl("", "delete", "storageclass", e.ns) })
}

// claimBound waits for a claim to be bound, and gives it.
func (e *env) claimBound(name string) (c *corev1.PersistentVolumeClaim) {
	e.Helper()
	e.eventually(func() (err error) {
		c, err = e.kube.CoreV1().PersistentVolumeClaims(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if err == nil && c.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("%s is %s", name, c.Status.Phase)
		}
		return err
	})
	return c
}

func (e *env) volumePhase(name string, want corev1.PersistentVolumePhase) (v *corev1.PersistentVolume) {
	e.Helper()
	e.eventually(func() (err error) {
		v, err = e.kube.CoreV1().PersistentVolumes().Get(e.ctx, e.ns+"-"+name, metav1.GetOptions{})
		if err == nil && v.Status.Phase != want {
			return fmt.Errorf("%s is %s", name, v.Status.Phase)
		}
		return err
	})
	return v
}

// volumeStatus is about status as such; the binder leaves what it does not write.
func volumeStatus(e *env) {
	volumes, claims := e.kube.CoreV1().PersistentVolumes(), e.kube.CoreV1().PersistentVolumeClaims(e.ns)
	v := e.persistentVolume("v", "1Gi", nil)
	e.volumeClaim("c", "1Gi", nil)
	vs, err := volumes.List(e.ctx, metav1.ListOptions{LabelSelector: "of=" + e.ns})
	e.must(err)
	cs, err := claims.List(e.ctx, metav1.ListOptions{})
	e.must(err)
	if len(vs.Items) != 1 || len(cs.Items) != 1 {
		e.Fatalf("%d volumes, %d claims", len(vs.Items), len(cs.Items))
	}
	e.claimBound("c")
	e.volumePhase("v", corev1.VolumeBound)
	condition := func(c *corev1.PersistentVolumeClaim, kind string) {
		e.Helper()
		if !slices.ContainsFunc(c.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return string(c.Type) == kind }) {
			e.Fatalf("no %s in %+v", kind, c.Status.Conditions)
		}
	}
	c, err := claims.Patch(e.ctx, "c", types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"Patched","status":"True","reason":"Test","message":"m"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	condition(c, "Patched")
	v, err = volumes.Patch(e.ctx, v.Name, types.MergePatchType, []byte(`{"status":{"message":"patched","reason":"Test"}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	if v.Status.Message != "patched" || v.Status.Reason != "Test" {
		e.Fatalf("%+v", v.Status)
	}
	c.Status.Conditions = append(c.Status.Conditions, corev1.PersistentVolumeClaimCondition{Type: "Updated", Status: corev1.ConditionTrue})
	c, err = claims.UpdateStatus(e.ctx, c, metav1.UpdateOptions{})
	e.must(err)
	condition(c, "Updated")
	v.Status.Message, v.Status.Reason = "updated", "Again"
	v, err = volumes.UpdateStatus(e.ctx, v, metav1.UpdateOptions{})
	e.must(err)
	if v.Status.Message != "updated" || v.Status.Reason != "Again" || v.Status.Phase != corev1.VolumeBound {
		e.Fatalf("%+v", v.Status)
	}
}

func claimSmallest(e *env) {
	e.persistentVolume("large", "9Gi", nil)
	e.persistentVolume("medium", "3Gi", nil)
	e.persistentVolume("small", "1Gi", nil)
	for _, name := range []string{"large", "medium", "small"} {
		e.volumePhase(name, corev1.VolumeAvailable)
	}
	e.volumeClaim("c", "2Gi", nil)
	c := e.claimBound("c")
	if c.Spec.VolumeName != e.ns+"-medium" || c.Status.Capacity.Storage().String() != "3Gi" {
		e.Fatalf("%s, %v", c.Spec.VolumeName, c.Status.Capacity)
	}
	if v := e.volumePhase("medium", corev1.VolumeBound); v.Spec.ClaimRef.UID != c.UID {
		e.Fatalf("%+v", v.Spec.ClaimRef)
	}
}

func volumeReleased(e *env) {
	e.persistentVolume("kept", "1Gi", nil)
	e.persistentVolume("failed", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	})
	claims := e.kube.CoreV1().PersistentVolumeClaims(e.ns)
	for _, name := range []string{"kept", "failed"} {
		e.volumeClaim(name, "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = e.ns + "-" + name })
		e.claimBound(name)
		e.must(claims.Delete(e.ctx, name, metav1.DeleteOptions{}))
		e.eventually(func() error { return gone(claims.Get(e.ctx, name, metav1.GetOptions{})) })
	}
	e.volumePhase("kept", corev1.VolumeReleased)
	e.volumePhase("failed", corev1.VolumeFailed)
	e.cluster.Kubectl("patch", "pv", e.ns+"-kept", "--type=json", `-p=[{"op":"remove","path":"/spec/claimRef"}]`)
	e.volumePhase("kept", corev1.VolumeAvailable)
}

func claimExplained(e *env) {
	told := func(claim, text string) {
		e.Helper()
		e.eventually(func() error {
			if out := e.cluster.Kubectl("describe", "pvc", claim, "-n", e.ns); !strings.Contains(out, text) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	e.volumeClaim("classless", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("") })
	told("classless", "no persistent volumes available for this claim and no storage class is set")
	e.volumeClaim("unknown", "1Gi", nil)
	told("unknown", fmt.Sprintf("storageclass.storage.k8s.io %q not found", e.ns))
	e.waitingClass("disk.example.com")
	told("unknown", "waiting for first consumer to be created before binding")
}

// volumePod makes a pod of simulated nodes that uses a claim.
func (e *env) volumePod(name, claim string, change func(*corev1.PodSpec)) {
	e.Helper()
	p := pod(name)
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	if change != nil {
		change(&p.Spec)
	}
	_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
}

// placedOn waits for a pod to have a node.
func (e *env) placedOn(name string) (node string) {
	e.Helper()
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if node = p.Spec.NodeName; node == "" {
			return fmt.Errorf("%+v", p.Status.Conditions)
		}
		return nil
	})
	return node
}

// unplaced waits for the scheduler's word on a pod.
func (e *env) unplaced(name, message string) {
	e.Helper()
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, message) {
				return nil
			}
		}
		return fmt.Errorf("on %q: %+v", p.Spec.NodeName, p.Status.Conditions)
	})
}

// inZone makes a volume reachable from one zone only.
func inZone(zone string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}},
		}}}}
	}
}

func (e *env) zoneOf(node string) string {
	e.Helper()
	n, err := e.kube.CoreV1().Nodes().Get(e.ctx, node, metav1.GetOptions{})
	e.must(err)
	return n.Labels[corev1.LabelTopologyZone]
}

func podFollowsVolume(e *env) {
	e.waitingClass("kubernetes.io/no-provisioner")
	e.volumeClaim("c", "1Gi", nil)
	e.volumePod("p", "c", nil)
	e.unplaced("p", "node(s) didn't find available persistent volumes to bind")
	e.persistentVolume("v", "1Gi", inZone("zone-1"))
	if zone := e.zoneOf(e.placedOn("p")); zone != "zone-1" {
		e.Fatalf("in %s", zone)
	}
	e.claimBound("c")
	e.volumePod("q", "c", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{corev1.LabelTopologyZone: "zone-2"} })
	e.unplaced("q", "node(s) didn't match PersistentVolume's node affinity")
}

func volumeFollowsPod(e *env) {
	e.waitingClass("disk.example.com")
	e.volumeClaim("c", "1Gi", nil)
	e.volumePod("p", "c", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{corev1.LabelTopologyZone: "zone-2"} })
	var c *corev1.PersistentVolumeClaim
	e.eventually(func() (err error) { // the provisioner is asked
		c, err = e.kube.CoreV1().PersistentVolumeClaims(e.ns).Get(e.ctx, "c", metav1.GetOptions{})
		if a := c.Annotations; err == nil && (a["volume.kubernetes.io/selected-node"] == "" || a["volume.kubernetes.io/storage-provisioner"] != "disk.example.com") {
			return fmt.Errorf("%v", a)
		}
		return err
	})
	on := c.Annotations["volume.kubernetes.io/selected-node"]
	if zone := e.zoneOf(on); zone != "zone-2" {
		e.Fatalf("%s in %s is selected", on, zone)
	}
	e.persistentVolume("made", "1Gi", func(v *corev1.PersistentVolume) { // it answers
		inZone("zone-2")(v)
		v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "disk.example.com"}
		v.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: e.ns, Name: "c", UID: c.UID}
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	})
	if got := e.placedOn("p"); got != on {
		e.Fatalf("on %s, %s was selected", got, on)
	}
	e.claimBound("c")
}

func onePodOnly(e *env) {
	e.persistentVolume("v", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	})
	e.volumeClaim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	})
	e.claimBound("c")
	e.volumePod("first", "c", nil)
	e.placedOn("first")
	e.volumePod("second", "c", nil)
	e.unplaced("second", "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "first", metav1.DeleteOptions{}))
	e.placedOn("second")
}

func ephemeralClaim(e *env) {
	e.volumePod("p", "", func(s *corev1.PodSpec) {
		s.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: ptr.To(e.ns), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: storageOf("1Gi")},
			},
		}}}
	})
	e.persistentVolume("v", "1Gi", nil)
	c := e.claimBound("p-v")
	if owner := metav1.GetControllerOf(c); owner == nil || owner.Name != "p" {
		e.Fatalf("%+v", c.OwnerReferences)
	}
	e.placedOn("p")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "p", metav1.DeleteOptions{}))
	e.eventually(func() error {
		return gone(e.kube.CoreV1().PersistentVolumeClaims(e.ns).Get(e.ctx, "p-v", metav1.GetOptions{}))
	})
	e.volumePhase("v", corev1.VolumeReleased)
}

func volumeAttached(e *env) {
	e.persistentVolume("v", "1Gi", nil)
	e.volumeClaim("c", "1Gi", nil)
	e.claimBound("c")
	vas := e.kube.StorageV1().VolumeAttachments()
	attached := func() (nodes []string) {
		e.Helper()
		list, err := vas.List(e.ctx, metav1.ListOptions{})
		e.must(err)
		for i := range list.Items {
			a := &list.Items[i]
			if *a.Spec.Source.PersistentVolumeName != e.ns+"-v" {
				continue
			}
			nodes = append(nodes, a.Spec.NodeName)
			if !a.Status.Attached { // as the driver does
				a.Status.Attached = true
				_, _ = vas.UpdateStatus(e.ctx, a, metav1.UpdateOptions{})
			}
		}
		return nodes
	}
	only := func(node string) {
		e.Helper()
		e.eventually(func() error {
			if nodes := attached(); len(nodes) != 1 || nodes[0] != node {
				return fmt.Errorf("attached to %v, want %s", nodes, node)
			}
			n, err := e.kube.CoreV1().Nodes().Get(e.ctx, node, metav1.GetOptions{})
			if err == nil && !slices.ContainsFunc(n.Status.VolumesAttached, func(v corev1.AttachedVolume) bool {
				return string(v.Name) == "kubernetes.io/csi/disk.example.com^"+e.ns+"-v"
			}) {
				return fmt.Errorf("%s says %v", node, n.Status.VolumesAttached)
			}
			return err
		})
	}
	e.volumePod("p", "c", nil)
	first := e.placedOn("p")
	only(first)
	e.volumePod("q", "c", func(s *corev1.PodSpec) {
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpNotIn, Values: []string{first}}},
		}}}}}
	})
	second := e.placedOn("q")
	e.eventually(func() error {
		if out := e.cluster.Kubectl("describe", "pod", "q", "-n", e.ns); !strings.Contains(out, "Multi-Attach error for volume") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	only(first)
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "p", metav1.DeleteOptions{}))
	only(second)
}

func claimProtected(e *env) {
	e.persistentVolume("v", "1Gi", nil)
	e.volumeClaim("c", "1Gi", nil)
	e.claimBound("c")
	e.volumePod("p", "c", nil)
	e.placedOn("p")
	claims := e.kube.CoreV1().PersistentVolumeClaims(e.ns)
	e.must(claims.Delete(e.ctx, "c", metav1.DeleteOptions{}))
	if c, err := claims.Get(e.ctx, "c", metav1.GetOptions{}); err != nil || c.DeletionTimestamp == nil {
		e.Fatalf("%v, %v", c, err)
	}
	e.volumePod("late", "c", nil)
	e.unplaced("late", `persistentvolumeclaim "c" is being deleted`)
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "p", metav1.DeleteOptions{}))
	e.eventually(func() error { return gone(claims.Get(e.ctx, "c", metav1.GetOptions{})) })
	e.volumePhase("v", corev1.VolumeReleased)
}
