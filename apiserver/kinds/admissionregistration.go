package kinds

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What a webhook is where a manifest does not say.
const (
	defaultWebhookTimeout = 10
	defaultWebhookPort    = 443
)

func admissionKinds() []Kind {
	return []Kind{
		mutatingWebhooks(), validatingWebhooks(),
		validatingPolicies(), validatingPolicyBindings(), mutatingPolicies(), mutatingPolicyBindings(),
	}
}

func mutatingWebhooks() Kind {
	return Kind{
		GVK:            admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"),
		Resource:       "mutatingwebhookconfigurations",
		Singular:       "mutatingwebhookconfiguration",
		Categories:     []string{"api-extensions"},
		Prefix:         "mutatingwebhookconfigurations",
		New:            func() runtime.Object { return &admissionv1.MutatingWebhookConfiguration{} },
		NewList:        func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} },
		Default:        on(defaultMutatingWebhooks),
		Validate:       check(validateMutatingWebhooks),
		ValidateUpdate: checkUpdate(validateMutatingWebhooksUpdate),
		Columns:        webhookColumns("webhooks", admissionv1.MutatingWebhookConfiguration{}.SwaggerDoc()),
		Cells: cells(func(c *admissionv1.MutatingWebhookConfiguration, now metav1.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(now, c.CreationTimestamp)}
		}),
	}
}

func validatingWebhooks() Kind {
	return Kind{
		GVK:            admissionv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"),
		Resource:       "validatingwebhookconfigurations",
		Singular:       "validatingwebhookconfiguration",
		Categories:     []string{"api-extensions"},
		Prefix:         "validatingwebhookconfigurations",
		New:            func() runtime.Object { return &admissionv1.ValidatingWebhookConfiguration{} },
		NewList:        func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} },
		Default:        on(defaultValidatingWebhooks),
		Validate:       check(validateValidatingWebhooks),
		ValidateUpdate: checkUpdate(validateValidatingWebhooksUpdate),
		Columns:        webhookColumns("webhooks", admissionv1.ValidatingWebhookConfiguration{}.SwaggerDoc()),
		Cells: cells(func(c *admissionv1.ValidatingWebhookConfiguration, now metav1.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(now, c.CreationTimestamp)}
		}),
	}
}

func webhookColumns(field string, doc map[string]string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(), column("Webhooks", "integer", doc[field]), ageColumn()}
}

func defaultMutatingWebhooks(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		setDefaultPtr(&h.FailurePolicy, admissionv1.Fail)
		setDefaultPtr(&h.MatchPolicy, admissionv1.Equivalent)
		setDefaultPtr(&h.NamespaceSelector, metav1.LabelSelector{})
		setDefaultPtr(&h.ObjectSelector, metav1.LabelSelector{})
		setDefaultPtr(&h.TimeoutSeconds, defaultWebhookTimeout)
		setDefaultPtr(&h.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		defaultWebhookParts(&h.ClientConfig, h.Rules)
	}
}

func defaultValidatingWebhooks(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		setDefaultPtr(&h.FailurePolicy, admissionv1.Fail)
		setDefaultPtr(&h.MatchPolicy, admissionv1.Equivalent)
		setDefaultPtr(&h.NamespaceSelector, metav1.LabelSelector{})
		setDefaultPtr(&h.ObjectSelector, metav1.LabelSelector{})
		setDefaultPtr(&h.TimeoutSeconds, defaultWebhookTimeout)
		defaultWebhookParts(&h.ClientConfig, h.Rules)
	}
}

func defaultWebhookParts(client *admissionv1.WebhookClientConfig, rules []admissionv1.RuleWithOperations) {
	if client.Service != nil {
		setDefaultPtr(&client.Service.Port, defaultWebhookPort)
	}
	for i := range rules {
		setDefaultPtr(&rules[i].Scope, admissionv1.AllScopes)
	}
}

func validatingPolicies() Kind {
	spec := admissionv1.ValidatingAdmissionPolicySpec{}.SwaggerDoc()
	return Kind{
		GVK:        admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Resource:   "validatingadmissionpolicies",
		Singular:   "validatingadmissionpolicy",
		Categories: []string{"api-extensions"},
		Prefix:     "validatingadmissionpolicies",
		New:        func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicy{} },
		NewList:    func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} },
		Default: on(func(p *admissionv1.ValidatingAdmissionPolicy) {
			setDefaultPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatchResources(p.Spec.MatchConstraints)
		}),
		PrepareCreate: on(func(p *admissionv1.ValidatingAdmissionPolicy) {
			p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
		}),
		PrepareUpdate:  onUpdate(func(p, old *admissionv1.ValidatingAdmissionPolicy) { p.Status = *old.Status.DeepCopy() }),
		Validate:       check(validateValidatingPolicy),
		ValidateUpdate: checkUpdate(validateValidatingPolicyUpdate),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Validations", "integer", spec["validations"]), column("ParamKind", "string", spec["paramKind"]), ageColumn(),
		},
		Cells: cells(func(p *admissionv1.ValidatingAdmissionPolicy, now metav1.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKindCell(p.Spec.ParamKind), age(now, p.CreationTimestamp)}
		}),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(p, old *admissionv1.ValidatingAdmissionPolicy) {
				p.Spec = *old.Spec.DeepCopy()
				p.Labels, p.Annotations, p.OwnerReferences, p.Finalizers = keptMeta(&old.ObjectMeta)
			}),
			ValidateUpdate: checkUpdate(validateValidatingPolicyStatus),
		},
	}
}

func mutatingPolicies() Kind {
	spec := admissionv1.MutatingAdmissionPolicySpec{}.SwaggerDoc()
	return Kind{
		GVK:        admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Resource:   "mutatingadmissionpolicies",
		Singular:   "mutatingadmissionpolicy",
		Categories: []string{"api-extensions"},
		Prefix:     "mutatingadmissionpolicies",
		New:        func() runtime.Object { return &admissionv1.MutatingAdmissionPolicy{} },
		NewList:    func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} },
		Default: on(func(p *admissionv1.MutatingAdmissionPolicy) {
			setDefaultPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
			setDefault(&p.Spec.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
			defaultMatchResources(p.Spec.MatchConstraints)
		}),
		Validate:       check(validateMutatingPolicy),
		ValidateUpdate: checkUpdate(validateMutatingPolicyUpdate),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Mutations", "integer", spec["mutations"]), column("ParamKind", "string", spec["paramKind"]), ageColumn(),
		},
		Cells: cells(func(p *admissionv1.MutatingAdmissionPolicy, now metav1.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), age(now, p.CreationTimestamp)}
		}),
	}
}

func validatingPolicyBindings() Kind {
	return Kind{
		GVK:        admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Resource:   "validatingadmissionpolicybindings",
		Singular:   "validatingadmissionpolicybinding",
		Categories: []string{"api-extensions"},
		Prefix:     "validatingadmissionpolicybindings",
		New:        func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBinding{} },
		NewList:    func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} },
		Default: on(func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			defaultMatchResources(b.Spec.MatchResources)
		}),
		Validate:       check(validateValidatingBinding),
		ValidateUpdate: checkUpdate(validateValidatingBindingUpdate),
		Columns:        policyBindingColumns(admissionv1.ValidatingAdmissionPolicyBindingSpec{}.SwaggerDoc()),
		Cells: cells(func(b *admissionv1.ValidatingAdmissionPolicyBinding, now metav1.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(now, b.CreationTimestamp)}
		}),
	}
}

func mutatingPolicyBindings() Kind {
	return Kind{
		GVK:        admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Resource:   "mutatingadmissionpolicybindings",
		Singular:   "mutatingadmissionpolicybinding",
		Categories: []string{"api-extensions"},
		Prefix:     "mutatingadmissionpolicybindings",
		New:        func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBinding{} },
		NewList:    func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} },
		Default: on(func(b *admissionv1.MutatingAdmissionPolicyBinding) {
			defaultMatchResources(b.Spec.MatchResources)
		}),
		Validate:       check(validateMutatingBinding),
		ValidateUpdate: checkUpdate(validateMutatingBindingUpdate),
		Columns:        policyBindingColumns(admissionv1.MutatingAdmissionPolicyBindingSpec{}.SwaggerDoc()),
		Cells: cells(func(b *admissionv1.MutatingAdmissionPolicyBinding, now metav1.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(now, b.CreationTimestamp)}
		}),
	}
}

func policyBindingColumns(spec map[string]string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(), column("PolicyName", "string", spec["policyName"]), column("ParamRef", "string", spec["paramRef"]), ageColumn(),
	}
}

func defaultMatchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	setDefaultPtr(&m.MatchPolicy, admissionv1.Equivalent)
	setDefaultPtr(&m.NamespaceSelector, metav1.LabelSelector{})
	setDefaultPtr(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			setDefaultPtr(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

func paramKindCell(k *admissionv1.ParamKind) string {
	if k == nil {
		return cellUnset
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRefCell(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return cellUnset
	case r.Name != "" && r.Namespace != "":
		return fmt.Sprintf("%s/%s", r.Namespace, r.Name)
	case r.Name != "":
		return r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return cellUnset
}
