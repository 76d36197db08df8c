// Package localvolumes keeps the data of the volumes that the cluster has provisioned on this node: a folder each below one folder, held
// to its capacity where the file system can do that, removed when the volume goes.
//
// Invariant: nothing is removed but folders directly below that one, of volumes whose objects say that they are this node's, that nothing
// else holds them, and that their data is to go with them.
package localvolumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// Config is what New needs.
type Config struct {
	Client kubernetes.Interface
	// Node is this node's name, Folder where its volumes lie.
	Node, Folder string
	// Event tells of an object.
	Event func(obj runtime.Object, kind, reason, message string)
	Log   *slog.Logger
}

// Keeper keeps the volumes of one node.
type Keeper struct {
	cfg   Config
	queue workqueue.TypedRateLimitingInterface[string]
	quota quota

	mu sync.Mutex // of what is made and removed in the folder
}

// New makes a Keeper.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, queue: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 5*time.Minute))}
}

// Run follows this node's volumes until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	selector := labels.SelectorFromSet(labels.Set{volumes.LocalNode: volumes.NodeLabel(k.cfg.Node)}).String()
	informer := client.Informers(k.cfg.Client, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector })).
		Core().V1().PersistentVolumes().Informer()
	wake := func(obj any) {
		if v, ok := obj.(*v1.PersistentVolume); ok {
			k.queue.Add(v.Name)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, obj any) { wake(obj) }}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { informer.RunWithContext(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		k.queue.ShutDown()
	})
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	k.sweep()
	for k.next(ctx, informer.GetStore()) {
	}
	return nil
}

// next works on one volume.
func (k *Keeper) next(ctx context.Context, store cache.Store) bool {
	name, down := k.queue.Get()
	if down {
		return false
	}
	defer k.queue.Done(name)
	obj, _, _ := store.GetByKey(name)
	v, ok := obj.(*v1.PersistentVolume)
	if !ok {
		k.queue.Forget(name)
		return true
	}
	if err := k.sync(ctx, v); err != nil && ctx.Err() == nil {
		k.cfg.Log.Warn("local volume not kept", "volume", name, "error", err)
		k.queue.AddRateLimited(name)
		return true
	}
	k.queue.Forget(name)
	return true
}

// sync makes the volume's folder, or removes it with the volume.
func (k *Keeper) sync(ctx context.Context, v *v1.PersistentVolume) error {
	if v.DeletionTimestamp == nil {
		return k.Ensure(v)
	}
	if !k.mine(v) || !volumes.LocalLeaves(v) {
		return nil
	}
	if v.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
		if err := k.remove(v.Name); err != nil {
			k.cfg.Event(v, v1.EventTypeWarning, "VolumeFailedDelete", err.Error())
			return err
		}
	}
	return k.release(ctx, v)
}

// mine tells whether the volume was provisioned here: its place is the one it would be given.
func (k *Keeper) mine(v *v1.PersistentVolume) bool {
	return volumes.Local(v, k.cfg.Node) && filepath.IsLocal(v.Name) && v.Spec.Local.Path == filepath.Join(k.cfg.Folder, v.Name)
}

// Ensure makes the folder of a volume that was provisioned on this node unless it is there, and holds it to its capacity. Other volumes
// it leaves alone.
func (k *Keeper) Ensure(v *v1.PersistentVolume) error {
	if !k.mine(v) {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// Anybody may write to the volumes, so nobody but root gets to them other than through a container.
	if err := os.MkdirAll(k.cfg.Folder, 0o700); err != nil {
		return err
	}
	path := v.Spec.Local.Path
	err := os.Mkdir(path, 0o777)
	fresh := err == nil
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if fresh {
		if err := os.Chmod(path, 0o777); err != nil { // the umask took part in its making
			return err
		}
	}
	size := v.Spec.Capacity[v1.ResourceStorage]
	switch err := k.quota.limit(k.cfg.Folder, path, size.Value()); {
	case errors.Is(err, errNoQuota) && fresh:
		k.cfg.Event(v.Spec.ClaimRef, v1.EventTypeNormal, "CapacityNotEnforced", fmt.Sprintf(
			"The file system of %s on node %s keeps no project quotas: volume %s may grow beyond %s", k.cfg.Folder, k.cfg.Node, v.Name, size.String()))
	case err != nil && !errors.Is(err, errNoQuota):
		return fmt.Errorf("limit %s to %s: %w", path, size.String(), err)
	}
	return nil
}

// leaving starts the name of a folder that is being removed.
const leaving = ".removed-"

// remove takes the volume's folder away: first its name, so that nobody finds it half empty, then what is in it. It is resolved within
// the folder of volumes, where no link leads out.
func (k *Keeper) remove(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	root, err := os.OpenRoot(k.cfg.Folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Rename(name, leaving+name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return root.RemoveAll(leaving + name)
}

// sweep goes on with removals that were cut short.
func (k *Keeper) sweep() {
	entries, err := os.ReadDir(k.cfg.Folder)
	if err != nil {
		return // there are no volumes yet
	}
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), leaving); ok {
			if err := k.remove(name); err != nil {
				k.cfg.Log.Warn("data of a volume that is gone not removed", "volume", name, "error", err)
			}
		}
	}
}

// release lets the volume's object go.
func (k *Keeper) release(ctx context.Context, v *v1.PersistentVolume) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": v.UID, "resourceVersion": v.ResourceVersion, "finalizers": nil}})
	if err != nil {
		return err
	}
	_, err = k.cfg.Client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
