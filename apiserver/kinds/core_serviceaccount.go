package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// annotationMountableSecrets once restricted which secrets a pod of the account could mount.
const annotationMountableSecrets = "kubernetes.io/enforce-mountable-secrets"

func serviceAccounts() []Kind {
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		Resource:   "serviceaccounts",
		Singular:   "serviceaccount",
		ShortNames: []string{"sa"},
		Namespaced: true,
		Prefix:     "serviceaccounts",
		New:        func() runtime.Object { return &corev1.ServiceAccount{} },
		NewList:    func() runtime.Object { return &corev1.ServiceAccountList{} },

		PrepareCreate: on(keepSecretNames),
		PrepareUpdate: onUpdate(func(sa, _ *corev1.ServiceAccount) { keepSecretNames(sa) }),
		Validate:      check(validateServiceAccount),
		ValidateUpdate: checkUpdate(func(sa, old *corev1.ServiceAccount) field.ErrorList {
			return append(validateMetaUpdate(&sa.ObjectMeta, &old.ObjectMeta), validateServiceAccount(sa)...)
		}),
		Warnings:            warn(serviceAccountWarnings),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), ageColumn(),
		},
		Cells: cells(func(sa *corev1.ServiceAccount, now metav1.Time) []any {
			return []any{sa.Name, age(now, sa.CreationTimestamp)}
		}),
		Others: []string{"token"},
	}}
}

// keepSecretNames drops all of a secret reference but its name: a service account's secrets are in its namespace.
func keepSecretNames(sa *corev1.ServiceAccount) {
	for i := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: sa.Secrets[i].Name}
	}
}

func validateServiceAccount(sa *corev1.ServiceAccount) field.ErrorList {
	return validateMeta(&sa.ObjectMeta, true, apivalidation.ValidateServiceAccountName)
}

func serviceAccountWarnings(sa, old *corev1.ServiceAccount) []string {
	if _, ok := sa.Annotations[annotationMountableSecrets]; !ok {
		return nil
	}
	if old != nil {
		if _, had := old.Annotations[annotationMountableSecrets]; had {
			return nil
		}
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
		annotationMountableSecrets)}
}
