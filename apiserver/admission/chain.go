package admission

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Chain is the plug-ins in their order. It is a Plugin itself.
type Chain []Plugin

// Config is what New needs.
type Config struct {
	Reader Reader
	// Quotas are charged by it; nil leaves them uncharged.
	Quotas QuotaWriter
	// Authorizer tells who may approve and sign certificates; nil lets everyone.
	Authorizer authorizer.UnconditionalAuthorizer
	// Tolerations are how long pods stay on failing nodes; nil is DefaultTolerationSeconds.
	Tolerations *TolerationSeconds
}

// New is the chain that every write passes, in upstream's order.
func New(cfg Config) Chain {
	r, authz := cfg.Reader, cfg.Authorizer
	tolerations := DefaultTolerationSeconds
	if cfg.Tolerations != nil {
		tolerations = *cfg.Tolerations
	}
	chain := Chain{
		namespaceLifecycle{reader: r},
		limitRanger{reader: r},
		newServiceAccount(r),
		nodeRestriction{reader: r, authorizer: authz},
		taintNodesByCondition{},
		newPodSecurity(r),
		priority{reader: r},
		defaultTolerationSeconds{tolerations},
		defaultStorageClass{reader: r},
		storageInUseProtection{},
		claimResize{reader: r},
		runtimeClass{reader: r},
		certificateApproval{signers{authz}},
		certificateSigning{signers{authz}},
		certificateSubjectRestriction{},
		defaultIngressClass{reader: r},
		podResize{reader: r},
	}
	if cfg.Quotas != nil {
		chain = append(chain, newResourceQuota(r, cfg.Quotas))
	}
	return chain
}

// Name implements Plugin.
func (c Chain) Name() string { return "Chain" }

// With is the chain with plug-ins that the cluster's users define: policies and webhooks. They come behind those that are
// built in, but for the quota, which is charged for nothing that somebody still refuses.
func (c Chain) With(defined ...Plugin) Chain {
	at := len(c)
	if at > 0 {
		if _, last := c[at-1].(resourceQuota); last {
			at--
		}
	}
	return slices.Concat(c[:at], defined, c[at:])
}

// Mutate runs every plug-in's until one refuses, and once more where one asked for it.
func (c Chain) Mutate(ctx context.Context, r *Request) error {
	if err := c.mutate(ctx, r); err != nil || !r.reconsidered {
		return err
	}
	r.Again = true
	return c.mutate(ctx, r)
}

func (c Chain) mutate(ctx context.Context, r *Request) error {
	for _, p := range c {
		if err := p.Mutate(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// Validate runs every plug-in's until one refuses.
func (c Chain) Validate(ctx context.Context, r *Request) error {
	for _, p := range c {
		if err := p.Validate(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// is tells whether the request is about a resource's main path (sub empty) or one of its subresources.
func (r *Request) is(group, resource, sub string) bool {
	return r.Resource.Group == group && r.Resource.Resource == resource && r.Subresource == sub
}

// forbid refuses the request with upstream's wording: a name that is still to be generated shows as its base.
func (r *Request) forbid(reason error) error {
	if apierrors.IsForbidden(reason) {
		return reason
	}
	name := r.Name
	if name == "" {
		name = "Unknown"
		if m, err := meta.Accessor(r.Object); err == nil {
			switch {
			case m.GetName() != "":
				name = m.GetName()
			case m.GetGenerateName() != "":
				name = m.GetGenerateName()
			}
		}
	}
	return apierrors.NewForbidden(r.Resource.GroupResource(), name, reason)
}

// get reads an object of a known type.
func get[T any](ctx context.Context, r Reader, gr schema.GroupResource, namespace, name string) (T, error) {
	var zero T
	obj, err := r.Get(ctx, gr, namespace, name)
	if err != nil {
		return zero, err
	}
	typed, ok := any(obj).(T)
	if !ok {
		return zero, apierrors.NewInternalError(fmt.Errorf("%s are %T here", gr, obj))
	}
	return typed, nil
}

// list reads the objects of a namespace, all of a known type; empty is all namespaces.
func list[T any](ctx context.Context, r Reader, gr schema.GroupResource, namespace string) ([]T, error) {
	objs, _, err := r.List(ctx, gr, namespace)
	if err != nil || len(objs) == 0 {
		return nil, err
	}
	typed := make([]T, 0, len(objs))
	for _, obj := range objs {
		t, ok := any(obj).(T)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("%s are %T here", gr, obj))
		}
		typed = append(typed, t)
	}
	return typed, nil
}

// warn sends the client a warning, where there is one to hear it.
func (r *Request) warn(text string) {
	if r.Warn != nil {
		r.Warn(text)
	}
}
