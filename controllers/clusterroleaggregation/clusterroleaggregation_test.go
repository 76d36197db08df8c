package clusterroleaggregation

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func role(name, label string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}, APIGroups: []string{""}, Resources: []string{"pods"}})
	}
	return r
}

func selects(values ...string) *rbacv1.AggregationRule {
	a := &rbacv1.AggregationRule{}
	for _, v := range values {
		a.ClusterRoleSelectors = append(a.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{"to": v}})
	}
	return a
}

func TestGather(t *testing.T) {
	whole := role("whole", "x", "watch")
	all := []*rbacv1.ClusterRole{role("b", "x", "list", "get"), role("a", "x", "get"), whole, role("c", "y", "delete"), role("d", "z", "update")}
	for want, rule := range map[string]*rbacv1.AggregationRule{
		"get list":        selects("x"), // sorted by name, each once, without its own
		"delete get list": selects("y", "x"),
		"":                selects("nothing"),
	} {
		whole.AggregationRule = rule
		rules, err := gather(whole, all)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, r := range rules {
			have = append(have, r.Verbs...)
		}
		if got := strings.Join(have, " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	whole.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "to", Operator: "Maybe"}}}}}
	if _, err := gather(whole, all); err == nil {
		t.Error("a selector that cannot be read selects nothing in silence")
	}
}
