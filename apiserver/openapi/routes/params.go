package routes

import (
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"
)

// GVK is a kind as the extension x-kubernetes-group-version-kind shows it.
func GVK(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// pathParams are the parameters of a path's placeholders, and the one that every operation takes.
func pathParams(path, kind string) []common.Parameter {
	out := []common.Parameter{parameter{
		name: "pretty", kind: common.QueryParameterKind, dataType: "string",
		text: "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
	}}
	for _, p := range []parameter{
		{name: "namespace", text: "object name and auth scope, such as for teams and projects"},
		{name: "name", text: "name of the " + kind},
		{name: "path", text: "path to the resource"},
	} {
		if strings.Contains(path, "{"+p.name+"}") {
			p.kind, p.required, p.dataType = common.PathParameterKind, true, "string"
			out = append(out, p)
		}
	}
	return out
}

// optionParams are the fields of an options type as query parameters, with the type's own documentation.
func optionParams(options any) []common.Parameter {
	doc := map[string]string{}
	if d, ok := options.(interface{ SwaggerDoc() map[string]string }); ok {
		doc = d.SwaggerDoc()
	} else if m := reflect.ValueOf(options).Elem().MethodByName("SwaggerDoc"); m.IsValid() {
		doc, _ = m.Call(nil)[0].Interface().(map[string]string)
	}
	var out []common.Parameter
	t := reflect.TypeOf(options).Elem()
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		dataType, multiple := dataTypeOf(f.Type)
		if f.Anonymous || name == "" || name == "-" || dataType == "" {
			continue
		}
		out = append(out, parameter{name: name, text: doc[name], kind: common.QueryParameterKind, dataType: dataType, multiple: multiple})
	}
	return out
}

// listOnly are the parameters of a list that choose objects: those a deletion of a collection takes.
func listOnly() []common.Parameter {
	var out []common.Parameter
	for _, p := range optionParams(&metav1.ListOptions{}) {
		if !slices.Contains([]string{"watch", "allowWatchBookmarks"}, p.Name()) {
			out = append(out, p)
		}
	}
	return out
}

func dataTypeOf(t reflect.Type) (name string, multiple bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean", false
	case reflect.String:
		return "string", false
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "integer", false
	case reflect.Slice:
		name, _ := dataTypeOf(t.Elem())
		return name, true
	case reflect.Struct:
		if t == reflect.TypeFor[metav1.Time]() {
			return "string", false
		}
	}
	return "", false
}
