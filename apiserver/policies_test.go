package apiserver_test

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// onConfigMaps are the constraints of policies about config maps.
func onConfigMaps() *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
		RuleWithOperations: ruleFor("", "v1", "configmaps", admissionv1.Create, admissionv1.Update)[0],
	}}}
}

func validation(expression string) []admissionv1.Validation {
	return []admissionv1.Validation{{Expression: expression}}
}

// policyCase is a policy with its binding, and what becomes of a config map.
type policyCase struct {
	spec    admissionv1.ValidatingAdmissionPolicySpec
	binding admissionv1.ValidatingAdmissionPolicyBindingSpec
	want    string // the error; empty admits
	reason  metav1.StatusReason
	warning string
}

// costly is a million additions.
const costly = "variables.l.all(a, variables.l.all(b, variables.l.all(c, variables.l.all(d, variables.l.all(e, variables.l.all(f, a + b + c + d + e + f > 0))))))"

func policyCases() map[string]policyCase {
	deny := admissionv1.ValidatingAdmissionPolicyBindingSpec{ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}
	params := func(ref admissionv1.ParamRef) admissionv1.ValidatingAdmissionPolicyBindingSpec {
		if ref.ParameterNotFoundAction == nil {
			ref.ParameterNotFoundAction = ptr.To(admissionv1.DenyAction)
		}
		return admissionv1.ValidatingAdmissionPolicyBindingSpec{ValidationActions: deny.ValidationActions, ParamRef: &ref}
	}
	limited := admissionv1.ValidatingAdmissionPolicySpec{
		ParamKind:   &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
		Validations: []admissionv1.Validation{{Expression: "object.metadata.name.size() <= int(params.data.most)", MessageExpression: "'more than ' + params.data.most + ' in ' + params.kind"}},
	}
	refuses := func(text string) string {
		return `configmaps "checked" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ` + text
	}
	return map[string]policyCase{
		"a pass":         {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: validation("true")}, binding: deny},
		"the expression": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: validation("object.metadata.name == 'x'")}, binding: deny, want: refuses("failed expression: object.metadata.name == 'x'"), reason: metav1.StatusReasonInvalid},
		"a message and a reason": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{
			{Expression: "false", Message: "never", Reason: ptr.To(metav1.StatusReasonForbidden)},
		}}, binding: deny, want: refuses("never"), reason: metav1.StatusReasonForbidden},
		"a message expression that fails": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{
			{Expression: "false", Message: "the message", MessageExpression: "string(object.data.none)"},
		}}, binding: deny, want: refuses("the message"), reason: metav1.StatusReasonInvalid},
		"the first of variables and validations": {spec: admissionv1.ValidatingAdmissionPolicySpec{
			Variables:   []admissionv1.Variable{{Name: "name", Expression: "object.metadata.name"}, {Name: "long", Expression: "variables.name.size() > 3"}, {Name: "broken", Expression: "object.data.none"}},
			Validations: []admissionv1.Validation{{Expression: "variables.long"}, {Expression: "!variables.long", Message: "second"}, {Expression: "false", Message: "third"}},
		}, binding: deny, want: refuses("second"), reason: metav1.StatusReasonInvalid},
		"an error": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: validation("object.data.none == ''")}, binding: deny,
			want: refuses("expression 'object.data.none == ''' resulted in error: no such key: none"), reason: metav1.StatusReasonInvalid},
		"an error ignored": {spec: admissionv1.ValidatingAdmissionPolicySpec{FailurePolicy: ptr.To(admissionv1.Ignore), Validations: validation("object.data.none == ''")}, binding: deny},
		"a condition":      {spec: admissionv1.ValidatingAdmissionPolicySpec{MatchConditions: []admissionv1.MatchCondition{{Name: "c", Expression: "object.metadata.name == 'x'"}}, Validations: validation("false")}, binding: deny},
		"a condition on variables": {spec: admissionv1.ValidatingAdmissionPolicySpec{
			Variables:       []admissionv1.Variable{{Name: "name", Expression: "object.metadata.name"}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "c", Expression: "variables.name == 'checked'"}}, Validations: validation("false"),
		}, binding: deny, want: refuses("failed expression: false"), reason: metav1.StatusReasonInvalid},
		"the namespace and the request": {spec: admissionv1.ValidatingAdmissionPolicySpec{
			Validations: validation("namespaceObject.metadata.name != 'default' || request.userInfo.username != 'admin' || oldObject != null || request.operation != 'CREATE'"),
		}, binding: deny, want: refuses("failed expression: namespaceObject.metadata.name != 'default' || request.userInfo.username != 'admin' || oldObject != null || request.operation != 'CREATE'"), reason: metav1.StatusReasonInvalid},
		"a warning": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{{Expression: "false", Message: "careful"}}},
			binding: admissionv1.ValidatingAdmissionPolicyBindingSpec{ValidationActions: []admissionv1.ValidationAction{admissionv1.Warn, admissionv1.Audit}},
			warning: "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': careful"},
		"another namespace": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: validation("false")}, binding: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			ValidationActions: deny.ValidationActions, MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"no": "such"}}},
		}},
		"an exclusion": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: validation("false")}, binding: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			ValidationActions: deny.ValidationActions, MatchResources: &admissionv1.MatchResources{ExcludeResourceRules: []admissionv1.NamedRuleWithOperations{{
				ResourceNames: []string{"checked"}, RuleWithOperations: ruleFor("", "v1", "configmaps", admissionv1.OperationAll)[0],
			}}},
		}},
		"parameters by name":      {spec: limited, binding: params(admissionv1.ParamRef{Name: "few", Namespace: "default"}), want: refuses("more than 3 in ConfigMap"), reason: metav1.StatusReasonInvalid},
		"parameters by selector":  {spec: limited, binding: params(admissionv1.ParamRef{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"limit": "yes"}}}), want: refuses("more than 3 in ConfigMap"), reason: metav1.StatusReasonInvalid},
		"parameters that suffice": {spec: limited, binding: params(admissionv1.ParamRef{Name: "many"})},
		"no parameters": {spec: limited, binding: params(admissionv1.ParamRef{Name: "none"}),
			want: refuses("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), reason: metav1.StatusReasonInvalid},
		"no parameters allowed": {spec: limited, binding: params(admissionv1.ParamRef{Name: "none", ParameterNotFoundAction: ptr.To(admissionv1.AllowAction)})},
		"an unknown kind of parameters": {spec: admissionv1.ValidatingAdmissionPolicySpec{ParamKind: &admissionv1.ParamKind{APIVersion: "example.org/v1", Kind: "None"}, Validations: validation("true")},
			binding: params(admissionv1.ParamRef{Name: "none"}), want: refuses("failed to configure binding: paramKind kind `&ParamKind{APIVersion:example.org/v1,Kind:None,}` not known"), reason: metav1.StatusReasonInvalid},
		"another's policy": {spec: admissionv1.ValidatingAdmissionPolicySpec{Validations: validation("false")}, binding: admissionv1.ValidatingAdmissionPolicyBindingSpec{ValidationActions: deny.ValidationActions, PolicyName: "q"}},
		"cost": {spec: admissionv1.ValidatingAdmissionPolicySpec{
			Variables:   []admissionv1.Variable{{Name: "l", Expression: "[1,2,3,4,5,6,7,8,9,10]"}},
			Validations: validation(costly),
		}, binding: deny, want: refuses("expression '" + costly + "' resulted in error: operation cancelled: actual cost limit exceeded"), reason: metav1.StatusReasonInvalid},
	}
}

func TestValidatingPolicies(t *testing.T) {
	client, warnings := admitting(t)
	ctx := t.Context()
	maps := client.CoreV1().ConfigMaps("default")
	for name, most := range map[string]string{"few": "3", "many": "30"} {
		m := configMap(name)
		m.Data["most"] = most
		if name == "few" {
			m.Labels = map[string]string{"limit": "yes"}
		}
		if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	policies, bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	for name, c := range policyCases() {
		c.spec.MatchConstraints = onConfigMaps()
		if c.binding.PolicyName == "" {
			c.binding.PolicyName = "p"
		}
		if _, err := policies.Create(ctx, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: c.spec}, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := bindings.Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: c.binding}, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err := maps.Create(ctx, configMap("checked"), metav1.CreateOptions{DryRun: []string{"All"}})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want || apierrors.ReasonForError(err) != c.reason && c.want != "" {
			t.Errorf("%s: %s %q\nwant %s %q", name, apierrors.ReasonForError(err), got, c.reason, c.want)
		}
		if heard := warnings.take(); heard != c.warning {
			t.Errorf("%s: warned %q, want %q", name, heard, c.warning)
		}
		for _, err := range []error{policies.Delete(ctx, "p", metav1.DeleteOptions{}), bindings.Delete(ctx, "b", metav1.DeleteOptions{})} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// mutation binds a policy of one mutation.
func mutation(t *testing.T, client kubernetes.Interface, name string, reinvoke admissionv1.ReinvocationPolicyType, m admissionv1.Mutation) {
	t.Helper()
	_, err := client.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(t.Context(), &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.MutatingAdmissionPolicySpec{MatchConstraints: onConfigMaps(), ReinvocationPolicy: reinvoke, Mutations: []admissionv1.Mutation{m}},
	}, metav1.CreateOptions{})
	if err == nil {
		_, err = client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.MutatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func applied(expression string) admissionv1.Mutation {
	return admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: expression}}
}

func jsonPatched(expression string) admissionv1.Mutation {
	return admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: expression}}
}

// TestMutatingPolicies: they see each other's changes in the order of their names, and those that ran before a change run
// once more where they want to.
func TestMutatingPolicies(t *testing.T) {
	client, _ := admitting(t)
	mutation(t, client, "a", admissionv1.IfNeededReinvocationPolicy, applied(`Object{data: {"a": "saw " + object.data.order}}`))
	mutation(t, client, "b", admissionv1.NeverReinvocationPolicy, jsonPatched(`[JSONPatch{op: "replace", path: "/data/order", value: object.data.order + "b"}]`))
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("m"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Data["a"] != "saw b" || made.Data["order"] != "b" {
		t.Errorf("%v", made.Data)
	}
}

func TestMutatingPolicyFailures(t *testing.T) {
	for name, c := range map[string]struct {
		mutation admissionv1.Mutation
		want     string
	}{
		"a missing key":    {applied(`Object{data: {"x": object.data.none}}`), "resulted in error: no such key: none"},
		"an unknown field": {applied(`Object{spec: Object.spec{x: 1}}`), "field not declared in schema"},
		"a bad patch":      {jsonPatched(`[JSONPatch{op: "remove", path: "/data/none"}]`), "JSON Patch: "},
		"a wrong type":     {jsonPatched(`[JSONPatch{op: "add", path: "/data/x", value: 5}]`), "data"},
	} {
		client, _ := admitting(t)
		mutation(t, client, "p", admissionv1.NeverReinvocationPolicy, c.mutation)
		_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("m"), metav1.CreateOptions{})
		if err == nil || !strings.HasPrefix(err.Error(), `policy 'p' with binding 'p' denied request: `) && !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

// TestPoliciesOfPods: a typed object keeps what it is, and gets the defaults of what is added.
func TestPoliciesOfPods(t *testing.T) {
	client, _ := admitting(t)
	m := applied(`Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: "sidecar", image: "registry.example.com/sidecar:v1", restartPolicy: "Always"}]}}`)
	_, err := client.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(t.Context(), &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "sidecars"},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: ruleFor("", "v1", "pods", admissionv1.Create)[0]}}},
			MatchConditions:  []admissionv1.MatchCondition{{Name: "once", Expression: `!object.spec.?initContainers.orValue([]).exists(c, c.name == "sidecar")`}},
			Mutations:        []admissionv1.Mutation{m}, ReinvocationPolicy: admissionv1.IfNeededReinvocationPolicy,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "sidecars"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "sidecars"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, err := client.CoreV1().Pods("default").Create(t.Context(), podOf("p", cpu("100m", "")), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].TerminationMessagePath != corev1.TerminationMessagePathDefault {
		t.Errorf("init containers: %+v", pod.Spec.InitContainers)
	}
	if got := pod.Spec.Containers[0].Resources.Requests.Cpu().String(); got != "100m" {
		t.Errorf("request %s", got)
	}
}
