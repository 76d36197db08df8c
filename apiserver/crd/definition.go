package crd

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// definition is a CustomResourceDefinition as it is served: one versionSchema for each of its versions.
type definition struct {
	crd      *apiextensionsv1.CustomResourceDefinition
	key      string // of the definition that the schemas were made from
	epoch    string // its generation
	storage  string // the version that objects are written in
	versions map[string]*versionSchema
	convert  converter
	// shared is the one of all definitions that follow each other under one UID.
	shared *shared
}

// shared outlives changes of a definition: what the cache holds of its objects looks here for the one in force.
type shared struct{ now atomic.Pointer[definition] }

// keyOf identifies what objects look like by a definition: by its spec, and by the names that it was given.
func keyOf(crd *apiextensionsv1.CustomResourceDefinition) string {
	names := crd.Status.AcceptedNames
	return fmt.Sprintf("%s/%d/%s,%s,%s,%s,%s,%s", crd.UID, crd.Generation,
		names.Plural, names.Singular, names.Kind, names.ListKind, strings.Join(names.ShortNames, " "), strings.Join(names.Categories, " "))
}

// follows gives the definition that crd makes of d: d itself where they are served alike, and nil where its objects look
// different. The generation alone does not tell: a deletion raises it.
func (d *definition) follows(crd *apiextensionsv1.CustomResourceDefinition) *definition {
	old := d.crd
	if crd.Generation != old.Generation && !apiequality.Semantic.DeepEqual(crd.Spec, old.Spec) ||
		!apiequality.Semantic.DeepEqual(crd.Status.AcceptedNames, old.Status.AcceptedNames) {
		return nil
	}
	if (crd.DeletionTimestamp == nil) == (old.DeletionTimestamp == nil) {
		return d
	}
	next := *d
	next.crd = crd
	next.shared.now.Store(&next)
	return &next
}

// typing gives the schema that server-side apply merges by.
type typing func(d *definition, v *versionSchema) (managedfields.TypeConverter, error)

func newDefinition(crd *apiextensionsv1.CustomResourceDefinition, s *shared, hooks *webhooks, types typing) *definition {
	d := &definition{crd: crd, key: keyOf(crd), epoch: strconv.FormatInt(crd.Generation, 10), versions: map[string]*versionSchema{}, shared: s}
	for i := range crd.Spec.Versions {
		v := newVersionSchema(crd, i)
		d.versions[v.Name] = v
		if v.Storage {
			d.storage = v.Name
		}
	}
	d.convert = converterOf(crd, hooks)
	for _, v := range d.versions {
		v.typed = sync.OnceValues(func() (managedfields.TypeConverter, error) {
			if types == nil {
				return managedfields.NewDeducedTypeConverter(), nil
			}
			return types(d, v)
		})
	}
	s.now.Store(d)
	return d
}

// groupResource names the objects in the cache.
func (d *definition) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: d.crd.Spec.Group, Resource: d.crd.Spec.Names.Plural}
}

// kinds are the entries to serve: one that stands for what is stored, and one for each version that is served.
func (d *definition) kinds() []kinds.Kind {
	all := []kinds.Kind{d.storedKind()}
	for i := range d.crd.Spec.Versions {
		if v := d.versions[d.crd.Spec.Versions[i].Name]; v.Served {
			all = append(all, d.servedKind(v))
		}
	}
	return all
}

func (d *definition) entry(version string) kinds.Kind {
	names := d.crd.Status.AcceptedNames
	gvk := schema.GroupVersionKind{Group: d.crd.Spec.Group, Version: version, Kind: names.Kind}
	return kinds.Kind{
		GVK:        gvk,
		Resource:   names.Plural,
		Singular:   names.Singular,
		ShortNames: names.ShortNames,
		Categories: names.Categories,
		Namespaced: d.crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		Prefix:     d.crd.Spec.Group + "/" + names.Plural,
		New: func() runtime.Object {
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetGroupVersionKind(gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{Object: map[string]any{}}
			l.SetGroupVersionKind(gvk.GroupVersion().WithKind(names.ListKind))
			return l
		},
		Dynamic: &kinds.Dynamic{
			Schema: d.key, StorageVersion: d.storage, Terminating: d.crd.DeletionTimestamp != nil,
		},
	}
}

func (d *definition) storedKind() kinds.Kind {
	k := d.entry(d.storage)
	k.Dynamic.Stored = true
	s := d.shared
	k.Dynamic.LateField = func(obj runtime.Object, label string) string { return s.now.Load().lateField(obj, label) }
	return k
}

func (d *definition) servedKind(v *versionSchema) kinds.Kind {
	k := d.entry(v.Name)
	k.FromStorage = func(obj runtime.Object) (runtime.Object, error) {
		return d.fromStorage(v, obj.(*unstructured.Unstructured))
	}
	if asks(d.crd) {
		k.Dynamic.FromStorageAll = func(stored []runtime.Object) ([]runtime.Object, error) { return d.fromStorageAll(v, stored) }
	}
	k.ToStorage = func(obj runtime.Object) (runtime.Object, error) { return d.toStorage(obj.(*unstructured.Unstructured)) }
	k.Default = func(obj runtime.Object) { v.fill(obj.(*unstructured.Unstructured)) }
	k.Validate = func(obj runtime.Object) field.ErrorList { return v.validate(obj.(*unstructured.Unstructured)) }
	k.ValidateUpdate = func(obj, old runtime.Object) field.ErrorList {
		return v.validateUpdate(obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
	}
	k.Warnings = func(obj, old runtime.Object) []string {
		was, _ := old.(*unstructured.Unstructured)
		return finalizerWarnings(obj.(*unstructured.Unstructured), was)
	}
	if v.hasStatus() {
		k.PrepareCreate = func(obj runtime.Object) { delete(obj.(*unstructured.Unstructured).Object, "status") }
		k.PrepareUpdate = keepStatus
		k.Status = &kinds.Subresource{
			PrepareUpdate: takeStatus,
			ValidateUpdate: func(obj, old runtime.Object) field.ErrorList {
				return v.validateStatus(obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
			},
		}
	}
	k.Scale = scaleKind(v.scale())
	c := v.columns()
	k.Columns = c.headers
	k.Cells = func(obj runtime.Object, now metav1.Time) []any { return c.cells(obj, now) }
	for _, f := range v.fields {
		if k.FieldNames == nil {
			k.FieldNames = map[string]string{}
		}
		k.FieldNames[f.name] = d.lateLabel(v, f)
	}
	k.Dynamic.Warning = v.deprecation(d.crd)
	k.Dynamic.Coerce = func(obj runtime.Object, track bool) ([]string, error) {
		return v.coerce(obj.(*unstructured.Unstructured), shaping{track: track})
	}
	k.Dynamic.TypeConverter = v.typed
	if k.Dynamic.Terminating {
		k.Verbs = []string{"delete", "deletecollection", "get", "list", "watch"}
	}
	return k
}

// keepStatus carries over the status that an update of the object itself must not change.
func keepStatus(obj, old runtime.Object) {
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	if status, ok := was.Object["status"]; ok {
		u.Object["status"] = runtime.DeepCopyJSONValue(status)
	} else {
		delete(u.Object, "status")
	}
}

// takeStatus leaves of an update only the status.
func takeStatus(obj, old runtime.Object) {
	u := obj.(*unstructured.Unstructured)
	status, ok := u.Object["status"]
	managed := u.GetManagedFields()
	u.Object = old.(*unstructured.Unstructured).DeepCopy().Object
	u.SetManagedFields(managed)
	if ok {
		u.Object["status"] = status
	} else {
		delete(u.Object, "status")
	}
}

// lateLabel is the label under which the cache knows a field of one version. It names the definition's generation, so
// that a value is not remembered longer than the schema that it came by.
func (d *definition) lateLabel(v *versionSchema, f selectable) string {
	return fmt.Sprintf("%s/%s:%s", d.epoch, v.Name, f.name)
}

func (d *definition) lateField(obj runtime.Object, label string) string {
	head, name, _ := strings.Cut(label, ":")
	_, version, _ := strings.Cut(head, "/")
	v := d.versions[version]
	if v == nil {
		return ""
	}
	for _, f := range v.fields {
		if f.name != name {
			continue
		}
		u, err := d.fromStorage(v, obj.(*unstructured.Unstructured))
		if err != nil {
			return ""
		}
		return f.value(u.Object)
	}
	return ""
}
