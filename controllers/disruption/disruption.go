// Package disruption counts, for every PodDisruptionBudget, how many of its pods may be evicted now. Evictions themselves are served by the
// API server, which takes them from the count.
//
// Invariants: a count is written over the version of the budget it was made from, so that an eviction that was allowed meanwhile is never lost;
// a pod whose eviction was allowed is not healthy until it is gone, or two minutes have passed; what cannot be counted allows nothing.
package disruption

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/pods"
	"github.com/coracle-dev/coracle/controllers/scales"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// pace is how far apart a budget is looked at while many of its pods change.
const pace = 50 * time.Millisecond

// Controller serves budgets, and the marks that evictions leave on pods.
type Controller struct {
	client  kubernetes.Interface
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	owners  owners
	events  record.EventRecorder
	clock   clock.Clock
	lag     *loop.Lag
	// loop's keys are budgets, marks' keys are pods.
	loop, marks *loop.Loop
}

// New makes the controller. The scales are those of kinds that have no informer here.
func New(e env.Env, s *scales.Client) *Controller {
	podInformer, budgetInformer := e.Informers.Core().V1().Pods(), e.Informers.Policy().V1().PodDisruptionBudgets()
	c := &Controller{
		client: e.Client, budgets: budgetInformer.Lister(), pods: podInformer.Lister(), owners: newOwners(e, s),
		events: e.Recorder("controllermanager"), clock: e.Clock, lag: loop.NewLag(e.Clock),
	}
	c.loop = e.Loop(loop.Config{Name: "disruption", Sync: c.sync, Pace: pace})
	c.marks = e.Loop(loop.Config{Name: "stale_pod_disruption", Sync: c.unmark, Workers: 1})
	loop.On(c.loop, budgetInformer.Informer(), func(old, cur *policyv1.PodDisruptionBudget) {
		if cur == nil {
			cur = old
		}
		c.lag.Saw(cur.ResourceVersion)
		c.loop.AddObject(cur)
	})
	loop.On(c.loop, podInformer.Informer(), c.podChanged)
	c.owners.watch(e, c.loop, func(namespace string, set labels.Set) { c.wake(namespace, set) })
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return run.All(ctx, c.loop.Run, c.marks.Run) }

func (c *Controller) podChanged(old, cur *corev1.Pod) {
	if old != nil && (cur == nil || counts(old, cur)) {
		c.wake(old.Namespace, old.Labels)
	}
	if cur == nil {
		return
	}
	if old == nil || !labels.Equals(old.Labels, cur.Labels) {
		if of := c.wake(cur.Namespace, cur.Labels); len(of) > 1 {
			c.events.Eventf(cur, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets",
				"Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", cur.Namespace, cur.Name, of[0].Name)
		}
	}
	if wait, ok := untilStale(cur, c.clock.Now()); ok {
		c.marks.AddAfter(cur.Namespace+"/"+cur.Name, wait)
	}
}

// counts tells whether a pod's change is one that a budget may count.
func counts(old, cur *corev1.Pod) bool {
	return pods.Ready(old) != pods.Ready(cur) || (old.DeletionTimestamp == nil) != (cur.DeletionTimestamp == nil) ||
		old.UID != cur.UID || !labels.Equals(old.Labels, cur.Labels) || !reflect.DeepEqual(metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur))
}

// wake has the budgets counted that select pods with the labels, and gives them.
func (c *Controller) wake(namespace string, set labels.Set) []*policyv1.PodDisruptionBudget {
	all, err := c.budgets.PodDisruptionBudgets(namespace).List(labels.Everything())
	if err != nil || len(all) == 0 {
		return nil
	}
	var of []*policyv1.PodDisruptionBudget
	for _, b := range all {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(set) {
			of = append(of, b)
			c.loop.AddPaced(namespace + "/" + b.Name)
		}
	}
	return of
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	b, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.lag.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait := c.lag.Behind(key); wait > 0 {
		c.loop.AddAfter(key, wait) // the informer's next event comes long before
		return nil
	}
	s, p, cause := c.count(ctx, b)
	if cause != nil {
		return errors.Join(c.write(ctx, key, b, failed(b, cause, c.clock.Now()), func() {}), lasting(cause))
	}
	if p.recheck > 0 {
		c.loop.AddAfter(key, p.recheck)
	}
	return c.write(ctx, key, b, p.status, func() { c.report(s, p) })
}

// count decides on the budget's status; an error is the cause why it cannot be known.
func (c *Controller) count(ctx context.Context, b *policyv1.PodDisruptionBudget) (snapshot, plan, error) {
	s := snapshot{budget: b, now: c.clock.Now()}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err == nil {
		s.pods, err = c.pods.Pods(b.Namespace).List(selector)
	}
	if err != nil {
		c.events.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return s, plan{}, err
	}
	if needsScale(&b.Spec) {
		s.scales, err = c.owners.scales(ctx, s.pods)
	}
	var p plan
	if err == nil {
		p, err = decide(s)
	}
	if err != nil {
		c.events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
	}
	return s, p, err
}

// lasting drops an error that only a change of the cluster can mend, and that change wakes the budget.
func lasting(err error) error {
	var none *noController
	var noScale *scales.NoScaleError
	if errors.As(err, &none) || errors.As(err, &noScale) || meta.IsNoMatchError(err) {
		return nil
	}
	return err
}

// report tells what is noteworthy about the pods that a status has been computed from.
func (c *Controller) report(s snapshot, p plan) {
	if len(s.pods) == 0 {
		c.events.Event(s.budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	if needsScale(&s.budget.Spec) && unmanaged(s.pods) > 0 {
		c.events.Eventf(s.budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" "+
			"field of the PDB to an integer value.", s.budget.Spec.Selector)
	}
	for _, pod := range p.kept {
		c.events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", s.budget.Namespace, s.budget.Name)
	}
}

// write stores a status over the version it was made from, if it says anything new; then it is told.
func (c *Controller) write(ctx context.Context, key string, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus, tell func()) error {
	if sameStatus(&b.Status, &status) {
		return nil
	}
	changed := *b
	changed.Status = status
	written, err := c.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, &changed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	c.lag.Wrote(key, written.ResourceVersion)
	tell()
	return nil
}

// unmark takes the mark for disruption off a pod that has not been deleted in time.
func (c *Controller) unmark(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if err != nil {
		return ignoreNotFound(err)
	}
	wait, ok := untilStale(pod, c.clock.Now())
	if !ok {
		return nil
	}
	if wait > 0 {
		c.marks.AddAfter(key, wait)
		return nil
	}
	patch, err := json.Marshal(unmarked(pod, c.clock.Now()))
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return ignoreNotFound(err)
}

// ignoreNotFound passes over the absence of an object.
func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
