package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func quotaKinds() []Kind { return []Kind{limitRanges(), resourceQuotas()} }

func limitRanges() Kind {
	return Kind{
		GVK:            corev1.SchemeGroupVersion.WithKind("LimitRange"),
		Resource:       "limitranges",
		Singular:       "limitrange",
		ShortNames:     []string{"limits"},
		Namespaced:     true,
		Prefix:         "limitranges",
		New:            func() runtime.Object { return &corev1.LimitRange{} },
		NewList:        func() runtime.Object { return &corev1.LimitRangeList{} },
		Default:        on(defaultLimitRange),
		Validate:       check(validateLimitRange),
		ValidateUpdate: checkUpdate(validateLimitRangeUpdate),
		NoGeneration:   true, UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("Created At", "date", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])},
		Cells: cells(func(l *corev1.LimitRange, _ metav1.Time) []any {
			return []any{l.Name, l.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z")}
		}),
	}
}

// defaultLimitRange fills in a container's limits from its greatest and its requests from its limits or its least.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		fillResources(&item.Default, item.Max)
		fillResources(&item.DefaultRequest, item.Default)
		fillResources(&item.DefaultRequest, item.Min)
	}
}

// fillResources adds what the list lacks of another.
func fillResources(to *corev1.ResourceList, from corev1.ResourceList) {
	for name, q := range from {
		if _, ok := (*to)[name]; !ok {
			setResource(to, name, q.DeepCopy())
		}
	}
}

func resourceQuotas() Kind {
	return Kind{
		GVK:        corev1.SchemeGroupVersion.WithKind("ResourceQuota"),
		Resource:   "resourcequotas",
		Singular:   "resourcequota",
		ShortNames: []string{"quota"},
		Namespaced: true,
		Prefix:     "resourcequotas",
		New:        func() runtime.Object { return &corev1.ResourceQuota{} },
		NewList:    func() runtime.Object { return &corev1.ResourceQuotaList{} },
		PrepareCreate: on(func(q *corev1.ResourceQuota) {
			q.Status = corev1.ResourceQuotaStatus{}
		}),
		PrepareUpdate:  onUpdate(func(q, old *corev1.ResourceQuota) { q.Status = *old.Status.DeepCopy() }),
		Validate:       check(validateResourceQuota),
		ValidateUpdate: checkUpdate(validateResourceQuotaUpdate),
		NoGeneration:   true, UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume."),
			column("Limit", "string", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			ageColumn(),
		},
		Cells: cells(resourceQuotaCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = *old.Spec.DeepCopy() }),
			ValidateUpdate: checkUpdate(validateResourceQuotaStatusUpdate),
		},
	}
}

// resourceQuotaCells show used and hard of each resource, in the order of their names.
func resourceQuotaCells(q *corev1.ResourceQuota, now metav1.Time) []any {
	var requests, limits []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		text := fmt.Sprintf("%s: %s/%s", name, amount(used), amount(hard))
		if strings.HasPrefix(string(name), "limits") {
			limits = append(limits, text)
		} else {
			requests = append(requests, text)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(now, q.CreationTimestamp)}
}

func amount(q resource.Quantity) string { return q.String() }
