package kinds

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func rbacMeta(ns, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, ResourceVersion: "1"}
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}
}

func TestRBACValidation(t *testing.T) {
	role := func(rules ...rbacv1.PolicyRule) field.ErrorList {
		return validateRole(&rbacv1.Role{ObjectMeta: rbacMeta("ns", "r"), Rules: rules})
	}
	clusterRole := func(rule *rbacv1.AggregationRule, rules ...rbacv1.PolicyRule) field.ErrorList {
		return validateClusterRole(&rbacv1.ClusterRole{ObjectMeta: rbacMeta("", "system:r"), Rules: rules, AggregationRule: rule})
	}
	binding := func(kind, name string, s ...rbacv1.Subject) field.ErrorList {
		return validateRoleBinding(&rbacv1.RoleBinding{ObjectMeta: rbacMeta("ns", "b"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}, Subjects: s})
	}
	clusterBinding := func(kind, name string, s ...rbacv1.Subject) field.ErrorList {
		return validateClusterRoleBinding(&rbacv1.ClusterRoleBinding{ObjectMeta: rbacMeta("", "b"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}, Subjects: s})
	}
	v := []string{"get"}
	cases := []struct {
		name string
		errs field.ErrorList
		want string // the errors, divided by "; "; empty: none
	}{
		{"role", role(rbacv1.PolicyRule{Verbs: v, APIGroups: []string{""}, Resources: []string{"pods", "*/scale"}, ResourceNames: []string{"a"}}), ""},
		{"empty rule", role(rbacv1.PolicyRule{}), "rules[0].verbs: Required value: verbs must contain at least one value; rules[0].apiGroups: Required value: resource rules must supply at least one api group; rules[0].resources: Required value: resource rules must supply at least one resource"},
		{"URL in a role", role(rbacv1.PolicyRule{Verbs: v, NonResourceURLs: []string{"/x"}}), `rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`},
		{"URL and resource", clusterRole(nil, rbacv1.PolicyRule{Verbs: v, NonResourceURLs: []string{"/x"}, Resources: []string{"pods"}}), `rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`},
		{"aggregation of nothing", clusterRole(&rbacv1.AggregationRule{}), "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"},
		{"aggregation", clusterRole(&rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}), ""},
		{"aggregation by a bad key", clusterRole(&rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"-a": "b"}}}}),
			`aggregationRule.clusterRoleSelectors[0].matchLabels: Invalid value: "-a": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},
		{"binding", binding("Role", "r", userSubject("u"), rbacv1.Subject{Kind: "ServiceAccount", Name: "sa"}), ""},
		{"cluster binding of a role", clusterBinding("Role", "r"), `roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`},
		{"binding of something", binding("Thing", "a/b"), `roleRef.kind: Unsupported value: "Thing": supported values: "Role", "ClusterRole"; roleRef.name: Invalid value: "a/b": may not contain '/'`},
		{"binding of nothing", binding("Role", ""), "roleRef.name: Required value"},
		{"nameless user", binding("Role", "r", userSubject("")), `subjects[0].name: Required value; subjects[0].name: Invalid value: "": user name cannot be empty`},
		{"account without namespace", clusterBinding("ClusterRole", "r", rbacv1.Subject{Kind: "ServiceAccount", Name: "sa"}), "subjects[0].namespace: Required value"},
		{"account of a group", binding("Role", "r", rbacv1.Subject{Kind: "ServiceAccount", APIGroup: "x", Name: "sa"}), `subjects[0].apiGroup: Unsupported value: "x": supported values: ""`},
		{"subject of no kind", binding("Role", "r", rbacv1.Subject{Name: "x"}), `subjects[0].kind: Unsupported value: "": supported values: "ServiceAccount", "User", "Group"`},
	}
	for _, c := range cases {
		var have []string
		for _, err := range c.errs {
			have = append(have, err.Error())
		}
		if got := strings.Join(have, "; "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestBindingKeepsItsRole(t *testing.T) {
	old := &rbacv1.RoleBinding{ObjectMeta: rbacMeta("ns", "b"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}, {Kind: "ServiceAccount", Name: "s"}}}
	defaultRoleBinding(&old.RoleRef, old.Subjects)
	if old.RoleRef.APIGroup != rbacv1.GroupName || old.Subjects[0].APIGroup != rbacv1.GroupName || old.Subjects[1].APIGroup != "" {
		t.Fatalf("defaults %+v", old)
	}
	other := old.DeepCopy()
	other.Subjects = nil
	if errs := validateRoleBindingUpdate(other, old); len(errs) > 0 {
		t.Errorf("other subjects: %v", errs)
	}
	other.RoleRef.Name = "admin"
	errs := validateRoleBindingUpdate(other, old)
	if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "roleRef: Invalid value: ") || !strings.HasSuffix(errs[0].Error(), ": cannot change roleRef") {
		t.Errorf("another role: %v", errs)
	}
}

func TestBindingCells(t *testing.T) {
	k := clusterRoleBindings()
	got := k.Cells(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}, {Kind: "User", Name: "v"}, {Kind: "Group", Name: "g"}, {Kind: "ServiceAccount", Namespace: "ns", Name: "s"}}}, now)
	want := []any{"b", "ClusterRole/view", "<unknown>", "u, v", "g", "ns/s"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("cell %d is %v, want %v", i, got[i], want[i])
		}
	}
}
