package rest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// isApply tells a server-side apply from the patches.
func isApply(req *http.Request) bool {
	contentType, _, _ := strings.Cut(req.Header.Get("Content-Type"), ";")
	return types.PatchType(contentType) == types.ApplyYAMLPatchType
}

// applied is what one manager wants of an object.
type applied struct {
	c       *call
	want    *unstructured.Unstructured
	manager string
	force   bool
}

// readApply reads the request.
func (c *call) readApply() (*applied, error) {
	body, err := readBody(c.req)
	if err != nil {
		return nil, err
	}
	if err := c.writeOptions("PatchOptions", types.ApplyPatchType); err != nil {
		return nil, err
	}
	want := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal(body, &want.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if c.fieldValidation != metav1.FieldValidationIgnore {
		if err := yaml.UnmarshalStrict(body, &map[string]any{}); err != nil {
			if err := c.reportStrict([]error{err}); err != nil {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
			}
		}
	}
	q := query{values: c.query()}
	force := q.bool("force")
	return &applied{c: c, want: want, manager: c.manager(), force: force != nil && *force}, nil
}

// to gives what the object is when it is as wanted, private to the call. old may be empty: the object is new.
func (a *applied) to(old runtime.Object) (runtime.Object, error) {
	fm, err := a.c.fieldManager()
	if err != nil {
		return nil, err
	}
	live := old.DeepCopyObject()
	live.GetObjectKind().SetGroupVersionKind(a.c.r.GVK)
	obj, err := fm.Apply(a.c.attributed(fm, live), a.want.DeepCopy(), a.manager, a.force)
	var status apierrors.APIStatus
	if err != nil && !errors.As(err, &status) { // the configuration does not fit its schema
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err != nil {
		return nil, err
	}
	if a.c.r.Default != nil {
		a.c.r.Default(obj)
	}
	return obj, nil
}

// applyBy answers a server-side apply along one update path.
func (c *call) applyBy(ch change, mayCreate bool) error {
	a, err := c.readApply()
	if err != nil {
		return err
	}
	ch.make = func(cur *current) (runtime.Object, error) {
		obj, err := a.to(cur.obj)
		if err != nil {
			return nil, err
		}
		m := accessor(obj)
		if err := c.matchPath(m); err != nil {
			return nil, err
		}
		return obj, c.admitUpdate(obj, cur.obj)
	}
	raw, err := c.apply(ch)
	if mayCreate && apierrors.IsNotFound(err) {
		return c.createByApply(a)
	}
	if err != nil {
		return err
	}
	return c.respondStored(http.StatusOK, raw)
}

// createByApply creates what an apply did not find, if the user may.
func (c *call) createByApply(a *applied) error {
	obj, err := a.to(c.r.New())
	if err != nil {
		return err
	}
	m := accessor(obj)
	if err := c.matchPath(m); err != nil {
		return err
	}
	if uid := m.GetUID(); uid != "" {
		return c.preconditionFailed(uid, "")
	}
	if err := c.mayCreate(); err != nil {
		return err
	}
	managed := m.GetManagedFields()
	wipeSystemFields(m)
	m.SetManagedFields(managed)
	m.SetResourceVersion("")
	if err := c.mutate(admission.Create, obj, nil); err != nil {
		return err
	}
	raw, err := c.insert(obj)
	if err != nil {
		return err
	}
	return c.respondStored(http.StatusCreated, raw)
}

// scaleResource stands for the Scale of any resource, which has no objects of its own.
var scaleResource = &resource{Kind: &kinds.Kind{GVK: scaleGVK, New: func() runtime.Object { return &autoscalingv1.Scale{} }}}

// scaleManager is the field manager of a Scale.
func (c *call) scaleManager() (*managedfields.FieldManager, error) {
	converter, err := c.converters.of(scaleResource)
	if err != nil {
		return nil, err
	}
	v := objectVersions{scaleResource}
	return managedfields.NewDefaultFieldManager(converter, v, v, v, scaleGVK, scaleGVK.GroupVersion(), "scale", nil)
}

// scaleFields translates what is said of an object's replicas into what is said of its Scale's, and back.
func (c *call) scaleFields(obj runtime.Object) *managedfields.ScaleHandler {
	gv := c.r.GVK.GroupVersion()
	return managedfields.NewScaleHandler(accessor(obj).GetManagedFields(), gv, managedfields.ResourcePathMappings{
		gv.String(): fieldpath.MakePathOrDie("spec", "replicas"),
	})
}

// scaleOf is the Scale of an object, with who manages its fields.
func (c *call) scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	scale := c.r.Kind.Scale.Get(obj)
	scale.SetGroupVersionKind(scaleGVK)
	managed, err := c.scaleFields(obj).ToSubresource()
	scale.ManagedFields = managed
	return scale, err
}

// applyScalePatch answers a server-side apply of a Scale.
func (c *call) applyScalePatch() error {
	a, err := c.readApply()
	if err != nil {
		return err
	}
	return c.applyScale(func(cur *current) (*autoscalingv1.Scale, error) {
		old, err := c.scaleOf(cur.obj)
		if err != nil {
			return nil, err
		}
		fm, err := c.scaleManager()
		if err != nil {
			return nil, err
		}
		obj, err := fm.Apply(old, a.want.DeepCopy(), a.manager, a.force)
		if err != nil {
			return nil, err
		}
		scale := obj.(*autoscalingv1.Scale)
		return scale, c.matchPath(scale)
	})
}

// trackScale says in obj who manages its replicas: as an apply of the Scale left it, or by this write.
func (c *call) trackScale(obj, old runtime.Object, scale *autoscalingv1.Scale) error {
	if !isApply(c.req) {
		if len(accessor(old).GetManagedFields()) == 0 {
			return nil
		}
		before, err := c.scaleOf(old)
		if err != nil {
			return err
		}
		fm, err := c.scaleManager()
		if err != nil {
			return err
		}
		now := before.DeepCopy()
		now.Spec.Replicas = scale.Spec.Replicas
		scale = fm.UpdateNoErrors(before, now, c.manager()).(*autoscalingv1.Scale)
	}
	managed, err := c.scaleFields(old).ToParent(scale.ManagedFields)
	if err == nil {
		accessor(obj).SetManagedFields(managed)
	}
	return err
}
