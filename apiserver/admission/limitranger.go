package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	helpers "k8s.io/component-helpers/resource"
)

// limitRangerNote is the annotation that tells what was set by default.
const limitRangerNote = "kubernetes.io/limit-ranger"

// limitRanger holds pods and claims to the LimitRanges of their namespace, and gives containers the defaults there.
type limitRanger struct{ reader Reader }

func (limitRanger) Name() string { return "LimitRanger" }

// concerns tells whether the request brings resource requirements: of a new pod, a resized one, or a claim.
func (limitRanger) concerns(r *Request) bool {
	switch {
	case r.Operation != Create && r.Operation != Update:
		return false
	case r.is("", "pods", ""):
		return r.Operation == Create // containers of a pod do not change but by resize
	case r.is("", "pods", "resize"):
		return r.Operation == Update
	}
	return r.is("", "persistentvolumeclaims", "")
}

// ranges are the LimitRanges that apply to the request.
func (p limitRanger) ranges(ctx context.Context, r *Request) ([]*corev1.LimitRange, error) {
	if !p.concerns(r) {
		return nil, nil
	}
	if old, err := meta.Accessor(r.Old); err == nil && old.GetDeletionTimestamp() != nil {
		return nil, nil
	}
	all, err := list[*corev1.LimitRange](ctx, p.reader, schema.GroupResource{Resource: "limitranges"}, r.Namespace)
	if err != nil {
		return nil, r.forbid(fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", r.Operation, r.Resource.String()))
	}
	return all, nil
}

func (p limitRanger) Mutate(ctx context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	ranges, err := p.ranges(ctx, r)
	if err != nil {
		return err
	}
	for _, lr := range ranges {
		defaultContainers(lr, pod)
	}
	return nil
}

func (p limitRanger) Validate(ctx context.Context, r *Request) error {
	ranges, err := p.ranges(ctx, r)
	if err != nil {
		return err
	}
	for _, lr := range ranges {
		var errs []error
		switch obj := r.Object.(type) {
		case *corev1.Pod:
			errs = podLimits(lr, obj)
		case *corev1.PersistentVolumeClaim:
			errs = claimLimits(lr, obj)
		}
		if len(errs) > 0 {
			return r.forbid(utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// defaultContainers gives every container what the range has by default and it has not said, and notes that on the pod.
func defaultContainers(lr *corev1.LimitRange, pod *corev1.Pod) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range lr.Spec.Limits {
		if item := &lr.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	var notes []string
	for i := range pod.Spec.Containers {
		notes = append(notes, defaultContainer(&pod.Spec.Containers[i], "container", requests, limits)...)
	}
	for i := range pod.Spec.InitContainers {
		notes = append(notes, defaultContainer(&pod.Spec.InitContainers[i], "init container", requests, limits)...)
	}
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitRangerNote] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

func defaultContainer(c *corev1.Container, what string, requests, limits corev1.ResourceList) (notes []string) {
	if set := fill(&c.Resources.Requests, requests); len(set) > 0 {
		notes = append(notes, strings.Join(set, ", ")+" request for "+what+" "+c.Name)
	}
	if set := fill(&c.Resources.Limits, limits); len(set) > 0 {
		notes = append(notes, strings.Join(set, ", ")+" limit for "+what+" "+c.Name)
	}
	return notes
}

// fill sets what is missing in a list and tells the names, sorted.
func fill(list *corev1.ResourceList, defaults corev1.ResourceList) (set []string) {
	for name, quantity := range defaults {
		if _, have := (*list)[name]; have {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = quantity.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

// bounds are the three checks of one item, each against what was asked for.
type bounds struct {
	of               string // the item's type, for messages
	requests, limits corev1.ResourceList
}

func podLimits(lr *corev1.LimitRange, pod *corev1.Pod) (errs []error) {
	for i := range lr.Spec.Limits {
		item := &lr.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range containers {
					res := &containers[j].Resources
					errs = append(errs, bounds{string(item.Type), res.Requests, res.Limits}.check(item)...)
				}
			}
		case corev1.LimitTypePod:
			options := helpers.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, bounds{string(item.Type), helpers.PodRequests(pod, options), helpers.PodLimits(pod, options)}.check(item)...)
		}
	}
	return errs
}

// claimLimits checks a claim, which has requests only.
func claimLimits(lr *corev1.LimitRange, pvc *corev1.PersistentVolumeClaim) (errs []error) {
	for i := range lr.Spec.Limits {
		item := &lr.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		b := bounds{of: string(item.Type), requests: pvc.Spec.Resources.Requests}
		for _, name := range sortedNames(item.Min) {
			errs = appendErr(errs, b.min(name, item.Min[name]))
		}
		for _, name := range sortedNames(item.Max) {
			errs = appendErr(errs, b.maxRequest(name, item.Max[name]))
		}
	}
	return errs
}

func (b bounds) check(item *corev1.LimitRangeItem) (errs []error) {
	for _, name := range sortedNames(item.Min) {
		errs = appendErr(errs, b.min(name, item.Min[name]))
	}
	for _, name := range sortedNames(item.Max) {
		errs = appendErr(errs, b.max(name, item.Max[name]))
	}
	for _, name := range sortedNames(item.MaxLimitRequestRatio) {
		errs = appendErr(errs, b.ratio(name, item.MaxLimitRequestRatio[name]))
	}
	return errs
}

func appendErr(errs []error, err error) []error {
	if err != nil {
		return append(errs, err)
	}
	return errs
}

// sortedNames makes messages the same each time.
func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}

func (b bounds) min(name corev1.ResourceName, least resource.Quantity) error {
	request, requested := b.requests[name]
	limit, limited := b.limits[name]
	usage := fmt.Sprintf("minimum %s usage per %s is %s", name, b.of, least.String())
	switch {
	case !requested:
		return errors.New(usage + ".  No request is specified")
	case request.Cmp(least) < 0:
		return fmt.Errorf("%s, but request is %s", usage, request.String())
	case limited && limit.Cmp(least) < 0:
		return fmt.Errorf("%s, but limit is %s", usage, limit.String())
	}
	return nil
}

func (b bounds) max(name corev1.ResourceName, most resource.Quantity) error {
	request, requested := b.requests[name]
	limit, limited := b.limits[name]
	usage := fmt.Sprintf("maximum %s usage per %s is %s", name, b.of, most.String())
	switch {
	case !limited:
		return errors.New(usage + ".  No limit is specified")
	case limit.Cmp(most) > 0:
		return fmt.Errorf("%s, but limit is %s", usage, limit.String())
	case requested && request.Cmp(most) > 0:
		return fmt.Errorf("%s, but request is %s", usage, request.String())
	}
	return nil
}

// maxRequest is max where there are no limits.
func (b bounds) maxRequest(name corev1.ResourceName, most resource.Quantity) error {
	request, requested := b.requests[name]
	usage := fmt.Sprintf("maximum %s usage per %s is %s", name, b.of, most.String())
	switch {
	case !requested:
		return errors.New(usage + ".  No request is specified")
	case request.Cmp(most) > 0:
		return fmt.Errorf("%s, but request is %s", usage, request.String())
	}
	return nil
}

func (b bounds) ratio(name corev1.ResourceName, most resource.Quantity) error {
	request, limit := b.requests[name], b.limits[name]
	rule := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, b.of, most.String())
	switch {
	case request.IsZero():
		return errors.New(rule + ", but no request is specified or request is 0")
	case limit.IsZero():
		return errors.New(rule + ", but no limit is specified or limit is 0")
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > most.AsApproximateFloat64() {
		return fmt.Errorf("%s, but provided ratio is %f", rule, ratio)
	}
	return nil
}
