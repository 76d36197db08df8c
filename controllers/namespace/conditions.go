package namespace

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// findings are what one attempt to empty a namespace came upon.
type findings struct {
	// discovery is why not all resources are known; nil when they are.
	discovery error
	// parsing is why not all group versions make sense; nil when they do.
	parsing error
	// failures are deletions and lists that failed.
	failures []error
	// remaining counts the objects left, by resource.
	remaining map[schema.GroupVersionResource]int
	// finalizers counts the objects that wait for each finalizer.
	finalizers map[string]int
}

// outcome is one condition's two faces.
type outcome struct {
	kind         corev1.NamespaceConditionType
	bad          bool
	reason, text string
	okReason, ok string
}

// conditions are the namespace's after an attempt. It is pure.
func conditions(have []corev1.NamespaceCondition, f findings, now metav1.Time) []corev1.NamespaceCondition {
	list := slices.Clone(have)
	for _, o := range outcomes(f) {
		next := corev1.NamespaceCondition{Type: o.kind, Status: corev1.ConditionFalse, Reason: o.okReason, Message: o.ok, LastTransitionTime: now}
		if o.bad {
			next.Status, next.Reason, next.Message = corev1.ConditionTrue, o.reason, o.text
		}
		i := slices.IndexFunc(list, func(c corev1.NamespaceCondition) bool { return c.Type == o.kind })
		if i < 0 {
			list = append(list, next)
			continue
		}
		if list[i].Status == next.Status {
			next.LastTransitionTime = list[i].LastTransitionTime
		}
		list[i] = next
	}
	return list
}

func outcomes(f findings) []outcome {
	return []outcome{
		{corev1.NamespaceDeletionDiscoveryFailure, f.discovery != nil, "DiscoveryFailed", discoveryText(f.discovery), "ResourcesDiscovered", "All resources successfully discovered"},
		{corev1.NamespaceDeletionGVParsingFailure, f.parsing != nil, "GroupVersionParsingFailed", fmt.Sprint(f.parsing), "ParsedGroupVersions", "All legacy kube types successfully parsed"},
		{corev1.NamespaceDeletionContentFailure, len(f.failures) > 0, "ContentDeletionFailed", failureText(f.failures), "ContentDeleted", "All content successfully deleted, may be waiting on finalization"},
		{corev1.NamespaceContentRemaining, len(f.remaining) > 0, "SomeResourcesRemain", "Some resources are remaining: " + remainingText(f.remaining), "ContentRemoved", "All content successfully removed"},
		{corev1.NamespaceFinalizersRemaining, len(f.finalizers) > 0, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: " + finalizerText(f.finalizers), "ContentHasNoFinalizers", "All content-preserving finalizers finished"},
	}
}

func discoveryText(err error) string {
	if err == nil {
		return ""
	}
	var groups *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &groups) {
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups.Groups), err)
	}
	return err.Error()
}

func failureText(failures []error) string {
	texts := make([]string, 0, len(failures))
	for _, err := range failures {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(texts), strings.Join(texts, ", "))
}

func remainingText(remaining map[schema.GroupVersionResource]int) string {
	var texts []string
	for r, n := range remaining {
		texts = append(texts, fmt.Sprintf("%s.%s has %d resource instances", r.Resource, r.Group, n))
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

func finalizerText(finalizers map[string]int) string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(finalizers)) {
		texts = append(texts, fmt.Sprintf("%s in %d resource instances", name, finalizers[name]))
	}
	return strings.Join(texts, ", ")
}
