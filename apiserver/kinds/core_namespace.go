package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func namespaces() []Kind {
	return []Kind{{
		GVK:      corev1.SchemeGroupVersion.WithKind("Namespace"),
		Resource: "namespaces",
		// Upstream deletes no collection of them.
		Verbs:      []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Singular:   "namespace",
		ShortNames: []string{"ns"},
		Prefix:     "namespaces",
		New:        func() runtime.Object { return &corev1.Namespace{} },
		NewList:    func() runtime.Object { return &corev1.NamespaceList{} },

		Default:             on(defaultNamespace),
		PrepareCreate:       on(prepareNamespaceCreate),
		PrepareUpdate:       onUpdate(prepareNamespaceUpdate),
		Validate:            check(validateNamespace),
		ValidateUpdate:      checkUpdate(validateNamespaceUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Fields: fieldSet(func(ns *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(ns.Status.Phase), "name": ns.Name}
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Status", "string", "The status of the namespace"), ageColumn(),
		},
		Cells: cells(func(ns *corev1.Namespace, now metav1.Time) []any {
			return []any{ns.Name, string(ns.Status.Phase), age(now, ns.CreationTimestamp)}
		}),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(ns, old *corev1.Namespace) { ns.Spec = *old.Spec.DeepCopy() }),
			ValidateUpdate: checkUpdate(func(ns, old *corev1.Namespace) field.ErrorList {
				return append(validateMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta), namespacePhase(ns)...)
			}),
		},
		Others: []string{"finalize"},
	}}
}

// NamespaceFinalize is the update path that alone may change spec.finalizers.
func NamespaceFinalize() *Subresource {
	return &Subresource{
		PrepareUpdate:  onUpdate(func(ns, old *corev1.Namespace) { ns.Status = *old.Status.DeepCopy() }),
		ValidateUpdate: checkUpdate(validateNamespaceFinalize),
	}
}

// defaultNamespace labels a namespace with its name, so that selectors can choose it.
func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name == "" {
		return
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func prepareNamespaceCreate(ns *corev1.Namespace) {
	defaultNamespace(ns) // again: the name may just have been generated
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func prepareNamespaceUpdate(ns, old *corev1.Namespace) {
	ns.Spec.Finalizers = slices.Clone(old.Spec.Finalizers)
	ns.Status = *old.Status.DeepCopy()
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	errs := validateMeta(&ns.ObjectMeta, false, apivalidation.ValidateNamespaceName)
	for _, f := range ns.Spec.Finalizers {
		errs = append(errs, specFinalizer(f, field.NewPath("spec", "finalizers"))...)
	}
	return errs
}

func validateNamespaceUpdate(ns, old *corev1.Namespace) field.ErrorList {
	return validateMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta)
}

func validateNamespaceFinalize(ns, old *corev1.Namespace) field.ErrorList {
	errs := validateMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta)
	for i, f := range ns.Spec.Finalizers {
		errs = append(errs, specFinalizer(f, field.NewPath("spec", "finalizers").Index(i))...)
	}
	return errs
}

func specFinalizer(f corev1.FinalizerName, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateFinalizerName(string(f), path)
	return append(errs, knownFinalizer(string(f), path)...)
}

func namespacePhase(ns *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	if ns.DeletionTimestamp.IsZero() {
		if ns.Status.Phase != corev1.NamespaceActive {
			return field.ErrorList{field.Invalid(path, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
		}
		return nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		return field.ErrorList{field.Invalid(path, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
