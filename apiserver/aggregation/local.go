package aggregation

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coracle-dev/coracle/apiserver/discovery"
)

// managedLabel marks the APIServices that are kept here: those of groups that are always served are made when the server starts,
// the others as long as their group is served.
const (
	managedLabel   = "kube-aggregator.kubernetes.io/automanaged"
	managedOnStart = "onstart"
	managed        = "true"
)

// priority is where a group stands among the others, and a version in its group.
type priority struct{ group, version int32 }

// priorities are upstream's.
var priorities = map[schema.GroupVersion]priority{
	{Version: "v1"}:                                        {18000, 1},
	{Group: "events.k8s.io", Version: "v1"}:                {17750, 15},
	{Group: "apps", Version: "v1"}:                         {17800, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:        {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:         {17600, 15},
	{Group: "autoscaling", Version: "v1"}:                  {17500, 15},
	{Group: "autoscaling", Version: "v2"}:                  {17500, 30},
	{Group: "batch", Version: "v1"}:                        {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:          {17300, 15},
	{Group: "networking.k8s.io", Version: "v1"}:            {17200, 15},
	{Group: "policy", Version: "v1"}:                       {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:    {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:               {16800, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:         {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}: {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:            {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:          {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                  {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:             {16200, 15},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: {16100, 21},
	{Group: "resource.k8s.io", Version: "v1"}:              {15900, 21},
	{Group: replaceable, Version: "v1beta1"}:               {100, 100},
}

// replaceable is a group that an add-on may serve in this server's place: once its APIService is there, it is the users'.
const replaceable = "metrics.k8s.io"

func name(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

// writers is how many APIServices are written at the same time: the store joins concurrent writes.
const writers = 16

// Register makes the APIServices of the groups that this server always serves. Calls behind the first that succeeded do nothing:
// what a user then deletes stays away until the server starts again.
func (c *Controller) Register(ctx context.Context) error {
	if c.registered {
		return nil
	}
	have, err := c.services(ctx)
	if err != nil {
		return err
	}
	static, _ := c.Discovery.Versions()
	g, writes := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, gv := range static {
		if gv.Group == apiregistrationv1.GroupName { // it serves itself
			continue
		}
		p, known := priorities[gv]
		if !known {
			p = priority{15000, 15}
		}
		label := managedOnStart
		if gv.Group == replaceable {
			label = ""
		}
		g.Go(func() error { return c.keepOne(writes, have[name(gv)], gv, p, label) })
	}
	err = g.Wait()
	c.registered = err == nil
	return err
}

// keepLocal makes the APIServices of groups that definitions define, and deletes those of definitions that have gone.
func (c *Controller) keepLocal(ctx context.Context, have map[string]*apiregistrationv1.APIService) error {
	_, dynamic := c.Discovery.Versions()
	if c.looked && slices.Equal(dynamic, c.local) {
		return nil
	}
	var errs []error
	wanted := map[string]bool{}
	for _, gv := range dynamic {
		wanted[name(gv)] = true
		p := priority{discovery.DefinedGroupPriority, discovery.DefinedVersionPriority}
		errs = append(errs, c.keepOne(ctx, have[name(gv)], gv, p, managed))
	}
	for _, s := range have {
		if s.Labels[managedLabel] == managed && !wanted[s.Name] {
			err := c.Client.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
			errs = append(errs, ignoreRaces(err))
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		c.looked, c.local = true, dynamic
	}
	return err
}

// keepOne makes one APIService. One that somebody else made, or that has no label to be kept by, stays as it is.
func (c *Controller) keepOne(ctx context.Context, have *apiregistrationv1.APIService, gv schema.GroupVersion, p priority, label string) error {
	spec := apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version}
	if have == nil {
		made := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name(gv)}, Spec: spec}
		if label != "" {
			made.Labels = map[string]string{managedLabel: label}
		}
		_, err := c.Client.Create(ctx, made, metav1.CreateOptions{})
		return ignoreRaces(err)
	}
	s := &have.Spec
	same := s.Service == nil && s.GroupPriorityMinimum == p.group && s.VersionPriority == p.version
	if label == "" || have.Labels[managedLabel] != label || same {
		return nil
	}
	next := have.DeepCopy()
	next.Spec = spec
	_, err := c.Client.Update(ctx, next, metav1.UpdateOptions{})
	return ignoreRaces(err)
}

// ignoreRaces forgives that another server was there first: the objects are looked at again.
func ignoreRaces(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
