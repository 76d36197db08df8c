package scheduler

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
	"github.com/coracle-dev/coracle/scheduler/profile"
)

// storage is an API server with a scheduler, two nodes, and in the place of the controllers a loop that completes what the scheduler begins.
type storage struct {
	*testing.T
	kube kubernetes.Interface
}

func startStorage(t *testing.T, profiles profile.Config) *storage {
	t.Parallel()
	s := &storage{t, startWith(t, profiles)}
	addNode(t, s.kube, node("a", "4", "4Gi"))
	addNode(t, s.kube, node("b", "4", "4Gi"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			s.bindAndProvision(ctx)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

// bindAndProvision does for all claims what the binder does, and what the provisioner "quick.example.com" does.
func (s *storage) bindAndProvision(ctx context.Context) {
	vols, err := s.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range vols.Items {
		if v := &vols.Items[i]; v.Status.Phase == corev1.VolumePending {
			v.Status.Phase = corev1.VolumeAvailable
			_, _ = s.kube.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, metav1.UpdateOptions{})
		}
	}
	claims, err := s.kube.CoreV1().PersistentVolumeClaims("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range claims.Items {
		c := &claims.Items[i]
		for j := range vols.Items {
			if v := &vols.Items[j]; c.Spec.VolumeName == "" && v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID == c.UID {
				c.Spec.VolumeName = v.Name
				metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.BindCompleted, "yes")
				_, _ = s.kube.CoreV1().PersistentVolumeClaims("default").Update(ctx, c, metav1.UpdateOptions{})
			}
		}
		if on := c.Annotations[volumes.SelectedNode]; on != "" && c.Spec.VolumeName == "" && *c.Spec.StorageClassName == "quick" {
			v := localVolume("pvc-"+c.Name, "quick", on)
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: c.Name, UID: c.UID}
			_, _ = s.kube.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{})
		}
	}
}

// localVolume is of 1 GiB and is reached from one node only.
func localVolume(name, class, on string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/" + name}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{on}}},
			}}}},
		},
	}
}

func (s *storage) class(name, provisioner string) {
	s.Helper()
	_, err := s.kube.StorageV1().StorageClasses().Create(s.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *storage) volume(v *corev1.PersistentVolume) {
	s.Helper()
	if _, err := s.kube.CoreV1().PersistentVolumes().Create(s.Context(), v, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
}

func (s *storage) claim(name, class string) {
	s.Helper()
	_, err := s.kube.CoreV1().PersistentVolumeClaims("default").Create(s.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *storage) getClaim(name string) *corev1.PersistentVolumeClaim {
	s.Helper()
	c, err := s.kube.CoreV1().PersistentVolumeClaims("default").Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// pod makes a pod that uses claims.
func (s *storage) pod(name string, claims ...string) {
	s.Helper()
	addPod(s.T, s.kube, pod(name, "", "", func(p *corev1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
		}
	}))
}

// says waits for a pod's condition.
func (s *storage) says(name, message string) {
	s.Helper()
	var last string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for _, c := range get(s.T, s.kube, name).Status.Conditions {
			if c.Type == corev1.PodScheduled {
				last = c.Message
			}
		}
		if strings.HasPrefix(last, message) {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s: %q, want %q", name, last, message)
		}
	}
}

func (s *storage) runsOn(name, on string) {
	s.Helper()
	await(s.T, name+" on "+on, func() bool { return get(s.T, s.kube, name).Spec.NodeName == on })
}

func TestPodsGoWhereTheirVolumesAre(t *testing.T) {
	s := startStorage(t, profile.Default())
	s.pod("early", "one")
	s.says("early", `0/2 nodes are available: persistentvolumeclaim "one" not found.`)
	s.class("disks", volumes.NoProvisioner)
	s.claim("one", "disks")
	s.says("early", "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.")
	s.volume(localVolume("b1", "disks", "b"))
	s.runsOn("early", "b")
	if c := s.getClaim("one"); c.Spec.VolumeName != "b1" {
		t.Fatalf("bound to %q", c.Spec.VolumeName)
	}
	v, err := s.kube.CoreV1().PersistentVolumes().Get(t.Context(), "b1", metav1.GetOptions{})
	if err != nil || v.Annotations[volumes.BoundByController] != "yes" || v.Spec.ClaimRef.Name != "one" {
		t.Fatalf("%+v, %v", v, err)
	}
	s.pod("late", "one") // what is bound leads the others
	s.runsOn("late", "b")

	s.claim("nowhere", "")
	s.pod("immediate", "nowhere")
	s.says("immediate", "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
}

func TestVolumesAreProvisionedWhereThePodGoes(t *testing.T) {
	s := startStorage(t, profile.Default())
	s.class("quick", "quick.example.com")
	s.claim("data", "quick")
	s.claim("logs", "quick")
	addPod(t, s.kube, pod("hog", "4", "", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"} }))
	s.runsOn("hog", "a")
	s.pod("p", "data", "logs")
	await(t, "bound", func() bool { return get(t, s.kube, "p").Spec.NodeName != "" })
	on := get(t, s.kube, "p").Spec.NodeName
	for _, name := range []string{"data", "logs"} {
		if c := s.getClaim(name); c.Annotations[volumes.SelectedNode] != on || c.Spec.VolumeName != "pvc-"+name {
			t.Fatalf("%s: %v, volume %q; the pod is on %s", name, c.Annotations, c.Spec.VolumeName, on)
		}
	}
}

// TestSlowVolumesHoldUpNobody has more pods wait for a provisioner that does nothing than bindings may be under way.
func TestSlowVolumesHoldUpNobody(t *testing.T) {
	profiles := profile.Default()
	profiles.Profiles[0].BindTimeout = 3 * time.Second
	s := startStorage(t, profiles)
	s.class("slow", "slow.example.com")
	const waiting = 40
	for i := range waiting {
		name := fmt.Sprint("w", i)
		s.claim(name, "slow")
		s.pod(name, name)
	}
	await(t, "asked for", func() bool { return s.getClaim(fmt.Sprint("w", waiting-1)).Annotations[volumes.SelectedNode] != "" })
	s.pod("plain")
	await(t, "bound", func() bool { return get(t, s.kube, "plain").Spec.NodeName != "" })
	if n := get(t, s.kube, "w0").Spec.NodeName; n != "" {
		t.Fatalf("bound to %s without its volume", n)
	}
	await(t, "told of the time that is up", func() bool {
		events, err := s.kube.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=w0"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == "FailedScheduling" && e.Message == `running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded` {
				return true
			}
		}
		return false
	})
}

func TestAProvisionerThatGivesUpSendsThePodElsewhere(t *testing.T) {
	s := startStorage(t, profile.Default())
	s.class("slow", "slow.example.com")
	s.claim("c", "slow")
	s.pod("p", "c")
	await(t, "asked for", func() bool { return s.getClaim("c").Annotations[volumes.SelectedNode] != "" })
	first := s.getClaim("c").Annotations[volumes.SelectedNode]
	other := map[string]string{"a": "b", "b": "a"}[first]
	// The provisioner has no room there; meanwhile that node closes.
	n, err := s.kube.CoreV1().Nodes().Get(t.Context(), first, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Spec.Unschedulable = true
	if _, err := s.kube.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := s.getClaim("c")
	delete(c.Annotations, volumes.SelectedNode)
	if _, err := s.kube.CoreV1().PersistentVolumeClaims("default").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "asked for elsewhere", func() bool { return s.getClaim("c").Annotations[volumes.SelectedNode] == other })
	v := localVolume("made", "slow", other)
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "c", UID: c.UID}
	s.volume(v)
	s.runsOn("p", other)
}

func TestADeletedPodFreesItsVolume(t *testing.T) {
	s := startStorage(t, profile.Default())
	s.class("slow", "slow.example.com")
	s.claim("c", "slow")
	s.pod("p", "c")
	await(t, "asked for", func() bool { return s.getClaim("c").Annotations[volumes.SelectedNode] != "" })
	if err := s.kube.CoreV1().Pods("default").Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	c := s.getClaim("c")
	delete(c.Annotations, volumes.SelectedNode)
	if _, err := s.kube.CoreV1().PersistentVolumeClaims("default").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	addPod(t, s.kube, pod("q", "", "", func(p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b"}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	}))
	await(t, "asked for anew", func() bool { return s.getClaim("c").Annotations[volumes.SelectedNode] == "b" })
}

func TestClaimsForOnePod(t *testing.T) {
	s := startStorage(t, profile.Default())
	s.class("quick", "quick.example.com")
	_, err := s.kube.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "only"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("quick"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.pod("first", "only")
	await(t, "bound", func() bool { return get(t, s.kube, "first").Spec.NodeName != "" })
	s.pod("second", "only")
	s.says("second", "0/2 nodes are available: ")
	if n := get(t, s.kube, "second").Spec.NodeName; n != "" {
		t.Fatalf("both run, on %s", n)
	}
	if err := s.kube.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	await(t, "bound", func() bool { return get(t, s.kube, "second").Spec.NodeName != "" })
}
