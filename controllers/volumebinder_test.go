package controllers_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// hostVolume makes a volume of 1Gi for one node at a time.
func (c *cluster) hostVolume(name string, changes ...func(*corev1.PersistentVolume)) {
	c.Helper()
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: gibibyte(), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name}},
	}}
	for _, change := range changes {
		change(v)
	}
	_, err := c.client.CoreV1().PersistentVolumes().Create(c.ctx, v, metav1.CreateOptions{})
	c.must(err)
}

// newClaim makes a claim of 1Gi for one node at a time.
func (c *cluster) newClaim(name string, changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: gibibyte()},
	}}
	for _, change := range changes {
		change(claim)
	}
	claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{})
	c.must(err)
	return claim
}

func (c *cluster) storageClass(name string, change func(*storagev1.StorageClass)) {
	c.Helper()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "disk.example.com"}
	if change != nil {
		change(class)
	}
	_, err := c.client.StorageV1().StorageClasses().Create(c.ctx, class, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) getClaim(name string) *corev1.PersistentVolumeClaim {
	c.Helper()
	claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	return claim
}

func (c *cluster) getVolume(name string) *corev1.PersistentVolume {
	c.Helper()
	v, err := c.client.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	return v
}

// volumeClaimIs waits until a claim has the phase and the volume, and gives it.
func (c *cluster) volumeClaimIs(name string, phase corev1.PersistentVolumeClaimPhase, volume string) (claim *corev1.PersistentVolumeClaim) {
	c.Helper()
	c.eventually("claim "+name, func() error {
		if claim = c.getClaim(name); claim.Status.Phase != phase || claim.Spec.VolumeName != volume {
			return fmt.Errorf("%s, volume %q", claim.Status.Phase, claim.Spec.VolumeName)
		}
		return nil
	})
	return claim
}

func (c *cluster) volumeIs(name string, phase corev1.PersistentVolumePhase) (v *corev1.PersistentVolume) {
	c.Helper()
	c.eventually("volume "+name, func() error {
		if v = c.getVolume(name); v.Status.Phase != phase {
			return fmt.Errorf("%s: %s", v.Status.Phase, v.Status.Message)
		}
		return nil
	})
	return v
}

func (c *cluster) deleteClaim(name string) {
	c.Helper()
	c.must(c.client.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, name, metav1.DeleteOptions{}))
	c.until("claim "+name+" goes", func() bool { return c.claimGone(name) })
}

func sized(size string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
}

func ofClass(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func naming(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}

func TestClaimsGetTheSmallestVolume(t *testing.T) {
	c := start(t, nil)
	c.newClaim("early")
	c.event("early", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	c.hostVolume("large", sized("9Gi"))
	c.volumeClaimIs("early", corev1.ClaimBound, "large")
	c.hostVolume("medium", sized("3Gi"))
	c.hostVolume("small", sized("2Gi"))
	c.volumeIs("medium", corev1.VolumeAvailable)
	c.volumeIs("small", corev1.VolumeAvailable)
	c.newClaim("later")
	claim := c.volumeClaimIs("later", corev1.ClaimBound, "small")
	v := c.volumeIs("small", corev1.VolumeBound)
	if got := claim.Status.Capacity.Storage().String(); got != "2Gi" || !slices.Equal(claim.Status.AccessModes, v.Spec.AccessModes) {
		t.Fatalf("capacity %s, access modes %v", got, claim.Status.AccessModes)
	}
	for _, a := range []map[string]string{claim.Annotations, v.Annotations} {
		if a[volumes.BoundByController] != "yes" {
			t.Fatalf("annotations %v", a)
		}
	}
	if claim.Annotations[volumes.BindCompleted] != "yes" || v.Spec.ClaimRef.UID != claim.UID || v.Spec.ClaimRef.Name != "later" || v.Status.LastPhaseTransitionTime == nil {
		t.Fatalf("%v %+v", claim.Annotations, v.Spec.ClaimRef)
	}
}

func TestReservations(t *testing.T) {
	c := start(t, nil)
	c.hostVolume("by-name", sized("5Gi"), func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "wanted"}
	})
	c.hostVolume("free")
	c.volumeIs("by-name", corev1.VolumeAvailable)
	c.volumeIs("free", corev1.VolumeAvailable)
	c.newClaim("wanted")
	c.volumeClaimIs("wanted", corev1.ClaimBound, "by-name")
	if v := c.volumeIs("by-name", corev1.VolumeBound); v.Annotations[volumes.BoundByController] != "" {
		t.Fatalf("a user's reservation is marked: %v", v.Annotations)
	}

	c.newClaim("picky", naming("tomorrow"))
	c.newClaim("greedy", naming("free"), func(p *corev1.PersistentVolumeClaim) {
		p.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	})
	c.event("greedy", "VolumeMismatch", `Cannot bind to requested volume "free": requested PV is too small`)
	c.newClaim("rival", naming("by-name"))
	c.event("rival", "FailedBinding", `volume "by-name" already bound to a different claim.`)
	c.hostVolume("tomorrow")
	if claim := c.volumeClaimIs("picky", corev1.ClaimBound, "tomorrow"); claim.Annotations[volumes.BoundByController] != "" {
		t.Fatalf("a user's choice is marked: %v", claim.Annotations)
	}
}

func TestModesMustAgree(t *testing.T) {
	c := start(t, nil)
	claim := c.newClaim("raw", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })
	c.hostVolume("files", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "raw", UID: claim.UID}
	})
	c.event("files", "VolumeMismatch", `Cannot bind PersistentVolume to requested PersistentVolumeClaim "raw" due to incompatible volumeMode.`)
	c.event("raw", "VolumeMismatch", `Cannot bind PersistentVolume "files" to requested PersistentVolumeClaim due to incompatible volumeMode.`)
}

func TestReclaimPolicies(t *testing.T) {
	c := start(t, nil)
	policy := func(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
	}
	c.hostVolume("kept")
	c.hostVolume("unloved", policy(corev1.PersistentVolumeReclaimDelete))
	c.hostVolume("provisioned", policy(corev1.PersistentVolumeReclaimDelete), func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{volumes.ProvisionedBy: "disk.example.com"}
	})
	c.hostVolume("local", policy(corev1.PersistentVolumeReclaimRecycle), func(v *corev1.PersistentVolume) {
		v.Spec.HostPath, v.Spec.Local = nil, &corev1.LocalVolumeSource{Path: "/mnt"}
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "k", Operator: corev1.NodeSelectorOpExists}}}}}}
	})
	names := []string{"kept", "unloved", "provisioned", "local"}
	for _, name := range names {
		c.newClaim(name, naming(name))
	}
	for _, name := range names {
		c.volumeClaimIs(name, corev1.ClaimBound, name)
		c.deleteClaim(name)
	}
	if v := c.volumeIs("kept", corev1.VolumeReleased); v.Spec.ClaimRef == nil {
		t.Fatal("a kept volume forgot its claim")
	}
	c.volumeIs("provisioned", corev1.VolumeReleased)
	c.volumeIs("unloved", corev1.VolumeFailed)
	c.event("unloved", "VolumeFailedDelete", `error getting deleter volume plugin for volume "unloved": no deletable volume plugin matched`)
	c.volumeIs("local", corev1.VolumeFailed)
	c.event("local", "VolumeFailedRecycle", "No recycler plugin found for the volume!")

	c.newClaim("kept") // another claim of that name
	time.Sleep(50 * time.Millisecond)
	c.volumeIs("kept", corev1.VolumeReleased)
	v := c.getVolume("kept")
	v.Spec.ClaimRef = nil
	_, err := c.client.CoreV1().PersistentVolumes().Update(c.ctx, v, metav1.UpdateOptions{})
	c.must(err)
	c.volumeClaimIs("kept", corev1.ClaimBound, "kept")
}

func TestRecycling(t *testing.T) {
	c := start(t, nil)
	c.hostVolume("used", func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRecycle
	})
	pods := c.client.CoreV1().Pods("default")
	end := func(phase corev1.PodPhase) {
		c.until("the recycler ends", func() bool {
			pod, err := pods.Get(c.ctx, "recycler-for-used", metav1.GetOptions{})
			if err != nil || pod.Status.Phase != corev1.PodRunning {
				return false
			}
			pod.Status.Phase, pod.Status.Message = phase, "no room"
			_, err = pods.UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
			return err == nil
		})
	}
	c.newClaim("one")
	c.volumeClaimIs("one", corev1.ClaimBound, "used")
	c.deleteClaim("one")
	end(corev1.PodFailed)
	c.event("used", "VolumeFailedRecycle", "Recycle failed: no room")
	c.volumeIs("used", corev1.VolumeFailed)
	c.must(pods.Delete(c.ctx, "recycler-for-used", metav1.DeleteOptions{}))
	end(corev1.PodSucceeded)
	c.event("used", "VolumeRecycled", "Volume recycled")
	if v := c.volumeIs("used", corev1.VolumeAvailable); v.Spec.ClaimRef != nil || v.Annotations[volumes.BoundByController] != "" {
		t.Fatalf("%+v", v.Spec.ClaimRef)
	}
	c.until("the recycler goes", func() bool {
		_, err := pods.Get(c.ctx, "recycler-for-used", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.newClaim("two")
	c.volumeClaimIs("two", corev1.ClaimBound, "used")
}

func TestProvisionersAreAsked(t *testing.T) {
	c := start(t, nil)
	c.newClaim("eager", ofClass("fast"))
	c.event("eager", "ProvisioningFailed", `storageclass.storage.k8s.io "fast" not found`)
	c.storageClass("fast", nil)
	ask := func(name, provisioner string) *corev1.PersistentVolumeClaim {
		c.event(name, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '"+provisioner+
			"' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.")
		claim := c.volumeClaimIs(name, corev1.ClaimPending, "")
		if a := claim.Annotations; a[volumes.StorageProvisioner] != provisioner || a[volumes.BetaStorageProvisioner] != provisioner {
			t.Fatalf("%v", a)
		}
		return claim
	}
	claim := ask("eager", "disk.example.com")
	c.hostVolume("pvc-"+string(claim.UID), func(v *corev1.PersistentVolume) { // as provisioners do
		v.Annotations = map[string]string{volumes.ProvisionedBy: "disk.example.com"}
		v.Spec.StorageClassName, v.Spec.PersistentVolumeReclaimPolicy = "fast", corev1.PersistentVolumeReclaimDelete
		v.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "default", Name: "eager", UID: claim.UID}
	})
	c.volumeClaimIs("eager", corev1.ClaimBound, "pvc-"+string(claim.UID))

	c.storageClass("ebs", func(s *storagev1.StorageClass) { s.Provisioner = "kubernetes.io/aws-ebs" })
	c.newClaim("cloudy", ofClass("ebs"))
	if claim := ask("cloudy", "ebs.csi.aws.com"); claim.Annotations[volumes.MigratedTo] != "ebs.csi.aws.com" {
		t.Fatalf("%v", claim.Annotations)
	}
	c.storageClass("manual", func(s *storagev1.StorageClass) { s.Provisioner = volumes.NoProvisioner })
	c.newClaim("handmade", ofClass("manual"))
	c.event("handmade", "ProvisioningFailed", "no volume plugin matched name: kubernetes.io/no-provisioner")
}

func TestClaimsGrowOutside(t *testing.T) {
	c := start(t, nil)
	c.storageClass("fast", func(s *storagev1.StorageClass) { s.AllowVolumeExpansion = ptr.To(true) })
	c.hostVolume("v", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "fast" })
	c.newClaim("c", ofClass("fast"))
	c.volumeClaimIs("c", corev1.ClaimBound, "v")
	c.eventually("the claim asks for more", func() error {
		claim := c.getClaim("c")
		claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
		_, err := c.client.CoreV1().PersistentVolumeClaims("default").Update(c.ctx, claim, metav1.UpdateOptions{})
		return err
	})
	c.event("c", "ExternalExpanding", "waiting for an external controller to expand this PVC")
	if claim := c.getClaim("c"); claim.Status.Capacity.Storage().String() != "1Gi" || len(claim.Status.Conditions) != 0 {
		t.Fatalf("%+v", claim.Status)
	}
}

func TestDelayedBinding(t *testing.T) {
	c := start(t, nil)
	c.storageClass("later", func(s *storagev1.StorageClass) {
		s.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
	})
	c.hostVolume("fits", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "later" })
	c.volumeIs("fits", corev1.VolumeAvailable)
	c.newClaim("lazy", ofClass("later"))
	c.newClaim("lazier", ofClass("later"))
	c.event("lazy", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	c.volumeClaimIs("lazy", corev1.ClaimPending, "")

	_, err := c.client.CoreV1().Pods("default").Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "gated"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}}, SchedulingGates: []corev1.PodSchedulingGate{{Name: "example.com/wait"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "lazy"}}}},
	}}, metav1.CreateOptions{})
	c.must(err)
	c.event("lazy", "WaitForPodScheduled", "waiting for pod gated to be scheduled")

	// The scheduler chooses a node: for one claim a volume, for the other only the node.
	v, _ := volumes.Claimed(c.getVolume("fits"), c.getClaim("lazy"))
	_, err = c.client.CoreV1().PersistentVolumes().Update(c.ctx, v, metav1.UpdateOptions{})
	c.must(err)
	c.volumeClaimIs("lazy", corev1.ClaimBound, "fits")
	c.eventually("the node is noted", func() error {
		claim := c.getClaim("lazier")
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volumes.SelectedNode, "n1")
		_, err := c.client.CoreV1().PersistentVolumeClaims("default").Update(c.ctx, claim, metav1.UpdateOptions{})
		return err
	})
	c.until("the provisioner is asked", func() bool { return c.getClaim("lazier").Annotations[volumes.StorageProvisioner] == "disk.example.com" })
}

func TestDefaultClassComesLater(t *testing.T) {
	c := start(t, nil)
	c.newClaim("none", ofClass(""))
	c.newClaim("any")
	c.event("any", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	c.storageClass("std", func(s *storagev1.StorageClass) {
		s.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	})
	c.until("the class is given", func() bool { return ptr.Deref(c.getClaim("any").Spec.StorageClassName, "") == "std" })
	if name := c.getClaim("none").Spec.StorageClassName; *name != "" {
		t.Fatalf("a claim that wants no class has %q", *name)
	}
}

func TestLostClaims(t *testing.T) {
	c := start(t, nil)
	c.hostVolume("v")
	c.newClaim("widow")
	c.volumeClaimIs("widow", corev1.ClaimBound, "v")
	c.until("the volume is protected", func() bool { return len(c.getVolume("v").Finalizers) > 0 })
	vols := c.client.CoreV1().PersistentVolumes()
	c.must(vols.Delete(c.ctx, "v", metav1.DeleteOptions{}))
	_, err := vols.Patch(c.ctx, "v", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	claim := c.volumeClaimIs("widow", corev1.ClaimLost, "v")
	if claim.Status.Capacity != nil || claim.Status.AccessModes != nil {
		t.Fatalf("%+v", claim.Status)
	}
	c.event("widow", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	c.hostVolume("v", func(v *corev1.PersistentVolume) { // from a backup
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "widow", UID: claim.UID}
	})
	c.volumeClaimIs("widow", corev1.ClaimBound, "v")
	c.volumeIs("v", corev1.VolumeBound)
}

// TestEveryVolumeHasOneClaim lets many claims compete for fewer volumes while the controllers are restarted.
func TestEveryVolumeHasOneClaim(t *testing.T) {
	const claims, vols = 60, 40
	c := start(t, nil)
	for i := range claims {
		c.newClaim(fmt.Sprintf("c%d", i))
	}
	begin := time.Now()
	for i := range vols {
		c.hostVolume(fmt.Sprintf("v%d", i))
		if i%10 == 5 {
			c.restart()
		}
	}
	holders := map[string]string{}
	c.eventually("all volumes are bound", func() error {
		list, err := c.client.CoreV1().PersistentVolumeClaims("default").List(c.ctx, metav1.ListOptions{})
		c.must(err)
		clear(holders)
		for _, claim := range list.Items {
			if claim.Status.Phase != corev1.ClaimBound {
				continue
			}
			if other, ok := holders[claim.Spec.VolumeName]; ok {
				t.Fatalf("%s has two claims: %s, %s", claim.Spec.VolumeName, other, claim.Name)
			}
			holders[claim.Spec.VolumeName] = claim.Name
		}
		if len(holders) < vols {
			return fmt.Errorf("%d of %d", len(holders), vols)
		}
		return nil
	})
	t.Logf("%d volumes bound after %v", vols, time.Since(begin))
	for _, name := range slices.Sorted(maps.Keys(holders)) {
		if v := c.volumeIs(name, corev1.VolumeBound); v.Spec.ClaimRef.Name != holders[name] {
			t.Fatalf("%s says %s, its claim is %s", name, v.Spec.ClaimRef.Name, holders[name])
		}
	}
}
