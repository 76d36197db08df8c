package rest

import (
	"net/http"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// serveSubresource finds who serves a path below an object.
func (c *call) serveSubresource() error {
	sub := c.info.Subresource
	switch {
	case connects(sub) && slices.Contains(c.r.Others, sub):
		return c.connect()
	case sub == "status" && c.r.Kind.Status != nil:
	case sub == "scale" && c.r.Kind.Scale != nil:
	case slices.Contains(c.r.Others, sub):
	default:
		return notFoundPath()
	}
	var err error
	if c.out, err = c.r.negotiate(c.req); err != nil {
		return err
	}
	switch sub {
	case "status":
		return c.serveStatus()
	case "scale":
		return c.serveScale()
	}
	return c.serveOther()
}

// notSupported refuses a method that the path has not, in the words that clients have for it.
func (c *call) notSupported() error {
	return MethodNotAllowed()
}

func (c *call) serveStatus() error { return c.servePart(c.statusChange()) }

// servePart serves a path that changes a part of the object.
func (c *call) servePart(ch change) error {
	switch c.info.Verb {
	case "get":
		return c.get()
	case "update":
		return c.put(ch, false)
	case "patch":
		if isApply(c.req) {
			return c.applyBy(ch, false)
		}
		return c.patchBy(ch)
	}
	return c.notSupported()
}

var signingRequests = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "certificatesigningrequests"}

// approvalChange is the path by which alone a request for a certificate is approved or denied.
func (c *call) approvalChange() change {
	p := kinds.SigningRequestApproval()
	return change{prepare: p.PrepareUpdate, validate: p.ValidateUpdate, unconditional: c.r.UnconditionalUpdate, silent: true}
}

var pods = schema.GroupResource{Resource: "pods"}

// partChange is the path of a subresource that changes a part of the spec.
func partChange(p *kinds.Subresource) change {
	return change{prepare: p.PrepareUpdate, validate: p.ValidateUpdate, unconditional: true}
}

var scaleGVK = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

func (c *call) serveScale() error {
	switch c.info.Verb {
	case "get":
		o, err := c.lookup()
		if err != nil {
			return err
		}
		obj, err := c.r.convert(o.Object)
		if err != nil {
			return err
		}
		if err := c.scalable(obj); err != nil {
			return err
		}
		return c.respondFresh(http.StatusOK, scaleGVK, c.r.Kind.Scale.Get(obj))
	case "update":
		return c.putScale()
	case "patch":
		return c.patchScale()
	}
	return c.notSupported()
}

func (c *call) putScale() error {
	body, err := readBody(c.req)
	if err != nil {
		return err
	}
	if err := c.writeOptions("UpdateOptions", ""); err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{}
	if err := c.decodeObject(body, scaleGVK, scale); err != nil {
		return err
	}
	if err := c.matchPath(scale); err != nil {
		return err
	}
	return c.applyScale(func(*current) (*autoscalingv1.Scale, error) { return scale.DeepCopy(), nil })
}

func (c *call) patchScale() error {
	if isApply(c.req) {
		return c.applyScalePatch()
	}
	p, err := c.newPatcher()
	if err != nil {
		return err
	}
	p.gvk, p.defaults, p.parts = scaleGVK, nil, nil
	p.new = func() runtime.Object { return &autoscalingv1.Scale{} }
	return c.applyScale(func(cur *current) (*autoscalingv1.Scale, error) {
		old := c.r.Kind.Scale.Get(cur.obj)
		old.SetGroupVersionKind(scaleGVK)
		obj, err := p.apply(old, func() ([]byte, error) { return encodeJSON(old) })
		if err != nil {
			return nil, err
		}
		scale := obj.(*autoscalingv1.Scale)
		return scale, c.matchPath(scale)
	})
}

// applyScale writes the replicas of the Scale that wanted gives into the object.
func (c *call) applyScale(wanted func(*current) (*autoscalingv1.Scale, error)) error {
	ch := change{prepare: c.r.PrepareUpdate, validate: c.r.checkUpdate, unconditional: true, admitted: true}
	ch.make = func(cur *current) (runtime.Object, error) {
		scale, err := wanted(cur)
		if err != nil {
			return nil, err
		}
		if uid, have := scale.UID, accessor(cur.obj).GetUID(); uid != "" && uid != have {
			return nil, c.preconditionFailed(uid, have)
		}
		old := c.r.Kind.Scale.Get(cur.obj)
		if err := c.mutate(admission.Update, scale, old); err != nil {
			return nil, err
		}
		if errs := validateScale(scale); len(errs) > 0 {
			return nil, apierrors.NewInvalid(scaleGVK.GroupKind(), scale.Name, errs)
		}
		if err := c.validate(admission.Update, scale, old); err != nil {
			return nil, err
		}
		obj := cur.obj.DeepCopyObject()
		c.r.Kind.Scale.Set(obj, scale.Spec.Replicas)
		if err := c.trackScale(obj, cur.obj, scale); err != nil {
			return nil, err
		}
		accessor(obj).SetResourceVersion(scale.ResourceVersion)
		return obj, nil
	}
	raw, err := c.apply(ch)
	if err != nil {
		return err
	}
	obj, err := c.r.convert(raw)
	if err != nil {
		return err
	}
	return c.respondFresh(http.StatusOK, scaleGVK, c.r.Kind.Scale.Get(obj))
}

// scalable refuses objects that have no Scale.
func (c *call) scalable(obj runtime.Object) error {
	if check := c.r.Kind.Scale.Check; check != nil {
		return check(obj)
	}
	return nil
}

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	if s.Spec.Replicas < 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0")}
	}
	return nil
}

// serveOther serves the subresources that are actions on one kind.
func (c *call) serveOther() error {
	if c.r.gr == signingRequests && c.info.Subresource == "approval" {
		return c.servePart(c.approvalChange())
	}
	if c.r.gr == pods {
		switch c.info.Subresource {
		case "ephemeralcontainers":
			return c.servePart(partChange(kinds.PodEphemeralContainers()))
		case "resize":
			return c.servePart(partChange(kinds.PodResize()))
		}
	}
	action := map[string]func() error{
		"pods/binding":          c.bind,
		"pods/eviction":         c.evict,
		"namespaces/finalize":   c.finalize,
		"serviceaccounts/token": c.issueToken,
	}[c.r.gr.String()+"/"+c.info.Subresource]
	if action == nil {
		return notFoundPath()
	}
	want := "create"
	if c.info.Subresource == "finalize" {
		want = "update"
	}
	if c.info.Verb != want {
		return c.notSupported()
	}
	return action()
}
