package match

import (
	"context"
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

// spaces is a Reader of namespaces.
type spaces []runtime.Object

func (s spaces) Get(_ context.Context, gr schema.GroupResource, _, name string) (runtime.Object, error) {
	for _, obj := range s {
		if obj.(*corev1.Namespace).Name == name {
			return obj, nil
		}
	}
	return nil, apierrors.NewNotFound(gr, name)
}

func (s spaces) List(context.Context, schema.GroupResource, string) ([]runtime.Object, metav1.ListMeta, error) {
	return s, metav1.ListMeta{}, nil
}

// two serves scalers in v1 and v2.
type two struct{ Versions }

func (two) Equivalents(r schema.GroupVersionResource, _ string) []Target {
	if r.Resource != "scalers" {
		return nil
	}
	other := map[string]string{"v1": "v2", "v2": "v1"}[r.Version]
	return []Target{{r.GroupResource().WithVersion(other), schema.GroupVersionKind{Group: r.Group, Version: other, Kind: "Scaler"}}}
}

func rule(scope admissionv1.ScopeType, group, version, resource string, names ...string) admissionv1.NamedRuleWithOperations {
	return admissionv1.NamedRuleWithOperations{ResourceNames: names, RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Connect},
		Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}, Scope: &scope},
	}}
}

func labelled(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func request(group, version, resource, sub, namespace string) *admission.Request {
	return &admission.Request{
		Operation: admission.Create, Resource: schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, Subresource: sub,
		Namespace: namespace, Name: "n", Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}},
	}
}

func TestMatch(t *testing.T) {
	const all = admissionv1.AllScopes
	m := &Matcher{Versions: two{}, Reader: spaces{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "red", Labels: map[string]string{"color": "red"}}}}}
	pods, deletion := request("", "v1", "pods", "", "red"), request("", "v1", "pods", "", "red")
	deletion.Operation = admission.Delete
	was := request("", "v1", "pods", "", "red")
	was.Old, was.Object = was.Object, &corev1.Pod{}
	space := request("", "v1", "namespaces", "", "new")
	space.Object = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"color": "blue"}}}
	for _, c := range []struct {
		name           string
		req            *admission.Request
		rule           admissionv1.NamedRuleWithOperations
		exclude        []admissionv1.NamedRuleWithOperations
		policy         admissionv1.MatchPolicyType
		space, object  *metav1.LabelSelector
		want, notFound bool
		version        string
	}{
		{name: "itself", req: pods, rule: rule(all, "", "v1", "pods"), want: true},
		{name: "anything", req: pods, rule: rule(all, "*", "*", "*"), want: true},
		{name: "another operation", req: deletion, rule: rule(all, "*", "*", "*/*")},
		{name: "another group", req: pods, rule: rule(all, "apps", "v1", "pods")},
		{name: "a star is no subresource", req: request("", "v1", "pods", "exec", "red"), rule: rule(all, "", "v1", "*")},
		{name: "a subresource", req: request("", "v1", "pods", "exec", "red"), rule: rule(all, "", "v1", "pods/exec"), want: true},
		{name: "all of a resource's", req: request("", "v1", "pods", "exec", "red"), rule: rule(all, "", "v1", "pods/*"), want: true},
		{name: "that of all resources", req: request("", "v1", "pods", "exec", "red"), rule: rule(all, "", "v1", "*/exec"), want: true},
		{name: "names", req: pods, rule: rule(all, "", "v1", "pods", "m", "n"), want: true},
		{name: "other names", req: pods, rule: rule(all, "", "v1", "pods", "m")},
		{name: "namespaced", req: pods, rule: rule(admissionv1.NamespacedScope, "", "v1", "*"), want: true},
		{name: "not the cluster's", req: pods, rule: rule(admissionv1.ClusterScope, "", "v1", "*")},
		{name: "namespaces are the cluster's", req: space, rule: rule(admissionv1.ClusterScope, "", "v1", "*"), want: true},
		{name: "excluded", req: pods, rule: rule(all, "", "v1", "pods"), exclude: []admissionv1.NamedRuleWithOperations{rule(all, "", "v1", "pods")}},
		{name: "another is excluded", req: pods, rule: rule(all, "", "v1", "pods"), exclude: []admissionv1.NamedRuleWithOperations{rule(all, "", "v1", "pods", "m")}, want: true},
		{name: "equivalent", req: request("a", "v1", "scalers", "", "red"), rule: rule(all, "a", "v2", "scalers"), want: true, version: "v2"},
		{name: "exact", req: request("a", "v1", "scalers", "", "red"), rule: rule(all, "a", "v2", "scalers"), policy: admissionv1.Exact},
		{name: "its namespace", req: pods, rule: rule(all, "", "v1", "pods"), space: labelled("color", "red"), want: true},
		{name: "not its namespace", req: pods, rule: rule(all, "", "v1", "pods"), space: labelled("color", "blue")},
		{name: "a namespace's own labels", req: space, rule: rule(all, "", "v1", "namespaces"), space: labelled("color", "blue"), want: true},
		{name: "no namespace to select", req: request("", "v1", "nodes", "", ""), rule: rule(all, "", "v1", "nodes"), space: labelled("color", "blue"), want: true},
		{name: "an unknown namespace", req: request("", "v1", "pods", "", "gone"), rule: rule(all, "", "v1", "pods"), space: labelled("color", "blue"), want: true, notFound: true},
		{name: "unknown, but not asked about", req: request("", "v1", "pods", "", "gone"), rule: rule(all, "", "v1", "nodes"), space: labelled("color", "blue")},
		{name: "its labels", req: pods, rule: rule(all, "", "v1", "pods"), object: labelled("app", "web"), want: true},
		{name: "other labels", req: pods, rule: rule(all, "", "v1", "pods"), object: labelled("app", "db")},
		{name: "the labels it had", req: was, rule: rule(all, "", "v1", "pods"), object: labelled("app", "web"), want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.policy == "" {
				c.policy = admissionv1.Equivalent
			}
			criteria, err := Compile([]admissionv1.NamedRuleWithOperations{c.rule}, c.exclude, &c.policy, c.space, c.object)
			if err != nil {
				t.Fatal(err)
			}
			target, ok, err := m.Match(t.Context(), c.req, criteria)
			if ok != c.want || apierrors.IsNotFound(err) != c.notFound || err != nil && !c.notFound {
				t.Errorf("matches %t, %v", ok, err)
			}
			if c.version != "" && target.Resource.Version != c.version {
				t.Errorf("shown as %v", target.Resource)
			}
		})
	}
}

func TestExempt(t *testing.T) {
	for resource, want := range map[string]bool{"mutatingwebhookconfigurations": true, "validatingadmissionpolicybindings": true, "others": false} {
		if got := Exempt(request(admissionv1.GroupName, "v1", resource, "", "")); got != want {
			t.Errorf("%s: %t", resource, got)
		}
	}
	if Exempt(request("example.org", "v1", "mutatingwebhookconfigurations", "", "")) {
		t.Error("another group's")
	}
}

// TestSourceCompilesWhatChanged: and what stays as it is costs no allocation, above all where there is nothing.
func TestSourceCompilesWhatChanged(t *testing.T) {
	red, blue := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "red"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "blue"}}
	objects := spaces{}
	compiled := 0
	s := NewSource(&objects, namespaces, func(obj runtime.Object) []string {
		compiled++
		return []string{obj.(*corev1.Namespace).Name}
	})
	for _, c := range []struct {
		objects  spaces
		want     []string
		compiled int
	}{
		{spaces{}, nil, 0}, {spaces{red}, []string{"red"}, 1}, {spaces{blue, red}, []string{"blue", "red"}, 2},
		{spaces{blue}, []string{"blue"}, 2}, {spaces{blue.DeepCopy()}, []string{"blue"}, 3}, {spaces{}, nil, 3},
	} {
		objects = c.objects
		for range 2 {
			got, err := s.All(t.Context())
			if err != nil || !slices.Equal(got, c.want) || compiled != c.compiled {
				t.Errorf("%v after %d compilations, %v; want %v after %d", got, compiled, err, c.want, c.compiled)
			}
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = s.All(context.Background()) }); n != 0 {
			t.Errorf("%d objects: %v allocations", len(c.objects), n)
		}
	}
}

func TestNilPolicyIsEquivalent(t *testing.T) {
	c, err := Compile(nil, nil, nil, nil, nil)
	if err != nil || !c.equivalent || !c.namespace.Empty() || !c.object.Empty() {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Compile(nil, nil, ptr.To(admissionv1.Exact), labelled("-", "x"), nil); err == nil {
		t.Error("a selector that is none compiles")
	}
}
