package fairness

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func path(name, verb, path string, groups ...string) *Request {
	r := ask(name, verb, groups...)
	r.Info = &request.RequestInfo{Verb: verb, Path: path}
	return r
}

func lease(name, verb string, groups ...string) *Request {
	r := ask(name, verb, groups...)
	r.Info.APIGroup, r.Info.Resource = "coordination.k8s.io", "leases"
	return r
}

func node(name, verb, sub string, groups ...string) *Request {
	r := ask(name, verb, groups...)
	r.Info.Resource, r.Info.Subresource, r.Info.Namespace = "nodes", sub, ""
	return r
}

// TestWhereRequestsGo: the objects that every cluster has sort requests as upstream's do, and catch the components of this one.
func TestWhereRequestsGo(t *testing.T) {
	c := New(Config{Seats: 600})
	const nodes, accounts = user.NodesGroup, "system:serviceaccounts"
	for _, x := range []struct {
		r             *Request
		schema, level string
	}{
		{ask("system:apiserver", "update", user.SystemPrivilegedGroup), "exempt", "exempt"},
		{ask("admin", "list", user.SystemPrivilegedGroup), "exempt", "exempt"},
		{path("system:anonymous", "get", "/readyz"), "probes", "exempt"},
		{path("jane", "get", "/livez/etcd"), "probes", "exempt"},
		{path("jane", "get", "/readyzz"), "global-default", "global-default"},
		{path("jane", "get", "/apis"), "global-default", "global-default"},
		{lease("system:kube-scheduler", "update"), "system-leader-election", "leader-election"},
		{lease("system:kube-controller-manager", "get"), "system-leader-election", "leader-election"},
		{lease("system:serviceaccount:kube-system:a", "create", accounts), "system-leader-election", "leader-election"},
		{lease("system:serviceaccount:kube-system:a", "list", accounts), "kube-system-service-accounts", "workload-high"},
		{lease("system:node:n", "update", nodes), "system-node-high", "node-high"},
		{node("system:node:n", "patch", "status", nodes), "system-node-high", "node-high"},
		{node("system:node:n", "get", "proxy", nodes), "system-nodes", "system"},
		{ask("system:node:n", "patch", nodes), "system-nodes", "system"},
		{ask("system:kube-scheduler", "create"), "kube-scheduler", "workload-high"},
		{ask("system:kube-controller-manager", "create"), "kube-controller-manager", "workload-high"},
		{ask("system:serviceaccount:kube-system:a", "get", accounts), "kube-system-service-accounts", "workload-high"},
		{ask("system:serviceaccount:default:a", "get", accounts), "service-accounts", "workload-low"},
		{lease("system:serviceaccount:kube-system2:a", "update", accounts), "service-accounts", "workload-low"},
		{ask("jane", "get"), "global-default", "global-default"},
	} {
		class := c.Classify(x.r)
		if s, l := class.Names(); s != x.schema || l != x.level {
			t.Errorf("%s %s %s: %s, %s; want %s, %s", x.r.User.GetName(), x.r.Info.Verb, x.r.Info.Resource+x.r.Info.Path, s, l, x.schema, x.level)
		}
	}
	nobody := ask("x", "get")
	nobody.User = &user.DefaultInfo{Name: "x"}
	if s, _ := c.Classify(nobody).Names(); s != "catch-all" {
		t.Errorf("one of no group: %s", s)
	}
}

func schemaOf(name string, precedence int32, level string, rule flowcontrolv1.ResourcePolicyRule, users ...string) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-s"}, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: precedence, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules:               []flowcontrolv1.PolicyRulesWithSubjects{{ResourceRules: []flowcontrolv1.ResourcePolicyRule{rule}}},
	}}
	for _, u := range users {
		s.Spec.Rules[0].Subjects = append(s.Spec.Rules[0].Subjects, flowcontrolv1.Subject{Kind: "User", User: &flowcontrolv1.UserSubject{Name: u}})
	}
	return s
}

var everything = flowcontrolv1.ResourcePolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}

func TestRules(t *testing.T) {
	rule := func(change func(*flowcontrolv1.ResourcePolicyRule)) flowcontrolv1.ResourcePolicyRule {
		r := everything
		change(&r)
		return r
	}
	for _, c := range []struct {
		name string
		rule flowcontrolv1.ResourcePolicyRule
		r    *Request
		want bool
	}{
		{"everything", everything, ask("jane", "get"), true},
		{"another user", everything, ask("joe", "get"), false},
		{"a path", everything, path("jane", "get", "/apis"), false},
		{"verb", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.Verbs = []string{"list", "get"} }), ask("jane", "get"), true},
		{"another verb", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.Verbs = []string{"list"} }), ask("jane", "get"), false},
		{"another group", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.APIGroups = []string{"apps"} }), ask("jane", "get"), false},
		{"namespace", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.Namespaces = []string{"default"} }), ask("jane", "get"), true},
		{"another namespace", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.Namespaces = []string{"other"} }), ask("jane", "get"), false},
		{"all namespaces, no cluster", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.ClusterScope = false }), node("jane", "get", ""), false},
		{"cluster", everything, node("jane", "get", ""), true},
		{"subresource", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.Resources = []string{"nodes/status"} }), node("jane", "get", "status"), true},
		{"not its subresource", rule(func(r *flowcontrolv1.ResourcePolicyRule) { r.Resources = []string{"nodes"} }), node("jane", "get", "status"), false},
	} {
		if got := matches(schemaOf("s", 1, "l", c.rule, "jane"), c.r); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestPrecedence(t *testing.T) {
	c := New(Config{Seats: 10})
	c.Configure(append(Levels(), limited("l", 1, 0, 0, 0, 0)), []*flowcontrolv1.FlowSchema{
		schemaOf("late", 3, "l", everything, "*"), schemaOf("b", 2, "l", everything, "jane"), schemaOf("a", 2, "l", everything, "jane"),
		schemaOf("dangling", 1, "nowhere", everything, "*"),
	})
	for name, want := range map[string]string{"jane": "a", "joe": "late"} {
		if s, _ := c.Classify(ask(name, "get")).Names(); s != want {
			t.Errorf("%s: %s, want %s", name, s, want)
		}
	}
	if s, _ := c.Classify(path("jane", "get", "/")).Names(); s != "catch-all" {
		t.Errorf("what no schema is for: %s", s)
	}
}

func TestWidth(t *testing.T) {
	objects := func(gr schema.GroupResource) int { return map[string]int{"pods": 950, "nodes": 3}[gr.Resource] }
	w := &watches{counts: map[watched]int{}}
	for range 30 {
		w.add(ask("a", "watch"))
	}
	narrowed := ask("a", "watch")
	narrowed.Query = "watch=true&fieldSelector=spec.nodeName%3Dn"
	w.add(narrowed)
	with := func(r *Request, query string) *Request { r.Query = query; return r }
	one := ask("a", "list")
	one.Info.Name = "p" // by a field selector
	elsewhere := ask("a", "create")
	elsewhere.Info.Namespace = "other"
	token := ask("a", "create")
	token.Info.Resource, token.Info.Subresource = "serviceaccounts", "token"
	for _, c := range []struct {
		name   string
		r      *Request
		most   int
		width  int
		linger string
	}{
		{"get", ask("a", "get"), 10, 1, "0s"},
		{"list", ask("a", "list"), 20, 10, "0s"},
		{"list, in a small level", ask("a", "list"), 4, 4, "0s"},
		{"page", with(ask("a", "list"), "limit=500"), 10, 5, "0s"},
		{"page of what is selected", with(ask("a", "list"), "limit=500&labelSelector=a"), 10, 10, "0s"},
		{"list of few", node("a", "list", ""), 10, 1, "0s"},
		{"list of one", one, 10, 1, "0s"},
		{"list of what is not known", lease("a", "list"), 10, 1, "0s"},
		{"watch", with(ask("a", "watch"), "resourceVersion=7"), 10, 1, "0s"},
		{"watch from the beginning", with(ask("a", "watch"), "sendInitialEvents=true"), 10, 10, "0s"},
		{"watch from nowhere", with(ask("a", "watch"), "watch=true"), 10, 10, "0s"},
		{"watch from now", with(ask("a", "watch"), "watch=true&sendInitialEvents=false"), 10, 1, "0s"},
		{"create, 30 watch", ask("a", "create"), 10, 3, "5ms"},
		{"create, 30 watch, in a small level", ask("a", "create"), 2, 2, "7.5ms"},
		{"create, nobody watches", elsewhere, 10, 1, "0s"},
		{"token", token, 10, 1, "0s"},
		{"page and nonsense", with(ask("a", "list"), "limit=%zz"), 10, 10, "0s"},
	} {
		if got := estimate(c.r, c.most, objects, w); got.width() != c.width || got.linger.String() != c.linger {
			t.Errorf("%s: %d seats, then %s", c.name, got.width(), got.linger)
		}
	}
	forget := w.add(lease("a", "watch"))
	forget()
	if len(w.counts) != 1 {
		t.Errorf("%v", w.counts)
	}
}
