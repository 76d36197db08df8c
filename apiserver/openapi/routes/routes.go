// Package routes derives from the table of kinds which operations the API has, in the form that kube-openapi's
// builders take. It is used when the documents are generated, never in the server.
package routes

import (
	"net/http"
	"slices"
	"strings"
	"unicode"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// The media types of bodies.
var (
	anything = []string{"*/*"}
	objects  = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	streams  = append(slices.Clone(objects), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	patches  = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"}
)

// Container holds the operations of one group and version.
type Container struct {
	// Key is its name in the index of the documents: "api/v1", "apis/apps/v1".
	Key    string
	routes []common.Route
}

// RootPath implements common.RouteContainer: paths are whole.
func (c *Container) RootPath() string { return "/" + c.Key }

// PathParameters implements common.RouteContainer.
func (c *Container) PathParameters() []common.Parameter { return nil }

// Routes implements common.RouteContainer.
func (c *Container) Routes() []common.Route { return c.routes }

// Build makes one container for each group and version of the table, sorted by Key.
func Build(all []kinds.Kind) []*Container {
	byKey := map[string]*Container{}
	for i := range all {
		gv := all[i].GVK.GroupVersion()
		key := Key(gv)
		if byKey[key] == nil {
			byKey[key] = &Container{Key: key}
		}
		b := builder{c: byKey[key], kind: &all[i], gv: gv}
		b.all()
	}
	var out []*Container
	for _, c := range byKey {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Container) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Key is the path of a group and version without its first slash.
func Key(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// builder adds one kind's operations.
type builder struct {
	c    *Container
	kind *kinds.Kind
	gv   schema.GroupVersion
}

// operation is what differs between operations.
type operation struct {
	method   string
	path     string
	verb     string // the start of the operation's name: "read", "list"
	action   string // x-kubernetes-action
	name     string // the rest of its name, without Namespaced and the kind
	prefix   string // what stands between verb and Namespaced: "Collection"
	wide     bool   // across namespaces
	text     string
	gvk      schema.GroupVersionKind
	params   []common.Parameter
	consumes []string
	produces []string
	body     any
	result   any
	codes    []int
}

func (b *builder) serves(verb string) bool {
	return len(b.kind.Verbs) == 0 || slices.Contains(b.kind.Verbs, verb)
}

func (b *builder) all() {
	collection := "/" + b.c.Key + "/" + b.kind.Resource
	if b.kind.Namespaced {
		collection = "/" + b.c.Key + "/namespaces/{namespace}/" + b.kind.Resource
	}
	b.collection(collection)
	item := collection + "/{name}"
	b.item(item)
	if b.kind.Status != nil {
		b.part(item+"/status", "Status", "status of ", b.kind.New(), b.kind.GVK)
	}
	if b.kind.Scale != nil {
		b.part(item+"/scale", "Scale", "scale of ", &autoscalingv1.Scale{}, autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	}
	for _, sub := range b.kind.Others {
		b.other(item+"/"+sub, sub)
	}
}

func (b *builder) collection(path string) {
	obj, list := b.kind.New(), any(nil)
	if b.kind.NewList != nil {
		list = b.kind.NewList()
	}
	kind := b.kind.GVK.Kind
	if b.serves("list") {
		op := operation{method: http.MethodGet, path: path, verb: "list", action: "list", text: "list or watch objects of kind " + kind,
			params: optionParams(&metav1.ListOptions{}), produces: streams, result: list, codes: []int{http.StatusOK}}
		b.add(op)
		if b.kind.Namespaced {
			op.path, op.name, op.wide = "/"+b.c.Key+"/"+b.kind.Resource, "ForAllNamespaces", true
			b.add(op)
		}
	}
	if b.serves("create") {
		b.add(operation{method: http.MethodPost, path: path, verb: "create", action: "post", text: "create " + article(kind),
			params: optionParams(&metav1.CreateOptions{}), consumes: anything, produces: objects, body: obj, result: obj, codes: created})
	}
	if b.serves("deletecollection") {
		b.add(operation{method: http.MethodDelete, path: path, verb: "delete", action: "deletecollection", prefix: "Collection", text: "delete collection of " + kind,
			params: append(optionParams(&metav1.DeleteOptions{}), listOnly()...), consumes: anything, produces: objects,
			body: &metav1.DeleteOptions{}, result: &metav1.Status{}, codes: []int{http.StatusOK}})
	}
}

var (
	created = []int{http.StatusOK, http.StatusCreated, http.StatusAccepted}
	updated = []int{http.StatusOK, http.StatusCreated}
	deleted = []int{http.StatusOK, http.StatusAccepted}
)

// returnsDeleted are the kinds whose deletion answers with the object, as upstream.
var returnsDeleted = []string{"Pod", "Service", "ServiceAccount", "PersistentVolume", "PersistentVolumeClaim", "PodTemplate", "ResourceQuota"}

func (b *builder) item(path string) {
	obj, kind := b.kind.New(), b.kind.GVK.Kind
	if b.serves("get") {
		b.add(operation{method: http.MethodGet, path: path, verb: "read", action: "get", text: "read the specified " + kind, produces: objects, result: obj, codes: []int{http.StatusOK}})
	}
	if b.serves("update") {
		b.add(operation{method: http.MethodPut, path: path, verb: "replace", action: "put", text: "replace the specified " + kind,
			params: optionParams(&metav1.UpdateOptions{}), consumes: anything, produces: objects, body: obj, result: obj, codes: updated})
	}
	if b.serves("patch") {
		b.add(operation{method: http.MethodPatch, path: path, verb: "patch", action: "patch", text: "partially update the specified " + kind,
			params: optionParams(&metav1.PatchOptions{}), consumes: patches, produces: objects, body: &metav1.Patch{}, result: obj, codes: updated})
	}
	if b.serves("delete") {
		result := any(&metav1.Status{})
		if b.gv.Group == "" && slices.Contains(returnsDeleted, kind) {
			result = obj
		}
		b.add(operation{method: http.MethodDelete, path: path, verb: "delete", action: "delete", text: "delete " + article(kind),
			params: optionParams(&metav1.DeleteOptions{}), consumes: anything, produces: objects, body: &metav1.DeleteOptions{}, result: result, codes: deleted})
	}
}

// part adds the three operations of a subresource that is a view of the object.
func (b *builder) part(path, name, of string, obj any, gvk schema.GroupVersionKind) {
	kind := b.kind.GVK.Kind
	b.add(operation{method: http.MethodGet, path: path, verb: "read", action: "get", name: name, gvk: gvk, text: "read " + of + "the specified " + kind, produces: objects, result: obj, codes: []int{http.StatusOK}})
	b.add(operation{method: http.MethodPut, path: path, verb: "replace", action: "put", name: name, gvk: gvk, text: "replace " + of + "the specified " + kind,
		params: optionParams(&metav1.UpdateOptions{}), consumes: anything, produces: objects, body: obj, result: obj, codes: updated})
	b.add(operation{method: http.MethodPatch, path: path, verb: "patch", action: "patch", name: name, gvk: gvk, text: "partially update " + of + "the specified " + kind,
		params: optionParams(&metav1.PatchOptions{}), consumes: patches, produces: objects, body: &metav1.Patch{}, result: obj, codes: updated})
}

// other adds a subresource with a handler of its own.
func (b *builder) other(path, sub string) {
	core := corev1.SchemeGroupVersion.WithKind
	switch sub {
	case "binding":
		b.ask(path, sub, &corev1.Binding{}, core("Binding"))
	case "eviction":
		b.ask(path, sub, &policyv1.Eviction{}, policyv1.SchemeGroupVersion.WithKind("Eviction"))
	case "token":
		b.ask(path, sub, &authenticationv1.TokenRequest{}, authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"))
	case "finalize":
		obj := b.kind.New()
		b.add(operation{method: http.MethodPut, path: path, verb: "replace", action: "put", name: "Finalize", text: "replace finalize of the specified " + b.kind.GVK.Kind,
			params: optionParams(&metav1.UpdateOptions{}), consumes: anything, produces: objects, body: obj, result: obj, codes: updated})
	case "log":
		b.add(operation{method: http.MethodGet, path: path, verb: "read", action: "get", name: "Log", text: "read log of the specified Pod",
			params: optionParams(&corev1.PodLogOptions{}), produces: append([]string{"text/plain"}, objects...), result: "", codes: []int{http.StatusOK}})
	case "exec":
		b.connect(path, "Exec", &corev1.PodExecOptions{}, core("PodExecOptions"), http.MethodGet, http.MethodPost)
	case "attach":
		b.connect(path, "Attach", &corev1.PodAttachOptions{}, core("PodAttachOptions"), http.MethodGet, http.MethodPost)
	case "portforward":
		b.connect(path, "Portforward", &corev1.PodPortForwardOptions{}, core("PodPortForwardOptions"), http.MethodGet, http.MethodPost)
	case "proxy":
		b.proxy(path)
	case "approval", "ephemeralcontainers", "resize":
		b.part(path, title(sub), sub+" of ", b.kind.New(), b.kind.GVK)
	}
}

// ask adds a subresource that is a creation of another kind.
func (b *builder) ask(path, sub string, obj any, gvk schema.GroupVersionKind) {
	b.add(operation{method: http.MethodPost, path: path, verb: "create", action: "post", name: title(sub), gvk: gvk, text: "create " + sub + " of " + article(b.kind.GVK.Kind),
		params: optionParams(&metav1.CreateOptions{}), consumes: anything, produces: objects, body: obj, result: obj, codes: created})
}

func (b *builder) connect(path, name string, options any, gvk schema.GroupVersionKind, methods ...string) {
	for _, method := range methods {
		b.add(operation{method: method, path: path, verb: "connect", prefix: title(strings.ToLower(method)), action: "connect", name: name, gvk: gvk,
			text: "connect " + method + " requests to " + strings.ToLower(name) + " of " + b.kind.GVK.Kind, params: optionParams(options), produces: anything, result: "", codes: []int{http.StatusOK}})
	}
}

func (b *builder) proxy(path string) {
	options := map[string]any{"Node": &corev1.NodeProxyOptions{}, "Pod": &corev1.PodProxyOptions{}, "Service": &corev1.ServiceProxyOptions{}}[b.kind.GVK.Kind]
	gvk := corev1.SchemeGroupVersion.WithKind(b.kind.GVK.Kind + "ProxyOptions")
	methods := []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodPatch, http.MethodOptions}
	b.connect(path, "Proxy", options, gvk, methods...)
	b.connect(path+"/{path}", "ProxyWithPath", options, gvk, methods...)
}

func (b *builder) add(op operation) {
	if op.gvk.Empty() {
		op.gvk = b.kind.GVK
	}
	name := op.verb + OperationPrefix(b.gv) + op.prefix
	if b.kind.Namespaced && !op.wide {
		name += "Namespaced"
	}
	name += b.kind.GVK.Kind + op.name
	b.c.routes = append(b.c.routes, &route{operation: op, id: name, params: append(pathParams(op.path, b.kind.GVK.Kind), op.params...)})
}

// OperationPrefix is a group and version within an operation's name: CoreV1, AppsV1, RbacAuthorizationV1.
func OperationPrefix(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "Core" + title(gv.Version)
	}
	var out strings.Builder
	for _, part := range strings.Split(strings.TrimSuffix(gv.Group, ".k8s.io"), ".") {
		out.WriteString(title(part))
	}
	return out.String() + title(gv.Version)
}

func title(s string) string {
	if s == "" {
		return s
	}
	return string(unicode.ToUpper(rune(s[0]))) + s[1:]
}

func article(kind string) string {
	if strings.ContainsRune("AEIOU", rune(kind[0])) {
		return "an " + kind
	}
	return "a " + kind
}
