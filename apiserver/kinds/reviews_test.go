package kinds

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestReviewValidation(t *testing.T) {
	self := func(ra *authorizationv1.ResourceAttributes) runtime.Object {
		return &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: ra}}
	}
	byField := func(r ...metav1.FieldSelectorRequirement) runtime.Object {
		return self(&authorizationv1.ResourceAttributes{FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: r}})
	}
	byLabel := func(raw string, r ...metav1.LabelSelectorRequirement) runtime.Object {
		return self(&authorizationv1.ResourceAttributes{LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: raw, Requirements: r}})
	}
	local := func(meta metav1.ObjectMeta, spec authorizationv1.SubjectAccessReviewSpec) runtime.Object {
		spec.User = "u"
		return &authorizationv1.LocalSubjectAccessReview{ObjectMeta: meta, Spec: spec}
	}
	in := authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "a"}}
	cases := []struct {
		obj  runtime.Object
		want string
	}{
		{self(&authorizationv1.ResourceAttributes{}), ""},
		{self(nil), "spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{&authorizationv1.SubjectAccessReview{Spec: in}, `spec.user: Invalid value: "": at least one of user or group must be specified`},
		{byField(), "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"},
		{byField(metav1.FieldSelectorRequirement{Operator: "In", Values: []string{"x"}}), "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified"},
		{byField(metav1.FieldSelectorRequirement{Key: "k", Operator: "In"}), "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"},
		{byField(metav1.FieldSelectorRequirement{Key: "k", Operator: "Exists", Values: []string{"x"}}), "spec.resourceAttributes.fieldSelector.requirements[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"},
		{byField(metav1.FieldSelectorRequirement{Key: "k", Operator: "future", Values: []string{"x"}}), ""},
		{byLabel("a=b", metav1.LabelSelectorRequirement{Key: "k", Operator: "Exists"}), `spec.resourceAttributes.labelSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements`},
		{byLabel("", metav1.LabelSelectorRequirement{Key: "k", Operator: "future", Values: []string{"x"}}), ""},
		{local(metav1.ObjectMeta{Namespace: "a"}, in), ""},
		{local(metav1.ObjectMeta{Namespace: "b"}, in), `spec.resourceAttributes.namespace: Invalid value: "a": must match metadata.namespace`},
		{local(metav1.ObjectMeta{Namespace: "a", Name: "n"}, in), "must be empty except for namespace"},
		{local(metav1.ObjectMeta{Namespace: "a"}, authorizationv1.SubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{}}), "disallowed on this kind of request"},
	}
	for i, c := range cases {
		errs := ValidateReview(c.obj)
		if c.want == "" && len(errs) > 0 || c.want != "" && (len(errs) == 0 || !strings.Contains(errs[0].Error(), c.want)) {
			t.Errorf("%d: %v, want %s", i, errs, c.want)
		}
	}
}
