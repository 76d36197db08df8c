package resourceclaim

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// claim is used by pods whose names say how they stand: "needs1", "over2", "unknown3". Owner, if any, is another such pod.
func claim(owner string, users ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", Finalizers: []string{"other", resourcev1.Finalizer}}}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	for _, name := range users {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: name, UID: types.UID(name)})
	}
	if owner != "" {
		c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: owner, UID: types.UID(owner), Controller: ptr.To(true)}}
	}
	return c
}

func byName(name string, _ types.UID) standing {
	switch {
	case strings.HasPrefix(name, "over"):
		return over
	case strings.HasPrefix(name, "unknown"):
		return unknown
	}
	return needs
}

func show(p plan) string {
	var names []string
	for _, r := range p.reserved {
		names = append(names, r.Name)
	}
	text := fmt.Sprint(names)
	for word, is := range map[string]bool{"1 release": p.release, "2 deallocate": p.deallocate, "3 unprotect": p.unprotect, "4 remove": p.remove} {
		if is {
			names = append(names, word)
		}
	}
	did := names[len(p.reserved):]
	slices.Sort(did)
	return text + strings.Join(did, "")
}

func TestDecide(t *testing.T) {
	deleted := func(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
		c.DeletionTimestamp = &metav1.Time{}
		return c
	}
	unprotected := claim("", "over")
	unprotected.Finalizers = []string{"other"}
	free := claim("over")
	free.Finalizers, free.Status.Allocation = nil, nil
	shared := claim("", "over1")
	shared.Status.ReservedFor = append(shared.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{APIGroup: "example.org", Resource: "things", Name: "over"})
	for name, c := range map[string]struct {
		claim *resourcev1.ResourceClaim
		want  string
	}{
		"in use":                                {claim("", "needs1", "needs2"), "[needs1 needs2]"},
		"one of two users is gone":              {claim("", "over1", "needs2"), "[needs2]1 release"},
		"what is not known keeps it":            {claim("", "over1", "unknown"), "[unknown]1 release"},
		"the last user is gone":                 {claim("", "over1", "over2"), "[]1 release2 deallocate3 unprotect"},
		"allocated and never used":              {claim(""), "[]"},
		"without protection":                    {unprotected, "[]1 release"},
		"deleted while in use":                  {deleted(claim("", "needs")), "[needs]"},
		"deleted and never used":                {deleted(claim("")), "[]2 deallocate3 unprotect"},
		"deleted, by the owner's end too":       {deleted(claim("over", "over")), "[]1 release2 deallocate3 unprotect"},
		"its pod is done":                       {claim("over", "over"), "[]1 release2 deallocate3 unprotect4 remove"},
		"its pod is done, another uses it":      {claim("over", "needs"), "[needs]"},
		"its pod is done, it was never needed":  {free, "[]4 remove"},
		"its pod is there":                      {claim("needs"), "[]"},
		"its pod is not known":                  {claim("unknown"), "[]"},
		"a user of another kind is not removed": {shared, "[over]1 release"},
	} {
		if got := show(decide(c.claim, byName)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestDecideSettles carries plans out until nothing is left to do: no pod that needs the claim loses it, no one that is over keeps it.
func TestDecideSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		who := rapid.SampledFrom([]string{"needs", "over", "unknown"})
		var users []string
		for i := range rapid.IntRange(0, 5).Draw(t, "users") {
			users = append(users, fmt.Sprint(who.Draw(t, "user"), i))
		}
		c := claim(rapid.SampledFrom([]string{"", "needs", "over", "unknown"}).Draw(t, "owner"), users...)
		if rapid.Bool().Draw(t, "unallocated") {
			c.Status.Allocation = nil
		}
		if rapid.Bool().Draw(t, "deleted") {
			c.DeletionTimestamp = &metav1.Time{}
		}
		for range 3 {
			p := decide(c, byName)
			if p.release {
				c.Status.ReservedFor = p.reserved
			}
			if p.deallocate {
				if len(p.reserved) > 0 {
					t.Fatal("deallocated in use")
				}
				c.Status.Allocation = nil
			}
			if p.unprotect {
				if c.Status.Allocation != nil {
					t.Fatal("unprotected while allocated")
				}
				c.Finalizers = []string{"other"}
			}
			if p.remove {
				c.DeletionTimestamp = &metav1.Time{}
			}
		}
		if p := decide(c, byName); p.release || p.deallocate || p.unprotect || p.remove {
			t.Fatalf("not settled: %+v", p)
		}
		var left []string
		for _, r := range c.Status.ReservedFor {
			left = append(left, r.Name)
		}
		want := slices.DeleteFunc(users, func(u string) bool { return strings.HasPrefix(u, "over") })
		if !slices.Equal(left, want) {
			t.Fatalf("reserved for %v, want %v", left, want)
		}
	})
}

func TestClaimFor(t *testing.T) {
	template := &resourcev1.ResourceClaimTemplate{Spec: resourcev1.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"}}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u1"}}
	made := claimFor(pod, "gpu", template, 0)
	if !strings.HasPrefix(made.Name, "web-gpu-") || len(made.Name) != len("web-gpu-")+5 || made.Annotations[claimAnnotation] != "gpu" || made.Annotations["a"] != "1" || made.Labels["l"] != "1" || !metav1.IsControlledBy(made, pod) {
		t.Errorf("%+v", made)
	}
	if len(template.Spec.Annotations) != 1 {
		t.Error("the template was changed")
	}
	if claimFor(pod, "gpu", template, 0).Name != made.Name || claimFor(pod, "gpu", template, 1).Name == made.Name {
		t.Error("names do not follow from pod and attempt")
	}
	pod.UID = "u2"
	if claimFor(pod, "gpu", template, 0).Name == made.Name {
		t.Error("another pod's claim has the same name")
	}
}

func TestNamesFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: rapid.StringMatching(`[a-z]([a-z.-]{0,80}[a-z])?`).Filter(func(s string) bool {
			return len(validation.IsDNS1123Subdomain(s)) == 0
		}).Draw(t, "pod"), UID: "u"}}
		name := rapid.StringMatching(`[a-z]([a-z-]{0,61}[a-z])?`).Draw(t, "claim")
		made := claimFor(pod, name, &resourcev1.ResourceClaimTemplate{}, 0)
		if len(made.Name) > 63 || len(validation.IsDNS1123Subdomain(made.Name)) > 0 {
			t.Fatalf("%q", made.Name)
		}
	})
}
