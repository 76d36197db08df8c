package kinds

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzExpressions: whatever is written in a policy, it is accepted or refused with the path of a field.
func FuzzExpressions(f *testing.F) {
	f.Add("object.spec.replicas <= 5", "variables.v", "'too many: ' + string(variables.v)")
	f.Add("authorizer.group('apps').resource('deployments').check('create').allowed()", "oldObject", "")
	f.Add("params.x == namespaceObject.metadata.name", "[1,2].map(a, a)", "\n")
	f.Add("... [] bad", "", "{}")
	f.Fuzz(func(t *testing.T, expression, variable, message string) {
		p := &admissionv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: "p"},
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{"*"},
						Rule: admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}}},
				}}},
				Variables:   []admissionv1.Variable{{Name: "v", Expression: variable}},
				Validations: []admissionv1.Validation{{Expression: expression, MessageExpression: message}},
			},
		}
		k := validatingPolicies()
		k.Default(p)
		for _, err := range k.Validate(p) {
			if err.Field == "" || err.Error() == "" {
				t.Errorf("an error without a field: %v", err)
			}
		}
	})
}
