package kinds

import (
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func customResourceDefinitions() []Kind {
	return []Kind{{
		GVK:        apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"),
		Resource:   "customresourcedefinitions",
		Singular:   "customresourcedefinition",
		ShortNames: []string{"crd", "crds"},
		Categories: []string{"api-extensions"},
		Prefix:     "apiextensions.k8s.io/customresourcedefinitions",
		New:        func() runtime.Object { return &apiextensionsv1.CustomResourceDefinition{} },
		NewList:    func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },

		Default: on(apiextensionsv1.SetObjectDefaults_CustomResourceDefinition),
		PrepareCreate: on(func(crd *apiextensionsv1.CustomResourceDefinition) {
			crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			recordStoredVersion(crd)
		}),
		PrepareUpdate: onUpdate(func(crd, old *apiextensionsv1.CustomResourceDefinition) {
			crd.Status = *old.Status.DeepCopy()
			recordStoredVersion(crd)
		}),
		Validate:       check(validateCustomResourceDefinition),
		ValidateUpdate: checkUpdate(validateCustomResourceDefinitionUpdate),
		Warnings:       warn(customResourceDefinitionWarnings),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Created At", "date", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]),
		},
		Cells: cells(func(crd *apiextensionsv1.CustomResourceDefinition, _ metav1.Time) []any {
			return []any{crd.Name, crd.CreationTimestamp.UTC().Format(time.RFC3339)}
		}),
		BeginDelete: beginDelete(markDefinitionForDeletion),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(crd, old *apiextensionsv1.CustomResourceDefinition) {
				crd.Spec = *old.Spec.DeepCopy()
			}),
			ValidateUpdate: checkUpdate(validateCustomResourceDefinitionStatus),
		},
	}}
}

// beginDelete adapts BeginDelete.
func beginDelete[T runtime.Object](f func(obj T, now metav1.Time)) func(runtime.Object, metav1.Time) {
	return func(obj runtime.Object, now metav1.Time) { f(obj.(T), now) }
}

// recordStoredVersion notes the version that objects are written in from now on: some may be in it for ever.
func recordStoredVersion(crd *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			if !slices.Contains(crd.Status.StoredVersions, v.Name) {
				crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
			}
			return
		}
	}
}

// markDefinitionForDeletion makes a definition outlast its objects.
func markDefinitionForDeletion(crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	if !slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		crd.Finalizers = append(slices.Clip(crd.Finalizers), apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	SetDefinitionCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type:    apiextensionsv1.Terminating,
		Status:  apiextensionsv1.ConditionTrue,
		Reason:  "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	}, now)
}

// SetDefinitionCondition sets a condition in place of that of its type. The time of transition is now where the
// condition's status is another than before.
func SetDefinitionCondition(crd *apiextensionsv1.CustomResourceDefinition, c apiextensionsv1.CustomResourceDefinitionCondition, now metav1.Time) {
	c.LastTransitionTime = now
	i := slices.IndexFunc(crd.Status.Conditions, func(o apiextensionsv1.CustomResourceDefinitionCondition) bool { return o.Type == c.Type })
	if i < 0 {
		crd.Status.Conditions = append(slices.Clip(crd.Status.Conditions), c)
		return
	}
	if old := crd.Status.Conditions[i]; old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	crd.Status.Conditions = slices.Clone(crd.Status.Conditions)
	crd.Status.Conditions[i] = c
}
