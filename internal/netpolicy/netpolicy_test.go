package netpolicy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

func peers(t *testing.T, namespace, text string) Peers {
	t.Helper()
	peer := &networkingv1.NetworkPolicyPeer{}
	if err := yaml.UnmarshalStrict([]byte(text), peer); err != nil {
		t.Fatal(err)
	}
	p, ok := PeersOf(namespace, peer)
	if !ok {
		t.Fatalf("%s is no group", text)
	}
	return p
}

func TestEqualGroupsHaveEqualKeys(t *testing.T) {
	equal := [][]Peers{
		{peers(t, "x", `{podSelector: {}}`), peers(t, "x", `{podSelector: {matchLabels: {}}}`)},
		{peers(t, "x", `{podSelector: {matchLabels: {a: "1", b: "2"}}}`), peers(t, "x", `{podSelector: {matchExpressions: [{key: b, operator: In, values: ["2"]}, {key: a, operator: In, values: ["1"]}]}}`)},
		{peers(t, "x", `{podSelector: {matchExpressions: [{key: a, operator: In, values: [p, q]}, {key: a, operator: NotIn, values: [r]}]}}`),
			peers(t, "x", `{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [r]}, {key: a, operator: In, values: [q, p]}]}}`)},
		{peers(t, "x", `{namespaceSelector: {}}`), peers(t, "y", `{namespaceSelector: {}}`), peers(t, "y", `{namespaceSelector: {}, podSelector: {}}`), Everyone()},
		{peers(t, "x", `{namespaceSelector: {matchLabels: {a: "1"}}}`)},
		{peers(t, "y", `{podSelector: {}}`)},
		{Everyone().WithPort(Port{"http", "TCP"})},
		{Everyone().WithPort(Port{"http", "UDP"})},
		{peers(t, "x", `{podSelector: {}}`).WithPort(Port{"http", "TCP"})},
	}
	seen := map[string]string{}
	for _, groups := range equal {
		key := groups[0].Key()
		if other, taken := seen[key]; taken {
			t.Errorf("%s and %s have one key", other, groups[0])
		}
		seen[key] = groups[0].String()
		if problems := validation.IsValidLabelValue(key); len(problems) > 0 {
			t.Error(problems)
		}
		for _, p := range groups {
			if p.Key() != key || p.String() != groups[0].String() {
				t.Errorf("%s and %s are one group", p, groups[0])
			}
		}
	}
}

func TestMatch(t *testing.T) {
	team, app := map[string]string{"team": "ops"}, map[string]string{"app": "web"}
	for text, want := range map[string]bool{
		`{podSelector: {}}`:                               true,
		`{podSelector: {matchLabels: {app: db}}}`:         false,
		`{namespaceSelector: {}}`:                         true,
		`{namespaceSelector: {matchLabels: {team: ops}}}`: true,
		`{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: web}}}`:             true,
		`{namespaceSelector: {matchLabels: {team: dev}}, podSelector: {matchLabels: {app: web}}}`:             false,
		`{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: db}}}`:              false,
		`{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}, podSelector: {}}`:     false,
		`{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}}`: true,
	} {
		if got := peers(t, "x", text).Match("x", team, app); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if peers(t, "x", `{podSelector: {}}`).Match("y", team, app) {
		t.Error("a pod of another namespace")
	}
}

func TestGroupsOfAPolicy(t *testing.T) {
	policy := &networkingv1.NetworkPolicy{}
	err := yaml.UnmarshalStrict([]byte(`
metadata: {namespace: x}
spec:
  podSelector: {}
  ingress:
  - from: [{podSelector: {matchLabels: {a: "1"}}}, {ipBlock: {cidr: 10.0.0.0/8}}]
    ports: [{port: http}]
  - from: [{podSelector: {matchLabels: {a: "1"}}}]
  egress:
  - to: [{namespaceSelector: {}}]
    ports: [{port: http}, {port: http, protocol: TCP}, {port: dns, protocol: UDP}]
  - to: [{podSelector: {}}]
    ports: [{port: 80}, {port: http}]
  - ports: [{port: metrics}]
`), policy)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for key, p := range Of(policy) {
		if key != p.Key() {
			t.Errorf("%s is filed under %s", p, key)
		}
		got = append(got, p.String())
	}
	want := []string{"all pods in all namespaces by port dns/UDP", "all pods in all namespaces by port http/TCP", "all pods in all namespaces by port metrics/TCP",
		"all pods in x", "all pods in x by port http/TCP", "pods a=1 in x"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(slices.Collect(maps.Keys(Of(&networkingv1.NetworkPolicy{})))) != 0 {
		t.Error("an empty policy names groups")
	}
}

func TestAddressAndPort(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "fd00::1"}, {IP: "10.244.0.7"}}}}
	if got := Address(pod); got != "10.244.0.7" {
		t.Error(got)
	}
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		ended := pod.DeepCopy()
		if ended.Status.Phase = phase; Address(ended) != "" {
			t.Errorf("%s: the address may be another's", phase)
		}
	}
	if pod.Spec.HostNetwork = true; Address(pod) != "" {
		t.Error("a pod of the host's network has the node's address")
	}
	spec := &corev1.PodSpec{
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}}}, {Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 5353}}}},
		InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "setup", ContainerPort: 1}}},
			{RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 15001}}}},
	}
	for port, want := range map[Port]int32{{"dns", "UDP"}: 53, {"dns", "TCP"}: 5353, {"mesh", "TCP"}: 15001, {"setup", "TCP"}: 0, {"dns", "SCTP"}: 0} {
		if got, ok := PortOf(spec, port); got != want || ok != (want != 0) {
			t.Errorf("%v: %d, %v", port, got, ok)
		}
	}
}

// FuzzKey: whatever selectors say, keys are labels' values, and equal for equal text only.
func FuzzKey(f *testing.F) {
	f.Add("x", "a", "1", "a", "2")
	f.Fuzz(func(t *testing.T, ns, k1, v1, k2, v2 string) {
		group := func(k, v string) (Peers, bool) {
			return PeersOf(ns, &networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}})
		}
		a, ok1 := group(k1, v1)
		b, ok2 := group(k2, v2)
		if !ok1 || !ok2 {
			return // the API refuses them, and nothing is in such a group
		}
		if (a.Key() == b.Key()) != (k1 == k2 && v1 == v2) {
			t.Errorf("%s, %s", a, b)
		}
	})
}
