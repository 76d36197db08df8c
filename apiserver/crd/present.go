package crd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// columns are a version's table columns behind the name.
type columns struct {
	headers []metav1.TableColumnDefinition
	paths   []*jsonpath.JSONPath
}

// ageColumn is shown where a version names no columns.
var ageColumn = apiextensionsv1.CustomResourceColumnDefinition{
	Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], JSONPath: ".metadata.creationTimestamp",
}

func (v *versionSchema) columns() columns {
	defs := v.AdditionalPrinterColumns
	if len(defs) == 0 {
		defs = []apiextensionsv1.CustomResourceColumnDefinition{ageColumn}
	}
	c := columns{headers: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	}}
	for _, d := range defs {
		path := jsonpath.New(d.Name)
		path.AllowMissingKeys(true)
		if err := path.Parse("{" + d.JSONPath + "}"); err != nil {
			continue // validation refuses such a path
		}
		description := d.Description
		if description == "" {
			description = "Custom resource definition column (in JSONPath format): " + d.JSONPath
		}
		c.paths = append(c.paths, path)
		c.headers = append(c.headers, metav1.TableColumnDefinition{
			Name: d.Name, Type: d.Type, Format: d.Format, Description: description, Priority: d.Priority,
		})
	}
	return c
}

func (c columns) cells(obj runtime.Object, now metav1.Time) []any {
	u := obj.(*unstructured.Unstructured)
	row := []any{u.GetName()}
	for i, path := range c.paths {
		row = append(row, cell(c.headers[i+1].Type, path, u.Object, now))
	}
	return row
}

// cell is the first value at a path, in the column's type; nil where there is none of that type.
func cell(typ string, path *jsonpath.JSONPath, content map[string]any, now metav1.Time) any {
	results, err := path.FindResults(content)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface()
	if typ == "string" {
		var b bytes.Buffer
		if err := path.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)}); err != nil {
			return nil
		}
		return b.String()
	}
	return typed(typ, value, now)
}

func typed(typ string, value any, now metav1.Time) any {
	switch typ {
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if text, ok := value.(string); ok {
			return age(text, now)
		}
	}
	return nil
}

func age(text string, now metav1.Time) string {
	var t metav1.Time
	if err := t.UnmarshalQueryParameter(text); err != nil {
		return "<invalid>"
	}
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// selectable is a field that selectors may ask for.
type selectable struct {
	name string
	path *jsonpath.JSONPath
}

func newSelectable(path string) selectable {
	s := selectable{name: strings.TrimPrefix(path, ".")}
	p := jsonpath.New("selectableField")
	p.AllowMissingKeys(true)
	if p.Parse("{"+path+"}") == nil {
		s.path = p
	}
	return s
}

// value is the field's as selectors see it; empty where it is absent.
func (s selectable) value(content map[string]any) string {
	if s.path == nil {
		return ""
	}
	results, err := s.path.FindResults(content)
	if err != nil || len(results) != 1 || len(results[0]) != 1 {
		return ""
	}
	if v := results[0][0].Interface(); v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

// scaleKind maps objects to autoscaling/v1 Scale by the paths of the definition.
func scaleKind(s *scaleOf) *kinds.Scale {
	if s == nil {
		return nil
	}
	return &kinds.Scale{
		Get: func(obj runtime.Object) *autoscalingv1.Scale {
			scale, _, _ := readScale(obj.(*unstructured.Unstructured), s)
			return scale
		},
		Set: func(obj runtime.Object, replicas int32) {
			// It fails where something on the path is no object; then validation says so.
			_ = unstructured.SetNestedField(obj.(*unstructured.Unstructured).Object, int64(replicas), fieldsOf(s.SpecReplicasPath)...)
		},
		Check: func(obj runtime.Object) error {
			_, found, err := readScale(obj.(*unstructured.Unstructured), s)
			if err == nil && !found {
				err = apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", s.SpecReplicasPath))
			}
			return err
		},
	}
}

// readScale gives an object's Scale, and whether the object says how many replicas it wants.
func readScale(u *unstructured.Unstructured, s *scaleOf) (scale *autoscalingv1.Scale, found bool, err error) {
	scale = &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{
		Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(),
		ResourceVersion: u.GetResourceVersion(), CreationTimestamp: u.GetCreationTimestamp(),
	}}
	wanted, found, err := unstructured.NestedInt64(u.Object, fieldsOf(s.SpecReplicasPath)...)
	if err != nil {
		return scale, false, err
	}
	have, _, err := unstructured.NestedInt64(u.Object, fieldsOf(s.StatusReplicasPath)...)
	if err != nil {
		return scale, false, err
	}
	scale.Spec.Replicas, scale.Status.Replicas = int32(wanted), int32(have)
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		scale.Status.Selector, _, err = unstructured.NestedString(u.Object, fieldsOf(*s.LabelSelectorPath)...)
	}
	return scale, found, err
}
