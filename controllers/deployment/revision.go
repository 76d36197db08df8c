package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/owner"
)

// Annotations that kubectl rollout reads and writes.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// maxHistory bounds the length of the history annotation, in bytes.
const maxHistory = 2000

// ownAnnotations stay where they are; every other annotation of a deployment is copied to its newest set.
var ownAnnotations = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation,
	appsv1.DeprecatedRollbackTo,
}

// sameTemplate compares templates but for the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return apiequality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

func withoutHash(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	if _, ok := t.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return t
	}
	bare := *t
	bare.Labels = maps.Clone(t.Labels)
	delete(bare.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return &bare
}

// templateHash names a template. Fields that are empty do not count, so that it outlives additions to the API.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	data, err := json.Marshal(t)
	if err != nil {
		panic(err) // API types always marshal
	}
	h := fnv.New32a()
	_, _ = h.Write(data)
	if collisions != nil {
		_, _ = h.Write([]byte("#" + strconv.Itoa(int(*collisions))))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// ensureNewest makes the set of the present template unless it exists.
func (w *work) ensureNewest() {
	if w.newest != nil {
		return
	}
	d := w.deploy
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: maps.Clone(template.Labels), Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*owner.Reference(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template, Replicas: ptr.To(w.newestSize(0))},
	}
	w.newest = &replicas{is: set}
	w.copyAnnotations(w.newest)
	revision := strconv.FormatInt(w.nextRevision(), 10)
	w.annotate(w.newest, revisionAnnotation, revision)
	w.annotateSize(w.newest)
	w.setRevision(revision)
	if w.hasDeadline() {
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", set.Name))
	}
}

func withLabel(labels map[string]string, hash string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return labels
}

// nextRevision is one above the highest revision of the old sets.
func (w *work) nextRevision() int64 {
	var highest int64
	for _, r := range w.old {
		highest = max(highest, revision(r.is))
	}
	return highest + 1
}

func revision(set *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(set.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// syncRevision keeps an existing newest set's annotations, revision and minReadySeconds in step with the deployment. A
// set that becomes the newest again, by an undo, gets a new revision and remembers its old ones.
func (w *work) syncRevision() {
	if w.newest == nil {
		return
	}
	w.copyAnnotations(w.newest)
	w.raiseRevision()
	if w.newest.is.Spec.MinReadySeconds != w.deploy.Spec.MinReadySeconds {
		w.newest.edit().Spec.MinReadySeconds = w.deploy.Spec.MinReadySeconds
	}
	w.setRevision(w.newest.is.Annotations[revisionAnnotation])
	if w.hasDeadline() && condition(&w.status, appsv1.DeploymentProgressing) == nil {
		w.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", w.newest.is.Name))
	}
}

func (w *work) copyAnnotations(r *replicas) {
	for key, value := range w.deploy.Annotations {
		if !slices.Contains(ownAnnotations, key) {
			w.annotate(r, key, value)
		}
	}
}

func (w *work) raiseRevision() {
	next, had := w.nextRevision(), w.newest.is.Annotations[revisionAnnotation]
	if revision(w.newest.is) >= next {
		return
	}
	w.annotate(w.newest, revisionAnnotation, strconv.FormatInt(next, 10))
	if had == "" {
		return
	}
	history := had
	if before := w.newest.is.Annotations[historyAnnotation]; before != "" {
		history = before + "," + had
	}
	for len(history) > maxHistory {
		_, rest, found := strings.Cut(history, ",")
		if !found {
			return
		}
		history = rest
	}
	w.annotate(w.newest, historyAnnotation, history)
}

func (w *work) setRevision(revision string) {
	if revision != "" && w.deploy.Annotations[revisionAnnotation] != revision {
		w.plan.revision = revision
	}
}

// cleanUp removes the oldest revisions beyond the history limit. Sets that have, or were just asked to have, pods stay.
func (w *work) cleanUp() {
	limit := w.deploy.Spec.RevisionHistoryLimit
	if limit == nil || *limit < 0 {
		return
	}
	var candidates []*appsv1.ReplicaSet
	for _, r := range w.old {
		if r.is.DeletionTimestamp == nil {
			candidates = append(candidates, r.is)
		}
	}
	excess := len(candidates) - int(*limit)
	if excess <= 0 {
		return
	}
	slices.SortStableFunc(candidates, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), byAge(a, b))
	})
	for _, set := range candidates[:excess] {
		if set.Status.Replicas == 0 && size(set) == 0 && set.Generation <= set.Status.ObservedGeneration {
			w.plan.remove = append(w.plan.remove, set)
		}
	}
}
