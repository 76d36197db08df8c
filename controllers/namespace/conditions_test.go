package namespace

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

func TestConditions(t *testing.T) {
	now := metav1.NewTime(time.Unix(1000, 0))
	bad := findings{
		discovery: &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "metrics.k8s.io", Version: "v1"}: errors.New("no endpoints")}},
		parsing:   errors.New("unexpected GroupVersion string: a/b/c"),
		failures:  []error{errors.New("z"), errors.New("a")},
		remaining: map[schema.GroupVersionResource]int{
			{Version: "v1", Resource: "pods"}: 2, {Group: "example.com", Version: "v1", Resource: "widgets"}: 1},
		finalizers: map[string]int{"example.com/b": 1, "a.example.com/x": 2},
	}
	first := conditions(nil, bad, now)
	want := []corev1.NamespaceCondition{
		{Type: "NamespaceDeletionDiscoveryFailure", Status: "True", Reason: "DiscoveryFailed", Message: "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1: no endpoints"},
		{Type: "NamespaceDeletionGroupVersionParsingFailure", Status: "True", Reason: "GroupVersionParsingFailed", Message: "unexpected GroupVersion string: a/b/c"},
		{Type: "NamespaceDeletionContentFailure", Status: "True", Reason: "ContentDeletionFailed", Message: "Failed to delete all resource types, 2 remaining: a, z"},
		{Type: "NamespaceContentRemaining", Status: "True", Reason: "SomeResourcesRemain", Message: "Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances"},
		{Type: "NamespaceFinalizersRemaining", Status: "True", Reason: "SomeFinalizersRemain", Message: "Some content in the namespace has finalizers remaining: a.example.com/x in 2 resource instances, example.com/b in 1 resource instances"},
	}
	check(t, first, want, now)
	later := metav1.NewTime(time.Unix(2000, 0))
	again := conditions(first, bad, later)
	check(t, again, want, now)
	if text := discoveryText(errors.New("plain")); text != "plain" {
		t.Error(text)
	}

	good := []corev1.NamespaceCondition{
		{Type: "NamespaceDeletionDiscoveryFailure", Status: "False", Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
		{Type: "NamespaceDeletionGroupVersionParsingFailure", Status: "False", Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
		{Type: "NamespaceDeletionContentFailure", Status: "False", Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: "NamespaceContentRemaining", Status: "False", Reason: "ContentRemoved", Message: "All content successfully removed"},
		{Type: "NamespaceFinalizersRemaining", Status: "False", Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
	}
	check(t, conditions(again, findings{}, later), good, later)
}

func check(t *testing.T, got, want []corev1.NamespaceCondition, since metav1.Time) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d conditions, want %d", len(got), len(want))
	}
	for i := range want {
		want[i].LastTransitionTime = since
		if got[i] != want[i] {
			t.Errorf("%+v\nwant %+v", got[i], want[i])
		}
	}
}

func TestTargets(t *testing.T) {
	verbs := metav1.Verbs{"delete", "list", "deletecollection"}
	targets, err := targetsOf([]*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods", Verbs: verbs}, {Name: "pods/status", Verbs: verbs}, {Name: "bindings", Verbs: metav1.Verbs{"create"}}}},
		{GroupVersion: "a/b/c", APIResources: []metav1.APIResource{{Name: "x", Verbs: verbs}}},
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Verbs: metav1.Verbs{"delete", "list"}}}},
	})
	if err == nil || len(targets) != 2 || targets[0] != (target{podResource, true}) ||
		targets[1] != (target{schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}, false}) {
		t.Errorf("%v, %v", targets, err)
	}
}
