package rest

import (
	"encoding/json"
	"reflect"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// parts knows a kind's top-level fields, so that a patch of one of them (labels, a status) costs no conversion of
// the others. It is empty for kinds that are not structs; those go the long way.
type parts map[string]int

func partsOf(obj runtime.Object) parts {
	p := parts{}
	t := reflect.TypeOf(obj)
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return p
	}
	t = t.Elem()
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && f.Name != "TypeMeta" && name != "" && name != "-" {
			p[name] = i
		}
	}
	return p
}

// touched lists the fields that a patch names. ok is false where it names anything else.
func (p parts) touched(patch []byte) (fields []int, ok bool) {
	var top map[string]json.RawMessage
	if json.Unmarshal(patch, &top) != nil {
		return nil, false
	}
	for name := range top {
		i, known := p[name]
		if !known {
			return nil, false
		}
		fields = append(fields, i)
	}
	return fields, true
}

// project gives an object that has only some fields of obj, and shares them with it.
func project(obj, empty runtime.Object, fields []int) runtime.Object {
	from, to := reflect.ValueOf(obj).Elem(), reflect.ValueOf(empty).Elem()
	for _, i := range fields {
		to.Field(i).Set(from.Field(i))
	}
	empty.GetObjectKind().SetGroupVersionKind(obj.GetObjectKind().GroupVersionKind())
	return empty
}

// graft gives a copy of obj in which some fields are those of patched.
func graft(obj, patched runtime.Object, fields []int) runtime.Object {
	// The fields to be replaced need not be copied.
	shell := reflect.New(reflect.TypeOf(obj).Elem())
	shell.Elem().Set(reflect.ValueOf(obj).Elem())
	for _, i := range fields {
		shell.Elem().Field(i).SetZero()
	}
	out := shell.Interface().(runtime.Object).DeepCopyObject()
	return project(patched, out, fields)
}

// specChanged tells whether anything but type, metadata and status differs.
func specChanged(obj, old runtime.Object) bool {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return contentChanged(u, old.(*unstructured.Unstructured))
	}
	a, b := reflect.ValueOf(obj), reflect.ValueOf(old)
	if a.Type() != b.Type() || a.Kind() != reflect.Pointer || a.Elem().Kind() != reflect.Struct {
		return !apiequality.Semantic.DeepEqual(obj, old)
	}
	a, b = a.Elem(), b.Elem()
	for i := range a.NumField() {
		switch a.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
			continue
		}
		if !sameBytes(a.Field(i), b.Field(i)) && !apiequality.Semantic.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			return true
		}
	}
	return false
}

// contentChanged compares all but the metadata: what of an object without Go type is its status, its kind has
// carried over from old where status is an update path of its own.
func contentChanged(obj, old *unstructured.Unstructured) bool {
	for name, value := range obj.Object {
		if name != "metadata" && !apiequality.Semantic.DeepEqual(value, old.Object[name]) {
			return true
		}
	}
	for name := range old.Object {
		if _, ok := obj.Object[name]; !ok && name != "metadata" {
			return true
		}
	}
	return false
}

// sameBytes compares two messages by their encoding, which is quick. False says nothing: equal values may be
// written differently.
func sameBytes(a, b reflect.Value) bool {
	am, ok := a.Addr().Interface().(message)
	if !ok {
		return false
	}
	bm, ok := b.Addr().Interface().(message)
	if !ok {
		return false
	}
	size := am.Size()
	if size != bm.Size() {
		return false
	}
	buf := make([]byte, 2*size)
	if _, err := am.MarshalToSizedBuffer(buf[:size]); err != nil {
		return false
	}
	if _, err := bm.MarshalToSizedBuffer(buf[size:]); err != nil {
		return false
	}
	return string(buf[:size]) == string(buf[size:])
}
