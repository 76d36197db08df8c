// Package volumebinder brings claims and persistent volumes together. It binds each claim to one volume, asks provisioners outside for those that are missing,
// and reclaims the volumes of claims that are gone.
//
// Invariants: a volume is bound to one claim at most, whoever else binds, for each step of a binding is a write over the version it was decided on, the
// volume first; a volume is released, and a claim lost, only after a live read has shown the other side gone.
package volumebinder

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// Controller binds, asks for and reclaims volumes; claims and volumes have a loop each.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	// expanding tells of claims that are to grow, in the name of the controller that upstream has for that.
	expanding record.EventRecorder
	clock     clock.Clock
	classes   storagelisters.StorageClassLister

	claims      *recent[*corev1.PersistentVolumeClaim]
	volumes     *recent[*corev1.PersistentVolume]
	claimIndex  cache.Indexer
	volumeIndex cache.Indexer
	pods        cache.Indexer

	claimLoop, volumeLoop *loop.Loop

	mu   sync.Mutex
	said map[string]saying
	// chosen are the volumes that a worker is about to bind.
	chosen map[string]bool
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	core, storage := e.Informers.Core().V1(), e.Informers.Storage().V1()
	claims, vols, podInformer := core.PersistentVolumeClaims().Informer(), core.PersistentVolumes().Informer(), core.Pods().Informer()
	if err := index(claims, vols, podInformer); err != nil {
		return nil, err
	}
	c := &Controller{
		client: e.Client, events: e.Recorder("persistentvolume-controller"), expanding: e.Recorder("volume_expand"), clock: e.Clock, classes: storage.StorageClasses().Lister(),
		claims: newRecent(shown[*corev1.PersistentVolumeClaim](claims)), volumes: newRecent(shown[*corev1.PersistentVolume](vols)),
		claimIndex: claims.GetIndexer(), volumeIndex: vols.GetIndexer(), pods: podInformer.GetIndexer(),
		said: map[string]saying{}, chosen: map[string]bool{},
	}
	c.claimLoop = e.Loop(loop.Config{Name: "persistentvolumeclaim-binder", Sync: c.syncClaim, Pace: 50 * time.Millisecond})
	c.volumeLoop = e.Loop(loop.Config{Name: "persistentvolume-binder", Sync: c.syncVolume})
	loop.On(c.claimLoop, claims, c.claimChanged)
	loop.On(c.volumeLoop, vols, c.volumeChanged)
	loop.On(c.claimLoop, storage.StorageClasses().Informer(), c.classChanged)
	loop.On(c.claimLoop, podInformer, c.podChanged)
	c.claimLoop.Wait(vols)
	c.volumeLoop.Wait(claims)
	c.volumeLoop.Wait(podInformer)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return run.All(ctx, c.claimLoop.Run, c.volumeLoop.Run)
}

func (c *Controller) syncClaim(ctx context.Context, key string) error {
	if class, ok := strings.CutPrefix(key, classKey); ok {
		return c.syncClass(class)
	}
	claim, ok := c.claims.get(key)
	if !ok {
		c.silent(key)
		return nil
	}
	view, done, err := c.look(ctx, key, claim)
	if err != nil {
		return err
	}
	defer done()
	p := decideClaim(view)
	if p.bind {
		if err := c.bind(ctx, view.volume, claim); err != nil {
			return err
		}
		if p.event == nil {
			c.silent(key)
		} else {
			c.sayAs(c.expanding, key, claim.UID, claim, p.event)
		}
		return nil
	}
	return c.carryOut(ctx, key, claim, p)
}

// carryOut does what is planned for a claim without a volume.
func (c *Controller) carryOut(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim, p claimPlan) (err error) {
	was := claim.Status.Phase
	if p.class != "" {
		claim = claim.DeepCopy()
		claim.Spec.StorageClassName = &p.class
		_, err := c.updateClaim(ctx, claim)
		return err
	}
	if p.provisioner != "" {
		if next, changed := asked(claim, p.provisioner, p.migrated); changed {
			if claim, err = c.updateClaim(ctx, next); err != nil {
				return err
			}
		}
	}
	if p.phase != "" {
		if err := c.setClaimStatus(ctx, claim, p.phase, nil); err != nil {
			return err
		}
	}
	if p.event != nil && (p.phase != corev1.ClaimLost || was != corev1.ClaimLost) {
		again, _ := c.say(key, claim.UID, claim, p.event)
		c.claimLoop.AddAfter(key, again)
	}
	return nil
}

// syncClass wakes as many of the claims of a class as there are free volumes that suit them. What they take wakes the class again.
func (c *Controller) syncClass(name string) error {
	var waiting []volumes.Matcher
	var keys []string
	for _, claim := range c.open(name) {
		waiting, keys = append(waiting, volumes.NewMatcher(claim)), append(keys, claim.Namespace+"/"+claim.Name)
	}
	for _, v := range c.indexed(freeByClass, name) {
		v = c.volumes.newest(v.Name, v)
		for i, m := range waiting {
			if m.Suits(v) {
				c.claimLoop.Add(keys[i])
				waiting, keys = slices.Delete(waiting, i, i+1), slices.Delete(keys, i, i+1)
				break
			}
		}
	}
	return nil
}

// look gathers what a decision about the claim rests on. The volume it holds, if any, is kept from the other workers until done is called.
func (c *Controller) look(ctx context.Context, key string, claim *corev1.PersistentVolumeClaim) (view claimView, done func(), err error) {
	view, done = claimView{claim: claim}, func() {}
	if volumes.Completed(claim) || claim.Spec.VolumeName != "" {
		view.volume, err = c.named(ctx, claim)
		return view, done, err
	}
	name, hasClass := volumes.ClassOfClaim(claim)
	if name != "" {
		if view.class, err = c.classes.Get(name); err != nil && !apierrors.IsNotFound(err) {
			return view, done, err
		}
	}
	if !hasClass {
		all, err := c.classes.List(labels.Everything())
		if err != nil {
			return view, done, err
		}
		view.fallback = volumes.DefaultClass(all)
	}
	if volumes.Delayed(view.class) {
		view.waiting = waitingPods(pods.Using(c.pods, key))
	}
	view.volume, done = c.choose(key, claim, volumes.Delayed(view.class))
	return view, done, nil
}

// named is the volume that the claim names; nil when there is none. That a volume to which the claim was bound is gone, or another's, is confirmed by a live
// read: what is cached of it may be older than the claim.
func (c *Controller) named(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	if claim.Spec.VolumeName == "" {
		return nil, nil
	}
	v, ok := c.volumes.get(claim.Spec.VolumeName)
	if !volumes.Completed(claim) || claim.Status.Phase == corev1.ClaimLost || ok && (v.Spec.ClaimRef == nil || volumes.Refers(v, claim)) {
		return v, nil
	}
	v, err := c.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return v, err
}

// choose finds the best volume for a claim among those that no other worker is about to bind, and keeps it from them until done is called.
func (c *Controller) choose(key string, claim *corev1.PersistentVolumeClaim, delayed bool) (v *corev1.PersistentVolume, done func()) {
	class, _ := volumes.ClassOfClaim(claim)
	c.mu.Lock()
	defer c.mu.Unlock()
	var candidates []*corev1.PersistentVolume
	for _, group := range [][]*corev1.PersistentVolume{c.indexed(volumesByClaim, key), c.indexed(freeByClass, class)} {
		for _, v := range group {
			if !c.chosen[v.Name] {
				candidates = append(candidates, c.volumes.newest(v.Name, v))
			}
		}
	}
	if v = volumes.NewMatcher(claim).Best(candidates, delayed); v == nil {
		return nil, func() {}
	}
	c.chosen[v.Name] = true
	return v, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.chosen, v.Name)
	}
}

func (c *Controller) syncVolume(ctx context.Context, name string) error {
	v, ok := c.volumes.get(name)
	if !ok {
		c.silent("volume/" + name)
		return nil
	}
	holder, err := c.holder(ctx, v)
	if err != nil {
		return err
	}
	p := decideVolume(v, holder)
	switch {
	case p.unbind:
		return c.unbind(ctx, v)
	case p.mismatched[0] != nil:
		if _, told := c.say("volume/"+name, v.UID, v, p.mismatched[0]); told {
			c.events.Event(holder, p.mismatched[1].kind, p.mismatched[1].reason, p.mismatched[1].message)
		}
	case p.phase != "" && p.phase != v.Status.Phase:
		if v, err = c.setPhase(ctx, v, p.phase, p.message); err != nil {
			return err
		}
		if p.event != nil {
			c.events.Event(v, p.event.kind, p.event.reason, p.event.message)
		}
	}
	if p.recycle {
		return c.recycle(ctx, v)
	}
	return nil
}

// holder is the claim that the volume refers to by UID; nil when it refers to none or that one is gone, which is confirmed by a live read.
func (c *Controller) holder(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return nil, nil
	}
	claim, ok := c.claims.get(ref.Namespace + "/" + ref.Name)
	switch {
	case ok && claim.UID == ref.UID:
		return claim, nil
	case !ok && (v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed):
		return nil, nil
	}
	claim, err := c.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return claim, nil
}
