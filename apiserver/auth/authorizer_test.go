package auth

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

// ask parses "verb group/resource[/sub] [ns=NS] [name=NAME] [field=SELECTOR]" or "verb /path".
func ask(t *testing.T, u user.Info, question string) authorizer.AttributesRecord {
	t.Helper()
	words := strings.Fields(question)
	a := authorizer.AttributesRecord{User: u, Verb: words[0]}
	if strings.HasPrefix(words[1], "/") {
		a.Path = words[1]
		return a
	}
	a.ResourceRequest = true
	group, resource, _ := strings.Cut(words[1], ":")
	a.APIGroup = group
	a.Resource, a.Subresource, _ = strings.Cut(resource, "/")
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "ns":
			a.Namespace = value
		case "name":
			a.Name = value
		case "field":
			s, err := fields.ParseSelector(value)
			if err != nil {
				t.Fatal(err)
			}
			a.FieldSelectorRequirements = s.Requirements()
		case "label":
			s, err := labels.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			a.LabelSelectorRequirements, _ = s.Requirements()
		}
	}
	return a
}

// newTestAuthorizer has the default roles and those given.
func newTestAuthorizer(r Reader, more ...runtime.Object) *Authorizer {
	z := NewAuthorizer(r)
	d := NewDefaults()
	for i := range d.ClusterRoles {
		z.Policy().Set(&d.ClusterRoles[i])
	}
	for i := range d.ClusterRoleBindings {
		z.Policy().Set(&d.ClusterRoleBindings[i])
	}
	for i := range d.Roles {
		z.Policy().Set(&d.Roles[i])
	}
	for i := range d.RoleBindings {
		z.Policy().Set(&d.RoleBindings[i])
	}
	for _, obj := range more {
		z.Policy().Set(obj)
	}
	return z
}

func TestAuthorizer(t *testing.T) {
	z := newTestAuthorizer(world())
	admin := person("kubernetes-admin", "system:masters", "system:authenticated")
	node := person("system:node:n1", "system:nodes", "system:authenticated")
	stranger := person("system:node:n2", "system:nodes", "system:authenticated")
	fake := person("system:node:n1", "system:authenticated")
	robot := person("system:serviceaccount:ns:robot", "system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated")
	anyone := person("system:anonymous", "system:unauthenticated")
	cases := []struct {
		user user.Info
		yes  []string
		no   []string
	}{
		{admin, []string{"delete :nodes name=n1", "impersonate :users", "get /metrics"}, nil},
		{anyone, []string{"get /livez", "get /readyz", "get /version"}, []string{"get /api", "get /metrics", "list :pods ns=ns", "post /livez", "get /versions", "get /readyz/etcd"}},
		{robot, []string{"get /apis/apps/v1", "get /openapi/v3", "create authorization.k8s.io:selfsubjectaccessreviews"},
			[]string{"get :pods ns=ns name=web", "get :secrets ns=ns name=vol", "create authorization.k8s.io:subjectaccessreviews", "create authentication.k8s.io:tokenreviews", "get /metrics"}},
		{person(user.KubeScheduler), []string{"list :pods", "create :pods/binding ns=ns", "patch :pods/status ns=ns name=web", "update coordination.k8s.io:leases ns=kube-system name=kube-scheduler"},
			[]string{"list :secrets", "update :nodes name=n1", "create :pods ns=ns", "update coordination.k8s.io:leases ns=kube-system name=other", "get :pods/log ns=ns name=web"}},
		{person(user.KubeControllerManager), []string{"list example.com:things", "deletecollection :secrets ns=ns", "create :pods ns=ns", "update :namespaces/finalize name=x", "create discovery.k8s.io:endpointslices ns=ns"},
			[]string{"get /metrics", "create :pods/exec ns=ns name=web", "create apps:deployments ns=ns", "impersonate :users", "escalate rbac.authorization.k8s.io:roles ns=ns"}},
		{person(user.KubeProxy), []string{"watch :services", "list discovery.k8s.io:endpointslices", "watch networking.k8s.io:servicecidrs"}, []string{"list :pods", "list :secrets", "update :services ns=ns name=x"}},
		{node, []string{
			"list :pods field=spec.nodeName=n1", "watch :pods field=spec.nodeName=n1", "get :pods ns=ns name=web", "delete :pods ns=ns name=web",
			"patch :pods/status ns=ns name=web", "get :secrets ns=ns name=vol", "get :secrets ns=ns name=pull", "get :secrets ns=ns name=env", "get :secrets ns=ns name=proj",
			"watch :configmaps ns=ns field=metadata.name=kube-root-ca.crt", "get :configmaps ns=ns name=initenv", "get :serviceaccounts ns=ns name=robot",
			"create :serviceaccounts/token ns=ns name=robot", "update :nodes/status name=n1", "patch :nodes name=n1", "create :nodes",
			"create coordination.k8s.io:leases ns=kube-node-lease", "update coordination.k8s.io:leases ns=kube-node-lease name=n1", "create :events ns=ns", "watch :services",
			"list :nodes", "watch :nodes", "get :configmaps ns=kube-system name=coracle-cluster", // beyond upstream
		}, []string{
			"list :pods", "list :pods field=spec.nodeName=n2", "get :pods ns=ns name=absent", "get :secrets ns=ns name=other", "list :secrets ns=ns", "get :secrets ns=kube-system name=vol",
			"list :configmaps", "create :serviceaccounts/token ns=ns name=other", "delete :nodes name=n1", "update coordination.k8s.io:leases ns=kube-node-lease name=n2",
			"update coordination.k8s.io:leases ns=default name=n1", "update :pods ns=ns name=web", "create :pods/exec ns=ns name=web", "update :secrets ns=ns name=vol",
			"deletecollection :pods ns=ns", "list :configmaps ns=kube-system", "get :configmaps ns=kube-system name=other", "update :configmaps ns=kube-system name=coracle-cluster",
		}},
		{stranger, nil, []string{"get :pods ns=ns name=web", "get :secrets ns=ns name=vol", "get :configmaps ns=ns name=kube-root-ca.crt", "create :serviceaccounts/token ns=ns name=robot"}},
		{fake, nil, []string{"get :pods ns=ns name=web", "get :secrets ns=ns name=vol", "update :nodes/status name=n1"}},
	}
	for _, c := range cases {
		for want, questions := range map[bool][]string{true: c.yes, false: c.no} {
			for _, q := range questions {
				decision, _, err := z.Authorize(t.Context(), ask(t, c.user, q))
				if err != nil || (decision == authorizer.DecisionAllow) != want {
					t.Errorf("%s: %s: %v, %v", c.user.GetName(), q, decision, err)
				}
			}
		}
	}
}

func TestNodeLosesWhatItsPodsNoLongerReferTo(t *testing.T) {
	w := world()
	z := newTestAuthorizer(w)
	node := person("system:node:n1", "system:nodes")
	allowed := func(question string) bool {
		d, _, err := z.Authorize(t.Context(), ask(t, node, question))
		if err != nil {
			t.Fatal(err)
		}
		return d == authorizer.DecisionAllow
	}
	for range 2 {
		if !allowed("get :secrets ns=ns name=env") {
			t.Fatal("refused")
		}
	}
	pod := w["pods"][0].(*corev1.Pod)
	moved := pod.DeepCopy()
	moved.Spec.NodeName = "n2"
	other := pod.DeepCopy()
	other.Name = "web-2"
	w["pods"] = []runtime.Object{moved, other}
	if !allowed("get :secrets ns=ns name=env") {
		t.Error("another pod refers to it")
	}
	w["pods"] = []runtime.Object{moved}
	if allowed("get :secrets ns=ns name=env") {
		t.Error("no pod of the node refers to it any more")
	}
}

func TestAccessReviews(t *testing.T) {
	r := &Reviewer{Authorizer: newTestAuthorizer(world())}
	robot := person("system:serviceaccount:ns:robot", "system:authenticated")
	allowed := func(ra *authorizationv1.ResourceAttributes) bool {
		out, err := r.Review(t.Context(), person(user.KubeScheduler), "", &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: ra}})
		if err != nil {
			t.Fatal(err)
		}
		return out.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed
	}
	if !allowed(&authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods"}) || allowed(&authorizationv1.ResourceAttributes{Verb: "list", Resource: "secrets"}) {
		t.Error("self review differs from the authorizer")
	}
	_, err := r.Review(t.Context(), robot, "", &authorizationv1.SubjectAccessReview{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "exactly one of nonResourceAttributes or resourceAttributes must be specified") || !strings.Contains(err.Error(), "at least one of user or group must be specified") {
		t.Error(err)
	}
	out, err := r.Review(t.Context(), robot, "", &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}})
	if err != nil || len(out.(*authorizationv1.SelfSubjectRulesReview).Status.NonResourceRules) == 0 {
		t.Errorf("%v, %v", out, err)
	}
}

func BenchmarkAuthorizeNodeSecret(b *testing.B) {
	z := NewAuthorizer(world())
	a := authorizer.AttributesRecord{User: person("system:node:n1", "system:nodes"), Verb: "get", Resource: "secrets", Namespace: "ns", Name: "env", ResourceRequest: true}
	for b.Loop() {
		if d, _, _ := z.Authorize(b.Context(), a); d != authorizer.DecisionAllow {
			b.Fatal(d)
		}
	}
}
