package rest

import (
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/cache"
)

var (
	budgetsGVR  = policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets")
	evictionGVK = policyv1.SchemeGroupVersion.WithKind("Eviction")
)

// maxDisrupted bounds the evictions that a budget's controller has not seen yet; upstream's value.
const maxDisrupted = 2000

// overBudget is the message of a refusal for the sake of a budget; the cause tells which and why.
const overBudget = "Cannot evict pod as it would violate the pod's disruption budget."

// evict answers pods/eviction: a deletion with the options of the eviction, if the pod's budget has room for it.
func (c *call) evict() error {
	e := &policyv1.Eviction{}
	if err := c.decodeAction(evictionGVK, e); err != nil {
		return err
	}
	if e.Name != "" && e.Name != c.info.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	opts := e.DeleteOptions
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	if len(opts.DryRun) > 0 {
		c.dryRun = true
	}
	if err := c.mutate(admission.Create, e, nil); err != nil {
		return err
	}
	if err := c.validate(admission.Create, e, nil); err != nil {
		return err
	}
	pod, err := c.pod()
	if err != nil {
		return err
	}
	if err := c.deletePreconditions(pod, opts); err != nil {
		return err
	}
	if !expendable(pod) {
		if err := c.spend(pod); err != nil {
			return err
		}
		if err := c.markEvicted(); err != nil {
			return err
		}
		if p := opts.Preconditions; p != nil {
			p.ResourceVersion = nil // it held a moment ago; the mark has changed it
		}
	}
	one, info := *c, *c.info
	info.Subresource = ""
	one.info, one.options, one.unasked = &info, opts, true // admission was asked about the eviction
	if _, err := one.remove(c.info.Name, opts); err != nil {
		return err
	}
	return c.respondStatus(http.StatusCreated, nil)
}

// expendable tells the pods whose end disrupts nothing: it has come already, or they never began.
func expendable(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// spend takes an eviction from the pod's budget, if it has one.
func (c *call) spend(pod *corev1.Pod) error {
	budgets, err := c.budgetsOf(pod)
	if err != nil || len(budgets) == 0 {
		return err
	}
	if len(budgets) > 1 {
		return statusError(http.StatusInternalServerError, metav1.StatusReasonInternalError,
			"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
	}
	if free(budgets[0], pod) {
		return nil
	}
	one, info := *c, *c.info
	info.APIGroup, info.Resource, info.Subresource, info.Name = policyv1.GroupName, budgetsGVR.Resource, "status", budgets[0].Name
	one.info, one.r, one.unasked = &info, c.find(budgetsGVR), true
	ch := one.statusChange()
	ch.unconditional, ch.admitted = true, true
	ch.make = func(cur *current) (runtime.Object, error) {
		b, ok := cur.obj.DeepCopyObject().(*policyv1.PodDisruptionBudget)
		if !ok {
			return nil, fmt.Errorf("unexpected object: %T", cur.obj)
		}
		return b, decrement(b, pod.Name, c.now())
	}
	_, err = one.apply(ch)
	if apierrors.IsNotFound(err) { // it went meanwhile
		return nil
	}
	return err
}

// budgetsOf are those that select the pod.
func (c *call) budgetsOf(pod *corev1.Pod) ([]*policyv1.PodDisruptionBudget, error) {
	r := c.find(budgetsGVR)
	if r == nil {
		return nil, nil
	}
	l, err := c.Cache.List(c.ctx(), r.storage, cache.ListOptions{Scope: r.scope(pod.Namespace), Consistent: true})
	if err != nil {
		return nil, readError(r.gr, "", 0, err)
	}
	var of []*policyv1.PodDisruptionBudget
	for _, o := range l.Objects {
		b, ok := o.Object.(*policyv1.PodDisruptionBudget)
		if !ok {
			return nil, fmt.Errorf("unexpected object: %T", o.Object)
		}
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && s.Matches(labels.Set(pod.Labels)) {
			of = append(of, b)
		}
	}
	return of, nil
}

// free tells whether a pod that is not ready may go without being counted.
func free(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			return false
		}
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// decrement takes one disruption from a budget and notes the pod.
func decrement(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) error {
	s := &b.Status
	forbidden := func(text string) error {
		return apierrors.NewForbidden(budgetsGVR.GroupResource(), b.Name, errors.New(text))
	}
	switch {
	case s.ObservedGeneration < b.Generation:
		return tooMany(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case s.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative")
	case len(s.DisruptedPods) > maxDisrupted:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case s.DisruptionsAllowed == 0:
		failed := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
		if s.CurrentHealthy > s.DesiredHealthy && failed != nil && failed.Status == metav1.ConditionFalse && failed.Reason == policyv1.SyncFailedReason {
			return tooMany(0, fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %v", b.Name, failed.Message))
		}
		return tooMany(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy))
	}
	if s.DisruptionsAllowed--; s.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
			Reason: policyv1.InsufficientPodsReason, ObservedGeneration: s.ObservedGeneration, LastTransitionTime: now})
	}
	if s.DisruptedPods == nil {
		s.DisruptedPods = map[string]metav1.Time{}
	}
	s.DisruptedPods[pod] = now
	return nil
}

func tooMany(retry int, cause string) error {
	err := apierrors.NewTooManyRequests(overBudget, retry)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

// markEvicted says in the pod's conditions why it ends.
func (c *call) markEvicted() error {
	one := *c
	one.unasked = true
	_, err := one.apply(change{unconditional: true, admitted: true, silent: true, make: func(cur *current) (runtime.Object, error) {
		pod, ok := cur.obj.DeepCopyObject().(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("unexpected object: %T", cur.obj)
		}
		setCondition(pod, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			LastTransitionTime: c.now(), ObservedGeneration: pod.Generation,
		})
		return pod, nil
	}})
	return err
}
