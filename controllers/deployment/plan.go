package deployment

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// snapshot is what one decision rests on.
type snapshot struct {
	deployment *appsv1.Deployment
	// sets are the ReplicaSets that the deployment owns.
	sets []*appsv1.ReplicaSet
	// running tells whether a set still has pods that have not ended. Only strategy Recreate asks.
	running func(set types.UID) bool
	now     time.Time
}

// plan is what to write, in the order of its fields.
type plan struct {
	// create is the ReplicaSet of the newest template, when there is none yet.
	create *appsv1.ReplicaSet
	// updates are ReplicaSets to change: their size, annotations or minReadySeconds.
	updates []update
	// revision is the deployment's revision annotation, when it has to change.
	revision string
	status   appsv1.DeploymentStatus
	// remove are old sets beyond the revision history limit.
	remove []*appsv1.ReplicaSet
	// again asks for another look after this time although nothing may change; zero asks for none.
	again time.Duration
}

// update turns a ReplicaSet from was to is.
type update struct{ was, is *appsv1.ReplicaSet }

// work is a decision in the making. Sets are edited in copies, so that later steps see what earlier ones decided.
type work struct {
	snapshot
	deploy *appsv1.Deployment // the snapshot's, short
	newest *replicas          // the set of the present template; nil while there is none
	old    []*replicas        // all others, oldest first
	status appsv1.DeploymentStatus
	plan   plan
}

// replicas is a ReplicaSet before and after this decision; was is nil for one to be created.
type replicas struct{ was, is *appsv1.ReplicaSet }

func (r *replicas) size() int32 { return size(r.is) }

func size(set *appsv1.ReplicaSet) int32 {
	if set.Spec.Replicas == nil {
		return 1
	}
	return *set.Spec.Replicas
}

// edit is the set's private copy.
func (r *replicas) edit() *appsv1.ReplicaSet {
	if r.is == r.was {
		r.is = r.was.DeepCopy()
	}
	return r.is
}

// decide says what the deployment needs next. It is pure.
func decide(s snapshot) plan {
	w := newWork(s)
	if s.deployment.DeletionTimestamp != nil {
		w.observe()
		return w.finish()
	}
	w.notePause()
	switch {
	case s.deployment.Spec.Paused:
		w.syncRevision()
		w.scale()
		w.cleanUp()
		w.observe()
	case w.resized():
		w.syncRevision()
		w.scale()
		w.observe()
	case s.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		w.recreate()
		w.observeRollout()
	default:
		w.roll()
		w.observeRollout()
	}
	return w.finish()
}

func newWork(s snapshot) *work {
	w := &work{snapshot: s, deploy: s.deployment, status: *s.deployment.Status.DeepCopy()}
	sets := slices.Clone(s.sets)
	slices.SortFunc(sets, byAge)
	for _, set := range sets {
		if w.newest == nil && sameTemplate(&set.Spec.Template, &s.deployment.Spec.Template) {
			w.newest = &replicas{was: set, is: set}
		} else {
			w.old = append(w.old, &replicas{was: set, is: set})
		}
	}
	return w
}

// byAge puts older sets first.
func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// all is every set, the newest last.
func (w *work) all() []*replicas {
	if w.newest == nil {
		return w.old
	}
	return append(slices.Clone(w.old), w.newest)
}

func active(sets []*replicas) []*replicas {
	var list []*replicas
	for _, r := range sets {
		if r.size() > 0 {
			list = append(list, r)
		}
	}
	return list
}

func total(sets []*replicas) int32 {
	var sum int32
	for _, r := range sets {
		sum += r.size()
	}
	return sum
}

// available counts the pods that are and will stay available: a set that has just shrunk still shows what is about to go.
func available(sets []*replicas) int32 {
	var sum int32
	for _, r := range sets {
		sum += min(r.size(), r.is.Status.AvailableReplicas)
	}
	return sum
}

// trailing tells whether the status of a set is older than its size, so that it says nothing of what that size has: a template that
// is gone back to at once finds its set with a status from before it had shrunk.
func trailing(sets []*replicas) bool {
	return slices.ContainsFunc(sets, func(r *replicas) bool { return r.is.Status.ObservedGeneration < r.is.Generation })
}

// resize gives a set its new size and notes on it what size the deployment has. It tells whether the size changed.
func (w *work) resize(r *replicas, n int32) bool {
	w.annotateSize(r)
	if r.size() == n {
		return false
	}
	r.edit().Spec.Replicas = &n
	return true
}

// annotateSize notes on the set the size that the deployment wants, and the most it may reach during a rollout. A
// later change of the deployment's size is told from a rollout by these.
func (w *work) annotateSize(r *replicas) {
	want := w.want()
	w.annotate(r, desiredAnnotation, strconv.Itoa(int(want)))
	w.annotate(r, maxAnnotation, strconv.Itoa(int(want+maxSurge(w.deploy))))
}

func (w *work) annotate(r *replicas, key, value string) bool {
	if have, ok := r.is.Annotations[key]; ok && have == value {
		return false
	}
	set := r.edit()
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[key] = value
	return true
}

func (w *work) want() int32 { return wanted(w.deploy) }

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// finish collects what was edited.
func (w *work) finish() plan {
	for _, r := range w.all() {
		switch {
		case r.was == nil:
			w.plan.create = r.is
		case r.was != r.is:
			w.plan.updates = append(w.plan.updates, update{r.was, r.is})
		}
	}
	w.plan.status = w.status
	return w.plan
}

// recreate ends every old pod before it makes the first new one.
func (w *work) recreate() {
	w.syncRevision()
	emptied := false
	for _, r := range active(w.old) {
		emptied = w.resize(r, 0) || emptied
	}
	if emptied {
		return
	}
	for _, r := range w.old {
		// A set that has not noticed its new size may be making pods still, which nobody has seen yet.
		unaware := r.is.DeletionTimestamp == nil && r.is.Status.ObservedGeneration < r.is.Generation
		if unaware || r.is.Status.Replicas > 0 || w.running(r.is.UID) {
			return
		}
	}
	w.ensureNewest()
	if w.resize(w.newest, w.want()) {
		return
	}
	if complete(w.deploy, &w.deploy.Status) {
		w.cleanUp()
	}
}

func condition(status *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == t {
			return &status.Conditions[i]
		}
	}
	return nil
}
