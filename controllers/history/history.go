// Package history keeps the templates that a workload has had as ControllerRevisions, in upstream's format, so that kubectl rollout
// history and undo read them.
//
// Invariants: a revision's data never changes, only its number does; the revision of the present template has the highest number; a
// revision that a pod still runs is never removed; decisions are pure, every write carries what it was decided on.
package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
)

// longestPrefix keeps a revision's name within the 63 bytes of a label's value, which a StatefulSet's pods carry it as.
const longestPrefix = 52

// Data is the strategic merge patch that puts the template back, byte for byte as kubectl writes it.
func Data(t *corev1.PodTemplateSpec) (runtime.RawExtension, error) {
	encoded, err := json.Marshal(t)
	if err != nil {
		return runtime.RawExtension{}, err
	}
	var template map[string]any // sorts the keys
	if err := json.Unmarshal(encoded, &template); err != nil {
		return runtime.RawExtension{}, err
	}
	template["$patch"] = "replace"
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
	return runtime.RawExtension{Raw: patch}, err
}

// Template is the template that the revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("controller revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	return &patch.Spec.Template, nil
}

// hashOf names data. Data that was refused its name before, because other data had it, gets another one by the count of such collisions.
func hashOf(data []byte, collisions int32) string {
	h := fnv.New32a()
	_, _ = h.Write(data)
	if collisions > 0 {
		_, _ = h.Write([]byte("#" + strconv.Itoa(int(collisions))))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func nameOf(prefix, hash string) string {
	if len(prefix) > longestPrefix {
		prefix = strings.TrimRight(prefix[:longestPrefix], "-.")
	}
	return prefix + "-" + hash
}

// decision is what a workload's revisions say about its template.
type decision struct {
	// current is the newest revision that holds the template; nil when none does.
	current *appsv1.ControllerRevision
	// same are all that hold it. More than one come of adoption only.
	same []*appsv1.ControllerRevision
	// number is the revision number that current has to have, or is to be made with.
	number int64
}

// decide compares the template with the revisions. It is pure.
func decide(revisions []*appsv1.ControllerRevision, data []byte, template *corev1.PodTemplateSpec) decision {
	var d decision
	d.same = filter(revisions, func(r *appsv1.ControllerRevision) bool { return bytes.Equal(r.Data.Raw, data) })
	if len(d.same) == 0 { // another version may have written the same template in other bytes
		d.same = filter(revisions, func(r *appsv1.ControllerRevision) bool {
			t, err := Template(r)
			return err == nil && apiequality.Semantic.DeepEqual(t, template)
		})
	}
	sortByNumber(d.same)
	if len(d.same) > 0 {
		d.current = d.same[len(d.same)-1]
	}
	for _, r := range revisions {
		if r != d.current {
			d.number = max(d.number, r.Revision)
		}
	}
	d.number++
	if d.current != nil {
		d.number = max(d.number, d.current.Revision)
	}
	return d
}

// Excess lists the revisions to remove: the oldest of those that are not live, until only limit of them are left. A nil or negative
// limit keeps all. It is pure.
func Excess(revisions []*appsv1.ControllerRevision, live func(*appsv1.ControllerRevision) bool, limit *int32) []*appsv1.ControllerRevision {
	if limit == nil || *limit < 0 {
		return nil
	}
	old := filter(revisions, func(r *appsv1.ControllerRevision) bool { return !live(r) && r.DeletionTimestamp == nil })
	sortByNumber(old)
	return old[:max(0, len(old)-int(*limit))]
}

// sortByNumber puts the oldest first.
func sortByNumber(list []*appsv1.ControllerRevision) {
	slices.SortFunc(list, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

func filter(list []*appsv1.ControllerRevision, keep func(*appsv1.ControllerRevision) bool) []*appsv1.ControllerRevision {
	var kept []*appsv1.ControllerRevision
	for _, r := range list {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}
