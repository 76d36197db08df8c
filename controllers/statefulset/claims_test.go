package statefulset

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func ref(kind, name, uid string, controller bool) metav1.OwnerReference {
	version := "v1"
	if kind == "StatefulSet" {
		version = "apps/v1"
	}
	return metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: types.UID(uid), Controller: &controller, BlockOwnerDeletion: ptr.To(true)}
}

func TestOwners(t *testing.T) {
	var (
		set, stranger = ref("StatefulSet", "db", "set", true), ref("ConfigMap", "m", "m", true)
		podRef        = ref("Pod", "db-1", "uid-1", true)
		friend        = ref("ConfigMap", "f", "f", false)
	)
	refs := func(list ...metav1.OwnerReference) []metav1.OwnerReference { return list }
	for _, c := range []struct {
		name                    string
		whenDeleted, whenScaled string
		wanted                  bool
		have, want              []metav1.OwnerReference
		changed, conflict       bool
	}{
		{"kept for ever", "Retain", "Retain", true, nil, nil, false, false},
		{"no longer the set's", "Retain", "Retain", true, refs(set, friend), refs(friend), true, false},
		{"no longer the pod's", "Retain", "Retain", false, refs(podRef), nil, true, false},
		{"another controller's is fine", "Retain", "Retain", true, refs(stranger), refs(stranger), false, false},
		{"goes with the set", "Delete", "Retain", true, refs(friend), refs(friend, set), true, false},
		{"goes with the set already", "Delete", "Retain", true, refs(set, friend), refs(friend, set), false, false},
		{"goes with the set, scaled down", "Delete", "Retain", false, nil, refs(set), true, false},
		{"owner, but not its controller", "Delete", "Retain", true, refs(ref("StatefulSet", "db", "set", false)), refs(set), true, false},
		{"goes with a scale-down, not yet", "Retain", "Delete", true, nil, nil, false, false},
		{"goes with a scale-down, now", "Retain", "Delete", false, nil, refs(podRef), true, false},
		{"scaled up again", "Retain", "Delete", true, refs(podRef), nil, true, false},
		{"goes with both", "Delete", "Delete", true, refs(podRef), refs(set), true, false},
		{"goes with both, now with the pod", "Delete", "Delete", false, refs(set), refs(podRef), true, false},
		{"another controller's", "Delete", "Delete", true, refs(stranger), refs(stranger), false, true},
		{"ours and another controller's", "Delete", "Retain", true, refs(stranger, set), refs(stranger), true, true},
		{"a former set's", "Delete", "Delete", true, refs(ref("StatefulSet", "db", "before", true)), refs(ref("StatefulSet", "db", "before", true)), false, false},
		{"a former pod's", "Delete", "Delete", true, refs(ref("Pod", "db-1", "before", true)), refs(ref("Pod", "db-1", "before", true)), false, false},
	} {
		got, changed, conflict := owners(build(1, retain(c.whenDeleted, c.whenScaled)), member{name: "db-1", uid: "uid-1", wanted: c.wanted}, c.have)
		if !sameOwners(got, c.want) || changed != c.changed || conflict != c.conflict {
			t.Errorf("%s: %v, changed %v, conflict %v", c.name, got, changed, conflict)
		}
	}
}

func claim(name string, refs ...metav1.OwnerReference) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs}}
}

func TestClaims(t *testing.T) {
	going := claim("data-db-0")
	going.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	for _, c := range []struct {
		name string
		set  *appsv1.StatefulSet
		have *corev1.PersistentVolumeClaim
		pods []string
		want string
	}{
		{"an old claim is used again", build(1, claims), claim("data-db-0"), nil, "+0new"},
		{"and gets its owner", build(1, retain("Delete", "Retain")), claim("data-db-0"), nil, "own:data-db-0 +0new"},
		{"a claim on its way out is waited for", build(1, claims), going, nil, "wait:data-db-0 +0new"},
		{"so is one that goes with the former pod", build(1, retain("Retain", "Delete")), claim("data-db-0", ref("Pod", "db-0", "before", true)), nil, ""},
		{"which is no matter when claims stay", build(1, claims), claim("data-db-0", ref("Pod", "db-0", "before", true)), nil, "+0new"},
		{"a pod takes its claim along", build(0, retain("Retain", "Delete")), claim("data-db-0"), []string{"0 new ready"}, "own:data-db-0 -0"},
		{"a pod leaves its claim", build(0, claims), claim("data-db-0"), []string{"0 new ready"}, "-0"},
		{"nothing before the pod is available", build(1, retain("Delete", "Retain")), claim("data-db-0"), []string{"0 new unready"}, ""},
	} {
		set := c.set
		s := snap(set, map[string]*corev1.PersistentVolumeClaim{c.have.Name: c.have})
		for _, line := range c.pods {
			p := pod(line)
			p.Spec.Volumes = withClaims(set, ordinalOf(p), nil)
			s.pods = append(s.pods, p)
		}
		if got := say(decide(s)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	made := newClaim(build(1, retain("Delete", "Retain")), &build(1, claims).Spec.VolumeClaimTemplates[0], 3)
	if made.Name != "data-db-3" || made.Namespace != "ns" || made.Labels["app"] != "db" || made.Labels["tier"] != "disk" || !sameOwners(made.OwnerReferences, []metav1.OwnerReference{ref("StatefulSet", "db", "set", true)}) {
		t.Errorf("%+v", made)
	}
}
