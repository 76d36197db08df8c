package history

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/owner"
	"github.com/coracle-dev/coracle/internal/loop"
)

// mostCollisions ends the search for a free name: by then it is not hashes that collide.
const mostCollisions = 100

// Keeper keeps the revisions of all workloads of one kind.
type Keeper struct {
	client    kubernetes.Interface
	revisions cache.Indexer
	kind      schema.GroupVersionKind
	hashLabel string
	lag       *loop.Lag
}

// NewKeeper makes the keeper of a kind, whose revisions carry their hash as the label hashLabel. changed is called for every change
// of a revision, of any kind's, once the Keeper knows of it.
func NewKeeper(e env.Env, l *loop.Loop, kind schema.GroupVersionKind, hashLabel string, changed func(old, cur *appsv1.ControllerRevision)) (*Keeper, error) {
	informer := e.Informers.Apps().V1().ControllerRevisions().Informer()
	if err := owner.Index(informer); err != nil {
		return nil, err
	}
	k := &Keeper{client: e.Client, revisions: informer.GetIndexer(), kind: kind, hashLabel: hashLabel, lag: loop.NewLag(e.Clock)}
	loop.On(l, informer, func(old, cur *appsv1.ControllerRevision) {
		if cur != nil {
			k.lag.Saw(cur.ResourceVersion)
		} else {
			k.lag.Saw(old.ResourceVersion)
		}
		changed(old, cur)
	})
	return k, nil
}

// Behind is zero when the informer has shown every revision written for key; else how much longer to wait for it at most.
func (k *Keeper) Behind(key string) time.Duration { return k.lag.Behind(key) }

// Forget drops what is known of key, whose workload is gone.
func (k *Keeper) Forget(key string) { k.lag.Forget(key) }

// Workload is what has a history.
type Workload struct {
	// Key is the workload's namespace/name.
	Key      string
	Object   metav1.Object
	Selector labels.Selector
	Template *corev1.PodTemplateSpec
	// Collisions is status.collisionCount.
	Collisions *int32
	// Live reads the workload past every cache.
	Live func(ctx context.Context) (metav1.Object, error)
}

// History is a workload's.
type History struct {
	// Current holds the present template and has the highest number.
	Current *appsv1.ControllerRevision
	// Same are all revisions that hold the present template.
	Same []*appsv1.ControllerRevision
	// All are Current and every other revision, in no order.
	All []*appsv1.ControllerRevision
	// Collisions is the status.collisionCount to show; nil as long as there was none.
	Collisions *int32
}

// Named is the revision of that name; nil when there is none.
func (h History) Named(name string) *appsv1.ControllerRevision {
	for _, r := range h.All {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Sync adopts and releases revisions, and makes one of the present template if there is none, or the newest out of the one there is.
func (k *Keeper) Sync(ctx context.Context, w Workload) (History, error) {
	all, err := k.claim(ctx, w)
	if err != nil {
		return History{}, err
	}
	data, err := Data(w.Template)
	if err != nil {
		return History{}, err
	}
	d := decide(all, data.Raw, w.Template)
	h := History{Current: d.current, Same: d.same, All: all, Collisions: w.Collisions}
	switch {
	case d.current == nil:
		h.Current, h.Collisions, err = k.create(ctx, w, data, d.number)
		h.Same, h.All = append(h.Same, h.Current), append(h.All, h.Current)
	case d.current.Revision != d.number:
		err = k.renumber(ctx, w.Key, d.current, d.number)
	}
	return h, err
}

func (k *Keeper) claim(ctx context.Context, w Workload) ([]*appsv1.ControllerRevision, error) {
	candidates := slices.Concat(owner.Owned[*appsv1.ControllerRevision](k.revisions, w.Object.GetUID()),
		owner.Orphans[*appsv1.ControllerRevision](k.revisions, w.Object.GetNamespace()))
	return owner.Claim(ctx, owner.Claimer{
		Owner: w.Object, Kind: k.kind, Selector: w.Selector, Live: w.Live,
		Patch: func(ctx context.Context, obj metav1.Object, patch []byte) error {
			written, err := k.client.AppsV1().ControllerRevisions(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			if err == nil {
				k.lag.Wrote(w.Key, written.ResourceVersion)
			}
			return err
		},
	}, candidates)
}

// create makes the revision of the present template. A name that is taken is either this workload's own revision, which the informer has
// yet to show, or another one's: then the next name is tried.
func (k *Keeper) create(ctx context.Context, w Workload, data runtime.RawExtension, number int64) (*appsv1.ControllerRevision, *int32, error) {
	var collisions int32
	if w.Collisions != nil {
		collisions = *w.Collisions
	}
	revisions := k.client.AppsV1().ControllerRevisions(w.Object.GetNamespace())
	for range mostCollisions {
		made, err := revisions.Create(ctx, k.revision(w, data, number, collisions), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			made, err = revisions.Get(ctx, nameOf(w.Object.GetName(), hashOf(data.Raw, collisions)), metav1.GetOptions{})
			if err == nil && !k.is(made, w, data) {
				collisions++
				continue
			}
		}
		if err != nil {
			return nil, w.Collisions, err
		}
		k.lag.Wrote(w.Key, made.ResourceVersion)
		if collisions == 0 {
			return made, w.Collisions, nil
		}
		return made, &collisions, nil
	}
	return nil, w.Collisions, fmt.Errorf("no free name for a revision of %s after %d tries", w.Key, mostCollisions)
}

// is tells whether a revision is the workload's own one of the data.
func (k *Keeper) is(r *appsv1.ControllerRevision, w Workload, data runtime.RawExtension) bool {
	ref := metav1.GetControllerOfNoCopy(r)
	return ref != nil && ref.UID == w.Object.GetUID() && string(r.Data.Raw) == string(data.Raw)
}

func (k *Keeper) revision(w Workload, data runtime.RawExtension, number int64, collisions int32) *appsv1.ControllerRevision {
	hash := hashOf(data.Raw, collisions)
	marked := maps.Clone(w.Template.Labels)
	if marked == nil {
		marked = map[string]string{}
	}
	marked[k.hashLabel] = hash
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Object.GetNamespace(), Name: nameOf(w.Object.GetName(), hash), Labels: marked,
			Annotations:     maps.Clone(w.Object.GetAnnotations()), // with the change's cause, which kubectl shows
			OwnerReferences: []metav1.OwnerReference{*owner.Reference(w.Object, k.kind)},
		},
		Data: data, Revision: number,
	}
}

func (k *Keeper) renumber(ctx context.Context, key string, r *appsv1.ControllerRevision, number int64) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": r.UID, "resourceVersion": r.ResourceVersion}, "revision": number,
	})
	if err != nil {
		return err
	}
	written, err := k.client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		k.lag.Wrote(key, written.ResourceVersion)
	}
	return err
}

// Remove deletes revisions, as Excess lists them, unless one has changed since.
func (k *Keeper) Remove(ctx context.Context, list []*appsv1.ControllerRevision) error {
	for _, r := range list {
		err := k.client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion},
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
