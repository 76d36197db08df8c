package model

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/volumes"
)

func testClaim(name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("u-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("later"),
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func testVolume(name string, size int, node string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: "later", Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(fmt.Sprint(size, "Gi"))},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	return v
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
}

func testPod(uid string, claims ...string) *Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: uid, UID: types.UID(uid)}}
	for _, c := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return NewPod(p)
}

func delayedClass(provisioner string) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
}

// assumptions is the cluster as the scheduler thinks of it, and as the API server has it; what the server has is shown late.
type assumptions struct {
	cluster *Cluster
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	plans   map[types.UID]VolumePlan
	pods    int
	nodes   []string
}

func (a *assumptions) schedule(t *rapid.T) {
	var names []string
	for name := range a.claims {
		names = append(names, name)
	}
	slices.Sort(names)
	use := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 2, rapid.ID).Draw(t, "claims")
	a.pods++
	p := testPod("p"+strconv.Itoa(a.pods), use...)
	node := testNode(rapid.SampledFrom(a.nodes).Draw(t, "node"))
	bound, open, _ := a.cluster.SplitClaims(p)
	plan, misfit := a.cluster.NewVolumeFit(bound, open).On(node)
	if misfit != Fits || plan.Empty() {
		return
	}
	for _, b := range plan.Bind {
		key := types.NamespacedName{Namespace: "ns", Name: b.Claim.Name}
		if assumed := a.cluster.storage.assumedVolumes[b.Volume.Name]; assumed != nil && assumed.claim != key {
			t.Fatalf("%s, assumed for %s, is given to %s", b.Volume.Name, assumed.claim.Name, b.Claim.Name)
		}
		if ref := b.Volume.Spec.ClaimRef; ref != nil && ref.Name != b.Claim.Name {
			t.Fatalf("%s, of %s, is given to %s", b.Volume.Name, ref.Name, b.Claim.Name)
		}
		if !newVolume(b.Volume).ReachableFrom(node) {
			t.Fatalf("%s is not reached from %s", b.Volume.Name, node.Name)
		}
	}
	a.cluster.AssumeVolumes(p.Pod.UID, plan)
	a.plans[p.Pod.UID] = plan
}

// write carries out a plan on the server, as far as others have left it.
func (a *assumptions) write(uid types.UID) {
	for _, b := range a.plans[uid].Bind {
		v, c := a.volumes[b.Volume.Name], a.claims[b.Claim.Name]
		if v.Spec.ClaimRef == nil && c.Spec.VolumeName == "" {
			v, _ = volumes.Claimed(v, c)
			a.volumes[v.Name] = v
			c = c.DeepCopy()
			c.Spec.VolumeName = v.Name
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.BindCompleted, "yes")
			a.claims[c.Name] = c
		}
	}
	for _, c := range a.plans[uid].Provision {
		if a.claims[c.Name].Annotations[volumes.SelectedNode] == "" {
			a.claims[c.Name] = SelectedFor(a.claims[c.Name], a.plans[uid].Node)
		}
	}
}

// check holds that no volume is thought of as two claims', and that nothing is assumed for pods that are done.
func (a *assumptions) check(t *rapid.T) {
	of := map[types.NamespacedName]string{}
	for name, assumed := range a.cluster.storage.assumedVolumes {
		if other, ok := of[assumed.claim]; ok {
			t.Fatalf("%s is thought to get %s and %s", assumed.claim.Name, other, name)
		}
		of[assumed.claim] = name
		for uid := range assumed.pods {
			if _, ok := a.plans[uid]; !ok {
				t.Fatalf("%s is kept for %s, which is done", name, uid)
			}
		}
	}
	for key, assumed := range a.cluster.storage.assumedClaims {
		if _, ok := of[key]; ok {
			t.Fatalf("%s is thought to be bound and to be provisioned", key.Name)
		}
		for uid := range assumed.pods {
			if a.plans[uid].Node != assumed.node {
				t.Fatalf("%s is thought to be provisioned on %s for a pod on %s", key.Name, assumed.node, a.plans[uid].Node)
			}
		}
	}
}

// TestNoVolumeIsGivenTwice lets pods be scheduled, given up and bound while the server shows what it has in any order and late.
func TestNoVolumeIsGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &assumptions{
			cluster: New(), claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{},
			plans: map[types.UID]VolumePlan{}, nodes: []string{"l", "m", "n"},
		}
		provisioner := rapid.SampledFrom([]string{"d.io", volumes.NoProvisioner}).Draw(t, "provisioner")
		a.cluster.SetStorageClass(delayedClass(provisioner))
		for _, name := range []string{"a", "b", "c"} {
			a.claims[name] = testClaim(name)
			a.cluster.SetClaim(a.claims[name])
		}
		for i, name := range []string{"u", "v", "w"} {
			a.volumes[name] = testVolume(name, 1+i%2, rapid.SampledFrom([]string{"", "l", "m"}).Draw(t, "affinity"))
			a.cluster.SetVolume(a.volumes[name])
		}
		planned := func(t *rapid.T) types.UID {
			uids := slices.Sorted(maps.Keys(a.plans))
			if len(uids) == 0 {
				t.Skip()
			}
			return rapid.SampledFrom(uids).Draw(t, "pod")
		}
		t.Repeat(map[string]func(*rapid.T){
			"":         a.check,
			"schedule": a.schedule,
			"and more": a.schedule,
			"write":    func(t *rapid.T) { a.write(planned(t)) },
			"done": func(t *rapid.T) {
				uid := planned(t)
				a.cluster.ForgetVolumes(uid)
				delete(a.plans, uid)
			},
			"show a volume": func(t *rapid.T) {
				a.cluster.SetVolume(a.volumes[rapid.SampledFrom([]string{"u", "v", "w"}).Draw(t, "volume")])
			},
			"show a claim": func(t *rapid.T) {
				a.cluster.SetClaim(a.claims[rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "claim")])
			},
			"a volume's status is written": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"u", "v", "w"}).Draw(t, "volume")
				a.volumes[name] = a.volumes[name].DeepCopy()
				a.cluster.SetVolume(a.volumes[name])
			},
		})
	})
}

func TestAssumedClaimsAreKeptForAllPodsThatRestOnThem(t *testing.T) {
	c := New()
	c.SetStorageClass(delayedClass("d.io"))
	c.SetClaim(testClaim("c"))
	one, two := testPod("one", "c"), testPod("two", "c")
	c.AssumeVolumes("one", c.PlanVolumes(one, testNode("m")))
	_, open, _ := c.SplitClaims(two)
	if _, misfit := c.NewVolumeFit(nil, open).On(testNode("n")); misfit != NoVolume {
		t.Fatalf("another node may be chosen: %d", misfit)
	}
	c.AssumeVolumes("two", c.PlanVolumes(two, testNode("m")))
	c.ForgetVolumes("one")
	key := types.NamespacedName{Namespace: "ns", Name: "c"}
	if c.Claim(key).Annotations[volumes.SelectedNode] != "m" {
		t.Fatal("the choice is forgotten while a pod rests on it")
	}
	c.ForgetVolumes("two")
	if c.Claim(key).Annotations[volumes.SelectedNode] != "" {
		t.Fatal("the choice outlives its pods")
	}
}

func TestClaimUsers(t *testing.T) {
	c := New()
	key := types.NamespacedName{Namespace: "ns", Name: "c"}
	p := testPod("p", "c", "c")
	c.SetPod(p, "n")
	c.SetPod(p, "m")
	c.SetPod(testPod("q", "c"), "m")
	if n := c.ClaimUsers(key); n != 2 {
		t.Fatal(n)
	}
	c.RemovePod("p")
	c.RemovePod("q")
	if n := c.ClaimUsers(key); n != 0 || len(c.storage.users) != 0 {
		t.Fatal(n)
	}
}

// BenchmarkLocalVolumes is a pod with a claim in a cluster where each node has a volume of its own.
func BenchmarkLocalVolumes(b *testing.B) {
	const nodes = 1000
	c := New()
	c.SetStorageClass(delayedClass(volumes.NoProvisioner))
	c.SetClaim(testClaim("c"))
	var all []*corev1.Node
	for i := range nodes {
		name := fmt.Sprint("n", i)
		all = append(all, testNode(name))
		c.SetVolume(testVolume("v"+name, 1, name))
	}
	p := testPod("p", "c")
	for b.Loop() {
		_, open, _ := c.SplitClaims(p)
		f := c.NewVolumeFit(nil, open)
		for _, n := range all {
			if _, misfit := f.On(n); misfit != Fits {
				b.Fatal(misfit)
			}
		}
	}
}
