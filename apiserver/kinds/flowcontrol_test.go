package kinds

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func flowSchema(change func(*flowcontrolv1.FlowSchemaSpec)) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "l"},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "jane"}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}}},
		}},
	}}
	change(&s.Spec)
	flowSchemas().Default(s)
	return s
}

func TestFlowSchema(t *testing.T) {
	rule := "spec.rules[0]"
	for _, c := range []struct {
		name   string
		change func(*flowcontrolv1.FlowSchemaSpec)
		want   []string
	}{
		{"plain", func(*flowcontrolv1.FlowSchemaSpec) {}, nil},
		{"first", func(s *flowcontrolv1.FlowSchemaSpec) { s.MatchingPrecedence = 1 },
			[]string{"spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"}},
		{"last", func(s *flowcontrolv1.FlowSchemaSpec) { s.MatchingPrecedence = 10001 }, []string{"spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"}},
		{"no level", func(s *flowcontrolv1.FlowSchemaSpec) { s.PriorityLevelConfiguration.Name = "" },
			[]string{"spec.priorityLevelConfiguration.name: Required value: must reference a priority level"}},
		{"subject", func(s *flowcontrolv1.FlowSchemaSpec) {
			s.Rules[0].Subjects[0].Kind = flowcontrolv1.SubjectKindServiceAccount
		}, []string{rule + ".subjects[0].serviceAccount: Required value: serviceAccount is required when subject kind is 'ServiceAccount'",
			rule + ".subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'"}},
		{"nothing", func(s *flowcontrolv1.FlowSchemaSpec) { s.Rules[0].ResourceRules = nil },
			[]string{rule + ": Required value: at least one of resourceRules and nonResourceRules has to be non-empty"}},
		{"verbs", func(s *flowcontrolv1.FlowSchemaSpec) { s.Rules[0].ResourceRules[0].Verbs = []string{"*", "get"} },
			[]string{rule + `.resourceRules[0].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs`}},
		{"namespace", func(s *flowcontrolv1.FlowSchemaSpec) { s.Rules[0].ResourceRules[0].Namespaces = nil },
			[]string{rule + ".resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"}},
		{"path", func(s *flowcontrolv1.FlowSchemaSpec) {
			s.Rules[0].NonResourceRules = []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/a*"}}}
		}, []string{rule + `.nonResourceRules[0].nonResourceURLs[0]: Invalid value: "/a*": wildcard can only do suffix matching`}},
	} {
		t.Run(c.name, func(t *testing.T) { mustSay(t, validateFlowSchema(flowSchema(c.change)), c.want...) })
	}
}

func TestPriorityLevel(t *testing.T) {
	level := func(name string, change func(*flowcontrolv1.PriorityLevelConfigurationSpec)) *flowcontrolv1.PriorityLevelConfiguration {
		l := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{}}}}}
		change(&l.Spec)
		defaultPriorityLevel(l)
		return l
	}
	plain := level("l", func(*flowcontrolv1.PriorityLevelConfigurationSpec) {})
	mustSay(t, validatePriorityLevel(plain))
	if q := plain.Spec.Limited.LimitResponse.Queuing; *plain.Spec.Limited.NominalConcurrencyShares != 30 || q.Queues != 64 || q.HandSize != 8 || q.QueueLengthLimit != 50 {
		t.Errorf("defaults %+v", plain.Spec.Limited)
	}
	mustSay(t, validatePriorityLevel(level("exempt", func(*flowcontrolv1.PriorityLevelConfigurationSpec) {})),
		`spec.type: Invalid value: "Limited": type must be 'Exempt' if and only if name is 'exempt'`,
		`spec: Invalid value: {"type":"Limited","limited":{"nominalConcurrencyShares":30,"limitResponse":{"type":"Queue","queuing":{"queues":64,"handSize":8,"queueLengthLimit":50}},"lendablePercent":0}}: spec of 'exempt' except the 'spec.exempt' field must equal the fixed value`)
	mustSay(t, validatePriorityLevel(level("l", func(s *flowcontrolv1.PriorityLevelConfigurationSpec) {
		s.Limited.LimitResponse.Queuing.Queues, s.Limited.LimitResponse.Queuing.HandSize = 512, 16
		s.Limited.LendablePercent = ptr(int32(101))
	})), "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
		"spec.limited.limitResponse.queuing.handSize: Invalid value: 16: required entropy bits of deckSize 512 and handSize 16 should not be greater than 60")
	mustSay(t, validatePriorityLevel(level("l", func(s *flowcontrolv1.PriorityLevelConfigurationSpec) {
		s.Limited.LimitResponse.Type = flowcontrolv1.LimitResponseTypeReject
	})), "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited")
}

func TestRuntimeClass(t *testing.T) {
	c := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Handler: "Run", Scheduling: &nodev1.Scheduling{
		Tolerations: []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}, {Key: "a", Operator: corev1.TolerationOpExists}}}}
	mustSay(t, validateRuntimeClass(c), `handler: Invalid value: "Run": a lowercase RFC 1123 label`, "scheduling.tolerations[1]: Duplicate value")
}

func TestSigningRequestIsRefused(t *testing.T) {
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: []byte("x"), SignerName: "kubernetes.io/legacy-unknown", ExpirationSeconds: ptr(int32(599)),
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, "flying", certificatesv1.UsageClientAuth},
	}}
	mustSay(t, validateSigningRequest(r),
		"spec.request: Invalid value",
		`spec.usages[1]: Unsupported value: "flying": supported values: "any", "cert sign", "client auth"`,
		`spec.usages[2]: Duplicate value: "client auth"`,
		`spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version`,
		"spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)")
}
