package rest

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// Who manages which field is kept from an object's first apply on: what was there before belongs to the manager
// before-first-apply from then, but for what kubectl notes that it applied. So objects that nobody ever applies cost nothing.

// maxManagerName is how much of a user agent names a manager, in bytes.
const maxManagerName = 128

// typeConverters knows the schemas of the kinds of the table. They take time and memory to read, so that happens at the first apply.
type typeConverters struct {
	once   sync.Once
	scheme *runtime.Scheme
	typed  managedfields.TypeConverter
}

func (t *typeConverters) of(r *resource) (managedfields.TypeConverter, error) {
	if r.Dynamic != nil {
		if r.Dynamic.TypeConverter != nil {
			return r.Dynamic.TypeConverter()
		}
		return managedfields.NewDeducedTypeConverter(), nil
	}
	switch r.GVK.Group {
	case "apiextensions.k8s.io", "apiregistration.k8s.io": // client-go has no schemas of these
		return managedfields.NewDeducedTypeConverter(), nil
	}
	if r.GVK == scaleGVK { // nor of this
		return managedfields.NewDeducedTypeConverter(), nil
	}
	t.once.Do(func() { t.typed = applyconfigurations.NewTypeConverter(t.scheme) })
	return t.typed, nil
}

// fieldManager is that of a path of the resource: the main one, or a subresource.
func (c *call) fieldManager() (*managedfields.FieldManager, error) {
	converter, err := c.converters.of(c.r)
	if err != nil {
		return nil, err
	}
	v := objectVersions{c.r}
	gv := c.r.GVK.GroupVersion()
	if c.r.Dynamic != nil {
		return managedfields.NewDefaultCRDFieldManager(converter, v, v, v, c.r.GVK, gv, c.info.Subresource, c.resetFields())
	}
	return managedfields.NewDefaultFieldManager(converter, v, v, v, c.r.GVK, gv, c.info.Subresource, c.resetFields())
}

// resetFields are those that a path does not write, and so nobody owns by it.
func (c *call) resetFields() map[fieldpath.APIVersion]fieldpath.Filter {
	if c.r.Kind.Status == nil {
		return nil
	}
	set := fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	if c.info.Subresource != "" {
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{
		fieldpath.APIVersion(c.r.GVK.GroupVersion().String()): fieldpath.NewExcludeSetFilter(set),
	}
}

// manager names who writes: as they say, or by their program.
func (c *call) manager() string {
	if name := c.query().Get("fieldManager"); name != "" {
		return name
	}
	name, _, _ := strings.Cut(c.req.UserAgent(), "/")
	return name[:min(len(name), maxManagerName)]
}

// track says in obj who manages its fields, where that is kept of old.
func (c *call) track(obj, old runtime.Object) {
	m, had := accessor(obj), accessor(old).GetManagedFields()
	if len(had) == 0 {
		m.SetManagedFields(nil)
		return
	}
	fm, err := c.fieldManager()
	if err != nil {
		m.SetManagedFields(had)
		return
	}
	obj.GetObjectKind().SetGroupVersionKind(c.r.GVK)
	if tracked := fm.UpdateNoErrors(old, obj, c.manager()); tracked != obj {
		m.SetManagedFields(accessor(tracked).GetManagedFields())
	}
}

// Managers of what was written before fields were tracked: by kubectl's apply on the client, and by all others.
const (
	clientSideApply  = "kubectl-client-side-apply"
	beforeFirstApply = "before-first-apply"
)

// attributed gives live, which is private to the call, with managers where it has none yet but kubectl noted what was
// applied. That alone is kubectl's: it hands the fields on to its server-side apply, which takes away those it does not
// mention any more. What admission and controllers added must stay.
func (c *call) attributed(fm *managedfields.FieldManager, live runtime.Object) runtime.Object {
	m := accessor(live)
	note := m.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	if note == "" || len(m.GetManagedFields()) > 0 {
		return live
	}
	var kind metav1.TypeMeta
	configured := c.r.New()
	if json.Unmarshal([]byte(note), &kind) != nil || kind.GroupVersionKind() != c.r.GVK || json.Unmarshal([]byte(note), configured) != nil {
		return live
	}
	cm := accessor(configured)
	cm.SetUID("")
	annotations := maps.Clone(cm.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.LastAppliedConfigAnnotation] = note
	cm.SetAnnotations(annotations)
	nothing := c.r.New()
	nothing.GetObjectKind().SetGroupVersionKind(c.r.GVK)
	configured = fm.UpdateNoErrors(nothing, configured, clientSideApply)
	return fm.UpdateNoErrors(configured, live, beforeFirstApply)
}

// keepTimes gives managed fields that differ from the old ones only in their times those times again, and tells whether it did.
func keepTimes(m, old metav1.Object) bool {
	now, had := m.GetManagedFields(), old.GetManagedFields()
	if len(now) == 0 || len(now) != len(had) {
		return false
	}
	for i := range now {
		a, b := now[i], had[i]
		a.Time, b.Time = nil, nil
		if !apiequality.Semantic.DeepEqual(a, b) {
			return false
		}
	}
	m.SetManagedFields(had)
	return true
}

// objectVersions brings objects into the served version, for the field manager. Others than that are gone, as far as it is concerned.
type objectVersions struct{ r *resource }

// ConvertToVersion implements runtime.ObjectConvertor.
func (v objectVersions) ConvertToVersion(in runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	want, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{v.r.GVK})
	if !ok || want != v.r.GVK {
		return nil, runtime.NewNotRegisteredErrForTarget("rest", nil, gv)
	}
	if u, ok := in.(*unstructured.Unstructured); ok && v.r.Dynamic == nil {
		if u.GroupVersionKind() != v.r.GVK {
			return nil, runtime.NewNotRegisteredErrForKind("rest", u.GroupVersionKind())
		}
		obj := v.r.New()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
			return nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(v.r.GVK)
		return obj, nil
	}
	return in, nil
}

// Convert implements runtime.ObjectConvertor.
func (v objectVersions) Convert(_, _, _ any) error {
	return errors.New("objects are converted by version")
}

// ConvertFieldLabel implements runtime.ObjectConvertor.
func (v objectVersions) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default implements runtime.ObjectDefaulter.
func (v objectVersions) Default(in runtime.Object) {
	if _, generic := in.(*unstructured.Unstructured); v.r.Kind.Default != nil && generic == (v.r.Dynamic != nil) {
		v.r.Kind.Default(in)
	}
}

// New implements runtime.ObjectCreater.
func (v objectVersions) New(schema.GroupVersionKind) (runtime.Object, error) {
	obj := v.r.New()
	obj.GetObjectKind().SetGroupVersionKind(v.r.GVK)
	return obj, nil
}
