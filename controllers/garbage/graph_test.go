package garbage

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var (
	things = &resource{gvr: schema.GroupVersionResource{Version: "v1", Resource: "things"}, kind: schema.GroupVersionKind{Version: "v1", Kind: "Thing"}, namespaced: true}
	wides  = &resource{gvr: schema.GroupVersionResource{Version: "v1", Resource: "wides"}, kind: schema.GroupVersionKind{Version: "v1", Kind: "Wide"}}
)

func object(uid string, owners ...string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "a", UID: types.UID(uid)}}
	for _, owner := range owners {
		name, block := strings.CutSuffix(owner, "!")
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Thing", Name: name, UID: types.UID(name), BlockOwnerDeletion: ptr.To(block)})
	}
	return o
}

func dying(o *metav1.PartialObjectMetadata, finalizers ...string) *metav1.PartialObjectMetadata {
	o.DeletionTimestamp, o.Finalizers = ptr.To(metav1.Now()), finalizers
	return o
}

func show1(wake []types.UID) string {
	slices.Sort(wake)
	return fmt.Sprint(slices.Compact(wake))
}

func TestGraphWakes(t *testing.T) {
	g := newGraph()
	observe := func(want string, o *metav1.PartialObjectMetadata) {
		t.Helper()
		if wake, _ := g.observe(things, o); show1(wake) != want {
			t.Errorf("%s wakes %v, want %s", o.Name, wake, want)
		}
	}
	observe("[pod]", object("pod", "set!"))   // its owner has not been seen
	observe("[set]", object("set", "deploy")) // nor has this one's
	observe("[]", object("deploy"))
	observe("[]", object("set", "deploy"))
}

// TestNamesake has an informer that missed an owner's end, and shows its successor by the same name as a change of it.
func TestNamesake(t *testing.T) {
	g := newGraph()
	var woken []types.UID
	f := &feed{monitors: &monitors{graph: g, wake: func(list []types.UID) { woken = append(woken, list...) }}, resource: things}
	f.observe(object("first"))
	f.observe(object("set", "first"))
	second := object("second")
	second.Name = "first"
	f.changed(object("first"), second)
	if set, _ := g.get("set"); show1(woken) != "[set]" || g.settled(set) {
		t.Errorf("woken %v: an owner that is gone is taken to exist", woken)
	}
	woken = nil
	f.changed(second, second)
	if len(woken) > 0 {
		t.Errorf("nothing changed, woken %v", woken)
	}
}

func TestGraphCascade(t *testing.T) {
	g := newGraph()
	for _, o := range []*metav1.PartialObjectMetadata{object("deploy"), object("set", "deploy!"), object("pod1", "set!"), object("pod2", "set")} {
		if wake, _ := g.observe(things, o); len(wake) != 0 {
			t.Fatalf("%s wakes %v", o.Name, wake)
		}
	}
	it, _ := g.get("pod1")
	if !g.settled(it) {
		t.Fatal("a pod whose owner is there is not settled")
	}
	if wake, _ := g.observe(things, dying(object("set", "deploy!"), finalizerForeground)); show1(wake) != "[pod1 pod2 set]" {
		t.Fatal(wake)
	}
	if g.settled(it) {
		t.Fatal("settled under an owner that waits for it")
	}
	if blocked, idle := g.blockers("set"); !blocked || show1(idle) != "[pod1]" {
		t.Fatal(blocked, idle)
	}
	g.observe(things, dying(object("pod1", "set!")))
	if blocked, idle := g.blockers("set"); !blocked || len(idle) != 0 {
		t.Fatal(blocked, idle)
	}
	if wake := g.forget("pod1"); show1(wake) != "[set]" {
		t.Fatal(wake)
	}
	if wake := g.forget("set"); show1(wake) != "[pod2]" {
		t.Fatal(wake)
	}
	if wake := g.forget("pod2"); len(wake) != 0 {
		t.Fatal(wake)
	}
	if g.forget("deploy"); len(g.nodes) != 0 {
		t.Fatalf("left over: %v", g.nodes)
	}
}

func TestGraphStrays(t *testing.T) {
	g := newGraph()
	g.observe(things, object("owner"))
	far := object("far", "owner")
	far.Namespace = "b"
	if _, strays := g.observe(things, far); len(strays) != 1 || strays[0].name != "far" {
		t.Fatal(strays)
	}
	if _, strays := g.observe(things, far); len(strays) != 0 {
		t.Fatal("reported twice")
	}
	early := object("early", "late")
	early.Namespace = "b"
	g.observe(things, early)
	if _, strays := g.observe(things, object("late")); len(strays) != 1 || strays[0].name != "early" {
		t.Fatal(strays)
	}
	wide := object("wide")
	wide.Namespace = ""
	g.observe(wides, wide)
	if _, strays := g.observe(things, object("under", "wide")); len(strays) != 0 {
		t.Fatal("an owner without a namespace is in reach of all")
	}
}

// TestGraphInvariants changes objects at random and holds the invariants of the graph.
func TestGraphInvariants(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	rapid.Check(t, func(t *rapid.T) {
		g := newGraph()
		live := map[types.UID]*metav1.PartialObjectMetadata{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			uid := rapid.SampledFrom(names).Draw(t, "uid")
			if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				g.forget(types.UID(uid))
				delete(live, types.UID(uid))
				continue
			}
			o := object(uid, rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID[string]).Draw(t, "owners")...)
			g.observe(things, o)
			live[o.UID] = o
		}
		check(t, g, live)
	})
}

func check(t *rapid.T, g *graph, live map[types.UID]*metav1.PartialObjectMetadata) {
	for uid, o := range live {
		for _, ref := range o.OwnerReferences {
			if owner := g.nodes[ref.UID]; owner == nil || owner.dependents[uid] == nil {
				t.Fatalf("%s is not among %s's dependents", uid, ref.UID)
			}
		}
	}
	for uid, n := range g.nodes {
		if (n.resource != nil) != (live[uid] != nil) {
			t.Fatalf("%s observed: %v", uid, n.resource != nil)
		}
		if n.resource == nil && len(n.dependents) == 0 {
			t.Fatalf("%s is kept for nothing", uid)
		}
		for d := range n.dependents {
			if live[d] == nil || !slices.ContainsFunc(live[d].OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == uid }) {
				t.Fatalf("%s is no dependent of %s", d, uid)
			}
		}
	}
}
