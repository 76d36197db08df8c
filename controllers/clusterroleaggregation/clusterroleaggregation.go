// Package clusterroleaggregation gives each cluster role with an aggregationRule the rules of those that it selects.
package clusterroleaggregation

import (
	"cmp"
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Controller serves cluster roles.
type Controller struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
	loop   *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	informer := e.Informers.Rbac().V1().ClusterRoles()
	c := &Controller{client: e.Client, roles: informer.Lister()}
	c.loop = e.Loop(loop.Config{Name: "clusterroleaggregation", Sync: c.sync, Workers: 1})
	loop.On(c.loop, informer.Informer(), func(_, _ *rbacv1.ClusterRole) { c.wakeAll() })
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// wakeAll wakes every role that gathers others: the one that changed may be, or have been, part of any.
func (c *Controller) wakeAll() {
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return // a lister of an informer's store has none
	}
	for _, r := range all {
		if r.AggregationRule != nil {
			c.loop.Add(r.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	r, err := c.roles.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (r.AggregationRule == nil || r.DeletionTimestamp != nil) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	rules, err := gather(r, all)
	if err != nil || apiequality.Semantic.DeepEqual(rules, r.Rules) {
		return err
	}
	updated := r.DeepCopy()
	updated.Rules = rules
	_, err = c.client.RbacV1().ClusterRoles().Update(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// gather is what r is made of: the rules of all that one of its selectors selects, in the order of selectors and names, each once.
// A role is no part of itself.
func gather(r *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	all = slices.SortedFunc(slices.Values(all), func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, part := range all {
			if part.Name == r.Name || !selector.Matches(labels.Set(part.Labels)) {
				continue
			}
			for j := range part.Rules {
				known := func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, part.Rules[j]) }
				if !slices.ContainsFunc(rules, known) {
					rules = append(rules, part.Rules[j])
				}
			}
		}
	}
	return rules, nil
}
