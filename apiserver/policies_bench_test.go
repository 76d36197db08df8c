package apiserver_test

import (
	"fmt"
	"net/http"
	"testing"
)

// policyBody is a policy about pods: a variable, a condition and a check that pass.
func policyBody(name string) string {
	return fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":%q},"spec":{
		"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["pods"]}]},
		"variables":[{"name":"images","expression":"object.spec.containers.map(c, c.image)"}],
		"matchConditions":[{"name":"labeled","expression":"has(object.metadata.labels)"}],
		"validations":[{"expression":"variables.images.all(i, i.startsWith('registry.example.com/'))","message":"an unknown registry"}]}}`, name)
}

func bindingBody(name string) string {
	return fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicyBinding","metadata":{"name":%q},
		"spec":{"policyName":%q,"validationActions":["Deny"]}}`, name, name)
}

const policiesPath = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"

func addPolicies(b *testing.B, h http.Handler, n int) {
	b.Helper()
	for i := range n {
		name := fmt.Sprintf("policy-%02d", i)
		do(b, h, request("POST", policiesPath+"ies", "application/json", policyBody(name)))
		do(b, h, request("POST", policiesPath+"ybindings", "application/json", bindingBody(name)))
	}
}

// BenchmarkCreateWithPolicies is the cost of creating a pod that so many policies look at.
func BenchmarkCreateWithPolicies(b *testing.B) {
	for _, n := range []int{0, 1, 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := startBench(b, 0)
			addPolicies(b, h, n)
			do(b, h, request("POST", podsPath, protobuf, podBody("first"))) // compiles
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				do(b, h, request("POST", podsPath, protobuf, podBody(fmt.Sprintf("pod-%07d", i))))
			}
		})
	}
}
