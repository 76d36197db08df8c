package volumebinder

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/volumes"
)

// world is a store with the API's rule: a write over an old version is refused.
type world struct {
	version int
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
}

func (w *world) next() string {
	w.version++
	return strconv.Itoa(w.version)
}

func (w *world) putVolume(v *corev1.PersistentVolume) bool {
	have := w.volumes[v.Name]
	if have == nil || have.ResourceVersion != v.ResourceVersion {
		return false
	}
	v = v.DeepCopy()
	v.ResourceVersion = w.next()
	w.volumes[v.Name] = v
	return true
}

func (w *world) putClaim(c *corev1.PersistentVolumeClaim) bool {
	have := w.claims[c.Name]
	if have == nil || have.ResourceVersion != c.ResourceVersion {
		return false
	}
	c = c.DeepCopy()
	c.ResourceVersion = w.next()
	w.claims[c.Name] = c
	return true
}

// binder is one process that binds, with views of its own that are as old as they may be, and at most one binding under way, which can break off after
// every write.
type binder struct {
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	// claim and volume are what the binding under way last wrote or read.
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// step does the next write of the binding under way, as Controller.bind does.
func (b *binder) step(w *world) {
	if b.claim == nil {
		return
	}
	if v, changed := volumes.Claimed(b.volume, b.claim); changed {
		b.wroteVolume(w, v)
		return
	}
	if b.volume.Status.Phase != corev1.VolumeBound {
		v := b.volume.DeepCopy()
		v.Status.Phase = corev1.VolumeBound
		b.wroteVolume(w, v)
		return
	}
	if c, changed := bound(b.claim, b.volume); changed {
		b.wroteClaim(w, c)
		return
	}
	if c, changed := claimStatus(b.claim, corev1.ClaimBound, b.volume); changed {
		b.wroteClaim(w, c)
		return
	}
	b.claim = nil
}

func (b *binder) wroteVolume(w *world, v *corev1.PersistentVolume) {
	if !w.putVolume(v) {
		b.claim = nil
		return
	}
	b.volume = w.volumes[v.Name]
}

func (b *binder) wroteClaim(w *world, c *corev1.PersistentVolumeClaim) {
	if !w.putClaim(c) {
		b.claim = nil
		return
	}
	b.claim = w.claims[c.Name]
}

// syncClaim decides about a claim by the binder's views.
func (b *binder) syncClaim(w *world, name string) {
	claim := b.claims[name]
	if claim == nil {
		return
	}
	view := claimView{claim: claim}
	switch {
	case claim.Spec.VolumeName != "":
		view.volume = b.volumes[claim.Spec.VolumeName]
		if v := view.volume; volumes.Completed(claim) && claim.Status.Phase != corev1.ClaimLost && v.Spec.ClaimRef != nil && !volumes.Refers(v, claim) {
			view.volume = w.volumes[claim.Spec.VolumeName] // the live read
		}
	case !volumes.Completed(claim):
		view.volume = volumes.NewMatcher(claim).Best(slices.Collect(maps.Values(b.volumes)), false)
	}
	switch p := decideClaim(view); {
	case p.bind:
		b.claim, b.volume = claim, view.volume
	case p.phase != "":
		if c, changed := claimStatus(claim, p.phase, nil); changed {
			w.putClaim(c)
		}
	}
}

// syncVolume decides about a volume by the binder's views.
func (b *binder) syncVolume(w *world, name string) {
	v := b.volumes[name]
	if v == nil {
		return
	}
	var holder *corev1.PersistentVolumeClaim
	if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
		if holder = b.claims[ref.Name]; holder == nil || holder.UID != ref.UID {
			if holder = w.claims[ref.Name]; holder != nil && holder.UID != ref.UID { // the live read
				holder = nil
			}
		}
	}
	p := decideVolume(v, holder)
	if p.unbind {
		v = unbound(v)
		v.Status.Phase = corev1.VolumeAvailable
		w.putVolume(v)
	} else if p.phase != "" && p.phase != v.Status.Phase {
		v = v.DeepCopy()
		v.Status.Phase = p.phase
		w.putVolume(v)
	}
}

func (b *binder) see(w *world) {
	b.claims, b.volumes = maps.Clone(w.claims), maps.Clone(w.volumes)
}

// check holds the invariant: no volume is the volume of two claims, and whose claim has it says so.
func (w *world) check(t *rapid.T) {
	holders := map[string]string{}
	for name, c := range w.claims {
		if !volumes.Completed(c) {
			continue
		}
		if other, ok := holders[c.Spec.VolumeName]; ok {
			t.Fatalf("%s is bound to %s and to %s", c.Spec.VolumeName, other, name)
		}
		holders[c.Spec.VolumeName] = name
		if c.Status.Phase == corev1.ClaimLost {
			t.Fatalf("%s lost %s, which was never deleted", name, c.Spec.VolumeName)
		}
		if v := w.volumes[c.Spec.VolumeName]; v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID {
			t.Fatalf("%s is bound to %s, which refers to %+v", name, v.Name, v.Spec.ClaimRef)
		}
	}
}

func (w *world) addClaim(name string) {
	c := newClaim(name)
	c.ResourceVersion = w.next()
	c.UID = types.UID("u-" + c.ResourceVersion)
	w.claims[name] = c
}

func (w *world) addVolume(v *corev1.PersistentVolume) {
	v.ResourceVersion = w.next()
	w.volumes[v.Name] = v
}

// settle lets one binder with fresh views work until nothing changes, and checks that nothing is left half done.
func (w *world) settle(t *rapid.T) {
	b := &binder{}
	for before := -1; before != w.version; {
		before = w.version
		for _, name := range slices.Sorted(maps.Keys(w.claims)) {
			b.see(w)
			b.syncClaim(w, name)
			for b.claim != nil {
				b.step(w)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(w.volumes)) {
			b.see(w)
			b.syncVolume(w, name)
		}
		if w.version > 100000 {
			t.Fatal("never at rest")
		}
	}
	w.check(t)
	free := 0
	for name, v := range w.volumes {
		switch ref := v.Spec.ClaimRef; {
		case ref == nil:
			if free++; v.Status.Phase != corev1.VolumeAvailable {
				t.Fatalf("%s is free and %s", name, v.Status.Phase)
			}
		case w.claims[ref.Name] != nil && w.claims[ref.Name].UID == ref.UID:
			if c := w.claims[ref.Name]; c.Spec.VolumeName != name || c.Status.Phase != corev1.ClaimBound || v.Status.Phase != corev1.VolumeBound {
				t.Fatalf("%s (%s) is half bound to %s (%s, %q)", name, v.Status.Phase, ref.Name, c.Status.Phase, c.Spec.VolumeName)
			}
		case v.Status.Phase != corev1.VolumeReleased && ref.UID != "":
			t.Fatalf("%s, of a claim that is gone, is %s", name, v.Status.Phase)
		}
	}
	for name, c := range w.claims {
		if c.Status.Phase == corev1.ClaimPending && free > 0 && c.Spec.VolumeName == "" {
			t.Fatalf("%s waits beside %d free volumes", name, free)
		}
	}
}

// TestNeverTwoClaims lets two binders and a scheduler, all with views of any age, bind, break off, release and unbind in any order.
func TestNeverTwoClaims(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}}
		binders := []*binder{{}, {}, {}}
		any := func(t *rapid.T) *binder { return rapid.SampledFrom(binders).Draw(t, "binder") }
		claimName := rapid.SampledFrom([]string{"a", "b", "c"})
		volumeName := rapid.SampledFrom([]string{"u", "v"})
		for _, name := range []string{"a", "b"} {
			w.addClaim(name)
		}
		if rapid.Bool().Draw(t, "reserved") {
			w.addVolume(newVolume("u", refersTo("a", "")))
		} else {
			w.addVolume(newVolume("u"))
		}
		w.addVolume(newVolume("v"))
		for _, b := range binders {
			b.see(w)
		}
		step := func(t *rapid.T) {
			b := any(t)
			if b.claim == nil {
				b.syncClaim(w, claimName.Draw(t, "claim"))
			}
			for range rapid.IntRange(1, 4).Draw(t, "writes") {
				b.step(w)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": w.check,
			"claim": func(t *rapid.T) {
				if name := claimName.Draw(t, "claim"); w.claims[name] == nil {
					w.addClaim(name)
				}
			},
			"unclaim": func(t *rapid.T) { delete(w.claims, claimName.Draw(t, "claim")) },
			"admin clears": func(t *rapid.T) {
				if v := w.volumes[volumeName.Draw(t, "volume")]; v != nil && v.Status.Phase == corev1.VolumeReleased {
					v = v.DeepCopy()
					v.Spec.ClaimRef = nil
					delete(v.Annotations, volumes.BoundByController)
					w.putVolume(v)
				}
			},
			"see a claim": func(t *rapid.T) {
				b, name := any(t), claimName.Draw(t, "claim")
				if b.claims[name] = w.claims[name]; w.claims[name] == nil {
					delete(b.claims, name)
				}
			},
			"see a volume": func(t *rapid.T) {
				b, name := any(t), volumeName.Draw(t, "volume")
				if v := w.volumes[name]; v != nil {
					b.volumes[name] = v
				}
			},
			"see all":          func(t *rapid.T) { any(t).see(w) },
			"sync volume":      func(t *rapid.T) { any(t).syncVolume(w, volumeName.Draw(t, "volume")) },
			"sync volume, too": func(t *rapid.T) { any(t).syncVolume(w, volumeName.Draw(t, "volume")) },
			"bind":             step,
			"bind, too":        step,
			"bind once more":   step,
			"break off":        func(t *rapid.T) { any(t).claim = nil },
			"schedule": func(t *rapid.T) { // writes the volume only, and leaves the rest to the binder
				b := any(t)
				c, v := b.claims[claimName.Draw(t, "claim")], b.volumes[volumeName.Draw(t, "volume")]
				if c != nil && v != nil && volumes.NewMatcher(c).Suits(v) && c.Spec.VolumeName == "" {
					if v, changed := volumes.Claimed(v, c); changed {
						w.putVolume(v)
					}
				}
			},
		})
		w.settle(t)
	})
}

func TestRecent(t *testing.T) {
	shown := map[string]*corev1.PersistentVolume{}
	r := newRecent(func(key string) (*corev1.PersistentVolume, bool) { v, ok := shown[key]; return v, ok })
	at := func(version int) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v", ResourceVersion: fmt.Sprint(version)}}
	}
	var got []string
	look := func() {
		if v, ok := r.get("v"); ok {
			got = append(got, v.ResourceVersion)
		} else {
			got = append(got, "-")
		}
	}
	look()
	shown["v"] = at(3)
	look()
	r.wrote("v", at(9)) // in numbers, not letters, 10 is later
	look()
	shown["v"] = at(10)
	look()
	r.wrote("v", at(10))
	r.wrote("v", at(12))
	delete(shown, "v")
	look()
	shown["v"] = at(11) // made anew
	look()
	if s := strings.Join(got, " "); s != "- 3 9 10 - 11" || len(r.written) != 0 {
		t.Fatal(s, len(r.written))
	}
}
