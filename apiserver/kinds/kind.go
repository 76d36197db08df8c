// Package kinds is the one table of what the API server serves: for each resource its types, defaulting,
// validation, strategy and printer columns. Everything in it is a pure function of objects: no I/O, no
// clock, no randomness. rest serves every entry the same way; what a kind needs beyond that is a field of Kind.
package kinds

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

// Kind is one served resource in one version. All funcs but New and NewList may be nil.
// Objects handed to Default and Prepare* are private to the call and may be changed; all others must not be.
//
// A create runs: Default, metadata filled in (name from generateName, namespace, uid), PrepareCreate, Hook, Validate.
// An update runs: Default, PrepareUpdate, Hook, ValidateUpdate (alone: it includes what of Validate applies to updates).
type Kind struct {
	GVK        schema.GroupVersionKind
	Resource   string // plural, lower case
	Singular   string
	ShortNames []string
	Categories []string
	Namespaced bool

	// Prefix is where objects are stored, below store.Root and without slashes at its ends
	// ("pods", "services/specs", "minions"). Two kinds with one prefix are two versions of one resource.
	Prefix string
	// ToStorage and FromStorage convert to and from the version that is stored, where that is another one.
	ToStorage, FromStorage func(runtime.Object) (runtime.Object, error)

	New     func() runtime.Object
	NewList func() runtime.Object

	// Default fills in what the manifest left out. Idempotent; run on every decode of user input and of stored objects.
	Default func(obj runtime.Object)
	// PrepareCreate makes a fresh object of user input: clears what users do not own (status), sets initial values.
	PrepareCreate func(obj runtime.Object)
	// PrepareUpdate carries over from old what an update of the main resource must not change (status).
	// rest bumps metadata.generation itself where anything but metadata and status changed.
	PrepareUpdate  func(obj, old runtime.Object)
	Validate       func(obj runtime.Object) field.ErrorList
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// Warnings become Warning headers. old is nil on create.
	Warnings func(obj, old runtime.Object) []string

	// NoGeneration: upstream keeps no metadata.generation for this kind (ConfigMap, Secret, Event, ...).
	NoGeneration bool
	// CreateOnUpdate: PUT of a name that does not exist creates it.
	CreateOnUpdate bool
	// UnconditionalUpdate: PUT without resourceVersion is allowed.
	UnconditionalUpdate bool
	// BeginDelete, where set, marks an object of which the deletion begins: it may add finalizers and change its status.
	BeginDelete func(obj runtime.Object, now metav1.Time)
	// OrphanByDefault: a delete without a policy orphans dependents (ReplicationController).
	OrphanByDefault bool
	// GracePeriod, where set, gives graceful deletion: the seconds granted for these options (zero: now).
	// A nil result of opts.GracePeriodSeconds means the object's default.
	GracePeriod func(obj runtime.Object, opts *metav1.DeleteOptions) int64
	// Verbs, where set, are the only ones served; by default all eight.
	Verbs []string
	// NotStored: no objects of the kind are stored (Binding). Prefix and all that needs stored objects are unset;
	// rest serves its verbs with handlers of their own.
	NotStored bool
	// TTLSeconds, where set, expires objects (Events).
	TTLSeconds int64

	// Fields gives the field selectors the kind supports beyond metadata.name and metadata.namespace.
	// It is called with an empty object to learn the supported names, so it must always return every key.
	Fields func(obj runtime.Object) fields.Set
	// FieldNames maps the names of Fields to those in Fields of the kind whose version is stored, where they differ.
	FieldNames map[string]string

	Columns []metav1.TableColumnDefinition
	// Cells gives one row, one value a column. now is what ages are relative to.
	Cells func(obj runtime.Object, now metav1.Time) []any

	Status *Subresource
	Scale  *Scale
	// Dynamic is set for kinds that are known only at run time.
	Dynamic *Dynamic
	// Others names subresources that rest serves with a handler of their own (binding, eviction, log, exec, token, finalize ...).
	Others []string
}

// Dynamic is what a kind needs whose objects have no Go type: New gives *unstructured.Unstructured and NewList
// *unstructured.UnstructuredList, both with their kinds set. Objects are stored as JSON, in whatever version they were
// written last; FromStorage gives them in the served version, as the schema has them.
type Dynamic struct {
	// Schema identifies all that the entry was made from. Another one ends watches and drops what is remembered of objects.
	Schema string
	// Stored: the entry stands for the stored version of its prefix and is not served. It alone has no FromStorage.
	Stored bool
	// StorageVersion is the one that objects are written in.
	StorageVersion string
	// FromStorageAll, where set, does what FromStorage does for many objects at once, which is quicker then. It is not
	// set where FromStorage is quick.
	FromStorageAll func(stored []runtime.Object) ([]runtime.Object, error)
	// Coerce brings an object that came from a client into the shape of the schema. With track, it lists the paths
	// of the fields that it dropped.
	Coerce func(obj runtime.Object, track bool) (unknown []string, err error)
	// TypeConverter gives the schema that server-side apply merges by; nil takes what objects look like.
	TypeConverter func() (managedfields.TypeConverter, error)
	// Terminating: the kind is about to go, and nothing more is created.
	Terminating bool
	// Warning is given on every request, where not empty.
	Warning string
	// LateField gives, on the stored version's entry, the value of a field label that FieldNames of a served version
	// leads to. Such labels hold a colon. It may convert the object, and is called where a selector asks for it.
	LateField func(obj runtime.Object, label string) string
}

// Subresource is an update path to a part of the object (status, ephemeralcontainers, resize).
type Subresource struct {
	// PrepareUpdate resets everything that this path must not change to old's.
	PrepareUpdate  func(obj, old runtime.Object)
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
}

// Scale maps an object to and from autoscaling/v1 Scale.
type Scale struct {
	Get func(obj runtime.Object) *autoscalingv1.Scale
	// Set writes spec.replicas into obj.
	Set func(obj runtime.Object, replicas int32)
	// Check, where set, tells why there is no Scale of an object.
	Check func(obj runtime.Object) error
}

// Deprecation is the Warning that upstream gives on every request for a kind that it has deprecated; empty for others.
func (k *Kind) Deprecation() string {
	obj, ok := k.New().(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := obj.APILifecycleDeprecated()
	replaced, ok := obj.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	})
	if !ok {
		return fmt.Sprintf("%s %s is deprecated in v%d.%d+", k.GVK.GroupVersion(), k.GVK.Kind, major, minor)
	}
	use := replaced.APILifecycleReplacement()
	return fmt.Sprintf("%s %s is deprecated in v%d.%d+; use %s %s",
		k.GVK.GroupVersion(), k.GVK.Kind, major, minor, use.GroupVersion(), use.Kind)
}

// GroupResource identifies the kind in errors and permissions.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
}
