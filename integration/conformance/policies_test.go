package conformance

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var policyTests = map[string]func(*env){
	"a validating one denies":            policyDeny,
	"a validating one takes parameters":  policyParams,
	"types are checked":                  policyTypes,
	"a mutating one applies":             policyMutate,
	"a mutating one patches annotations": policyAnnotate,
}

func deploymentRules(e *env) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{
		NamespaceSelector: e.here(),
		ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
			RuleWithOperations: rules("apps", writes, "deployments")[0],
		}},
	}
}

func (e *env) deployment(name string, replicas int32) (*appsv1.Deployment, error) {
	labels := map[string]string{"app": name}
	return e.kube.AppsV1().Deployments(e.ns).Create(e.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec}},
	}, metav1.CreateOptions{})
}

func (e *env) policy(spec admissionregistrationv1.ValidatingAdmissionPolicySpec, params *admissionregistrationv1.ParamRef) {
	e.Helper()
	policies := e.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	bindings := e.kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	_, err := policies.Create(e.ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Spec: spec}, metav1.CreateOptions{})
	e.must(err)
	_, err = bindings.Create(e.ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: e.ns, ParamRef: params, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() {
		_ = bindings.Delete(context.Background(), e.ns, metav1.DeleteOptions{})
		_ = policies.Delete(context.Background(), e.ns, metav1.DeleteOptions{})
	})
}

// tooMany waits until a deployment of six is denied, and gives the refusal.
func (e *env) tooMany() error {
	e.Helper()
	var refusal error
	i := 0
	e.eventually(func() error {
		i++
		if _, refusal = e.deployment(fmt.Sprint("many", i), 6); refusal == nil {
			return fmt.Errorf("admitted")
		}
		return nil
	})
	return refusal
}

func policyDeny(e *env) {
	e.policy(admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: deploymentRules(e),
		Variables:        []admissionregistrationv1.Variable{{Name: "replicas", Expression: "object.spec.replicas"}},
		Validations:      []admissionregistrationv1.Validation{{Expression: "variables.replicas <= 5", MessageExpression: "'no more than 5, not ' + string(variables.replicas)"}},
	}, nil)
	e.refused(e.tooMany(), "ValidatingAdmissionPolicy '"+e.ns+"' with binding '"+e.ns+"' denied request: no more than 5, not 6")
	_, err := e.deployment("few", 3)
	e.must(err)
}

func policyParams(e *env) {
	m := e.configMap("limits", nil)
	m.Data = map[string]string{"most": "2"}
	_, err := e.kube.CoreV1().ConfigMaps(e.ns).Update(e.ctx, m, metav1.UpdateOptions{})
	e.must(err)
	denyMissing := admissionregistrationv1.DenyAction
	e.policy(admissionregistrationv1.ValidatingAdmissionPolicySpec{
		ParamKind:        &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
		MatchConstraints: deploymentRules(e),
		Validations:      []admissionregistrationv1.Validation{{Expression: "object.spec.replicas <= int(params.data.most)", Message: "too many"}},
	}, &admissionregistrationv1.ParamRef{Name: "limits", Namespace: e.ns, ParameterNotFoundAction: &denyMissing})
	e.refused(e.tooMany(), "too many")
	e.eventually(func() error { // parameters come a moment later
		_, err := e.deployment("few", 2)
		return err
	})
}

func policyTypes(e *env) {
	e.policy(admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: deploymentRules(e),
		Validations:      []admissionregistrationv1.Validation{{Expression: "object.spec.replicas > '1'"}},
	}, nil)
	e.eventually(func() error {
		p, err := e.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(e.ctx, e.ns, metav1.GetOptions{})
		e.must(err)
		if p.Status.TypeChecking == nil || len(p.Status.TypeChecking.ExpressionWarnings) != 1 || p.Status.ObservedGeneration != p.Generation {
			return fmt.Errorf("status %+v", p.Status)
		}
		equal(e, "field", p.Status.TypeChecking.ExpressionWarnings[0].FieldRef, "spec.validations[0].expression")
		return nil
	})
}

func (e *env) mutation(m admissionregistrationv1.Mutation) {
	e.Helper()
	policies := e.kube.AdmissionregistrationV1().MutatingAdmissionPolicies()
	bindings := e.kube.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	_, err := policies.Create(e.ctx, &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints: deploymentRules(e), ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{m},
		},
	}, metav1.CreateOptions{})
	e.must(err)
	_, err = bindings.Create(e.ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: e.ns},
	}, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() {
		_ = bindings.Delete(context.Background(), e.ns, metav1.DeleteOptions{})
		_ = policies.Delete(context.Background(), e.ns, metav1.DeleteOptions{})
	})
}

// mutated waits until deployments are changed.
func (e *env) mutated(check func(*appsv1.Deployment) error) {
	e.Helper()
	i := 0
	e.eventually(func() error {
		i++
		d, err := e.deployment(fmt.Sprint("web", i), 1)
		e.must(err)
		return check(d)
	})
}

func policyMutate(e *env) {
	e.mutation(admissionregistrationv1.Mutation{
		PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
		ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{
			Expression: `Object{spec: Object.spec{replicas: object.spec.replicas + 2}}`,
		},
	})
	e.mutated(func(d *appsv1.Deployment) error { return same(*d.Spec.Replicas, 3) })
}

func policyAnnotate(e *env) {
	e.mutation(admissionregistrationv1.Mutation{
		PatchType: admissionregistrationv1.PatchTypeJSONPatch,
		JSONPatch: &admissionregistrationv1.JSONPatch{
			Expression: `[JSONPatch{op: "add", path: "/metadata/annotations", value: {"my-annotation": "was " + object.metadata.name}}]`,
		},
	})
	e.mutated(func(d *appsv1.Deployment) error { return same(d.Annotations["my-annotation"], "was "+d.Name) })
}
