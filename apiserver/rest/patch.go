package rest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	safepatch "github.com/coracle-dev/coracle/internal/jsonpatch"
)

// maxPatchOperations bounds a JSON patch; upstream's value.
const maxPatchOperations = 10000

// patchTypes are the media types of patches.
var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// patchTypes are those that the resource takes: what a strategic merge patch means, a Go type's tags tell.
func (r *resource) patchTypes() []string {
	if r.Dynamic == nil {
		return patchTypes
	}
	return slices.DeleteFunc(slices.Clone(patchTypes), func(t string) bool { return t == string(types.StrategicMergePatchType) })
}

// patcher applies one patch to objects of one kind.
type patcher struct {
	c    *call
	kind types.PatchType
	body []byte
	gvk  schema.GroupVersionKind
	new  func() runtime.Object
	// defaults fills in what the patched object leaves out; may be nil.
	defaults func(runtime.Object)
	parts    parts
}

// newPatcher reads a PATCH request.
func (c *call) newPatcher() (*patcher, error) {
	contentType, _, _ := strings.Cut(c.req.Header.Get("Content-Type"), ";")
	if types := c.r.patchTypes(); !slices.Contains(types, contentType) {
		return nil, unsupportedMediaType(types)
	}
	body, err := readBody(c.req)
	if err != nil {
		return nil, err
	}
	p := &patcher{c: c, kind: types.PatchType(contentType), body: body, gvk: c.r.GVK, new: c.r.New, defaults: c.r.Default, parts: c.r.parts}
	return p, c.writeOptions("PatchOptions", p.kind)
}

// patch answers a PATCH of the main resource.
func (c *call) patch() error {
	if isApply(c.req) {
		return c.applyBy(c.mainChange(), true)
	}
	return c.patchBy(c.mainChange())
}

// patchBy patches along one update path.
func (c *call) patchBy(ch change) error {
	p, err := c.newPatcher()
	if err != nil {
		return err
	}
	ch.make = func(cur *current) (runtime.Object, error) {
		obj, err := p.apply(cur.obj, cur.json)
		if err != nil {
			return nil, err
		}
		m := accessor(obj)
		if err := c.matchPath(m); err != nil {
			return nil, err
		}
		return obj, c.mutateUpdate(obj, cur.obj)
	}
	raw, err := c.apply(ch)
	if err != nil {
		return err
	}
	return c.respondStored(http.StatusOK, raw)
}

// apply gives the patched object. asJSON gives old's JSON, maybe memoised.
func (p *patcher) apply(old runtime.Object, asJSON func() ([]byte, error)) (runtime.Object, error) {
	obj, ok := p.applyPart(old)
	if !ok {
		var err error
		if obj, err = p.applyTo(old, asJSON); err != nil {
			return nil, err
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(p.gvk)
	if p.defaults != nil {
		p.defaults(obj)
	}
	return obj, nil
}

// applyPart patches only the fields that the patch names. What fails goes the whole way, whose errors show the
// whole object.
func (p *patcher) applyPart(old runtime.Object) (runtime.Object, bool) {
	if p.kind == types.JSONPatchType {
		return nil, false
	}
	fields, ok := p.parts.touched(p.body)
	if !ok {
		return nil, false
	}
	base := project(old, p.new(), fields)
	obj, err := p.applyTo(base, func() ([]byte, error) { return encodeJSON(base) })
	if err != nil {
		return nil, false
	}
	return graft(old, obj, fields), true
}

func (p *patcher) applyTo(old runtime.Object, asJSON func() ([]byte, error)) (runtime.Object, error) {
	if p.kind == types.StrategicMergePatchType {
		return p.strategic(old)
	}
	return p.onJSON(asJSON)
}

// onJSON applies the two patch types that know no schema.
func (p *patcher) onJSON(asJSON func() ([]byte, error)) (runtime.Object, error) {
	before, err := asJSON()
	if err != nil {
		return nil, err
	}
	after, strict, err := p.patchJSON(before)
	if err != nil {
		return nil, err
	}
	obj := p.new()
	found, err := p.c.decoding(typeJSON).decodeInto(after, p.gvk, obj)
	if err != nil {
		return nil, invalidPatch(string(after), err.Error())
	}
	if err := p.c.reportStrict(append(strict, found...)); err != nil {
		return nil, invalidPatch(string(after), err.Error())
	}
	return obj, nil
}

func (p *patcher) strict() bool { return p.c.fieldValidation != metav1.FieldValidationIgnore }

func invalidPatch(value, text string) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, text)})
}

// patchOp is the shape of a JSON patch's operation, to find unknown fields by.
type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

func (p *patcher) patchJSON(before []byte) (after []byte, strict []error, err error) {
	if p.kind == types.MergePatchType {
		return p.mergeJSON(before)
	}
	if p.strict() {
		var ops []patchOp
		if strict, err = kjson.UnmarshalStrict(p.body, &ops); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		for i, e := range strict {
			strict[i] = fmt.Errorf("json patch %w", e)
		}
	}
	ops, err := jsonpatch.DecodePatch(p.body)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(ops) > maxPatchOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(ops)))
	}
	if after, err = safepatch.Apply(ops, before); err != nil {
		return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return after, strict, nil
}

func (p *patcher) mergeJSON(before []byte) (after []byte, strict []error, err error) {
	if p.strict() {
		if strict, err = kjson.UnmarshalStrict(p.body, &map[string]any{}); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
	}
	after, err = jsonpatch.MergePatch(before, p.body)
	if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return after, strict, err
}

// strategic applies a strategic merge patch, whose list keys the Go types' tags tell.
func (p *patcher) strategic(old runtime.Object) (runtime.Object, error) {
	patch := map[string]any{}
	var strict []error
	var err error
	if p.strict() {
		strict, err = kjson.UnmarshalStrict(p.body, &patch)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.body, &patch)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	if err != nil {
		return nil, err
	}
	obj := p.new()
	after, err := strategicpatch.StrategicMergeMapPatch(before, patch, obj)
	if err != nil {
		return nil, strategicError(err)
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, obj, p.strict())
	if found, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = append(strict, found.Errors()...), nil
	}
	if err == nil {
		err = p.c.reportStrict(strict)
	}
	if err != nil {
		return nil, invalidPatch(fmt.Sprintf("%+v", patch), err.Error())
	}
	return obj, nil
}

func strategicError(err error) error {
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys),
		errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return apierrors.NewBadRequest(err.Error())
	case errors.Is(err, mergepatch.ErrNoListOfLists), errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys):
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return apierrors.NewBadRequest(err.Error()) // whatever it is, the patch is to blame: what it is applied to was stored
}
