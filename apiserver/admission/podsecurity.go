package admission

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// The bounds of what a change of a namespace's policy looks at: upstream's.
const (
	maxPodsChecked = 3000
	podCheckTime   = time.Second
)

// privileged is the policy of a namespace that names none.
var privileged = psapi.Policy{
	Enforce: psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()},
	Audit:   psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()},
	Warn:    psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()},
}

// podSecurity holds pods to the Pod Security Standard that their namespace's labels name. Workloads are only warned of.
type podSecurity struct {
	reader Reader
	checks policy.Evaluator
}

func newPodSecurity(r Reader) podSecurity {
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err) // the library's own checks are sound
	}
	return podSecurity{reader: r, checks: checks}
}

func (podSecurity) Name() string { return "PodSecurity" }

func (podSecurity) Mutate(context.Context, *Request) error { return nil }

func (p podSecurity) Validate(ctx context.Context, r *Request) error {
	if r.Operation != Create && r.Operation != Update {
		return nil
	}
	switch obj := r.Object.(type) {
	case *corev1.Namespace:
		return p.namespace(ctx, r, obj)
	case *corev1.Pod:
		return p.pod(ctx, r, obj)
	}
	if r.Subresource != "" {
		return nil
	}
	if m, spec := podTemplate(r.Object); spec != nil {
		return p.workload(ctx, r, m, spec)
	}
	return nil
}

// podTemplate gives what a workload makes its pods of.
func podTemplate(obj runtime.Object) (*metav1.ObjectMeta, *corev1.PodSpec) {
	var t *corev1.PodTemplateSpec
	switch o := obj.(type) {
	case *corev1.PodTemplate:
		t = &o.Template
	case *corev1.ReplicationController:
		t = o.Spec.Template
	case *appsv1.ReplicaSet:
		t = &o.Spec.Template
	case *appsv1.Deployment:
		t = &o.Spec.Template
	case *appsv1.DaemonSet:
		t = &o.Spec.Template
	case *appsv1.StatefulSet:
		t = &o.Spec.Template
	case *batchv1.Job:
		t = &o.Spec.Template
	case *batchv1.CronJob:
		t = &o.Spec.JobTemplate.Spec.Template
	}
	if t == nil {
		return nil, nil
	}
	return &t.ObjectMeta, &t.Spec
}

// policyOf is the policy of the request's namespace. Labels that make no sense count as the strictest policy there is.
func (p podSecurity) policyOf(ctx context.Context, namespace string) (psapi.Policy, field.ErrorList, error) {
	ns, err := get[*corev1.Namespace](ctx, p.reader, schema.GroupResource{Resource: "namespaces"}, "", namespace)
	if err != nil {
		return privileged, nil, err
	}
	have, errs := psapi.PolicyToEvaluate(ns.Labels, privileged)
	return have, errs, nil
}

// note annotates the audit events of a request.
func (p podSecurity) note(r *Request, key, value string) {
	r.annotate(psapi.AuditAnnotationPrefix+key, value)
}

func (p podSecurity) noteErrors(r *Request, errs field.ErrorList) {
	if len(errs) > 0 {
		p.note(r, "error", fmt.Sprintf("Failed to parse policy: %v", errs.ToAggregate()))
	}
}

func (p podSecurity) pod(ctx context.Context, r *Request, pod *corev1.Pod) error {
	if r.Subresource != "" && r.Subresource != "ephemeralcontainers" && r.Subresource != "resize" {
		return nil
	}
	rules, errs, err := p.policyOf(ctx, r.Namespace)
	if err != nil {
		p.note(r, "error", err.Error())
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", r.Namespace))
	}
	if len(errs) == 0 && rules.FullyPrivileged() {
		p.note(r, psapi.EnforcedPolicyAnnotationKey, rules.Enforce.String())
		return nil
	}
	if old, ok := r.Old.(*corev1.Pod); ok && r.Operation == Update && !imagesChanged(pod, old) {
		return nil
	}
	p.noteErrors(r, errs)
	p.note(r, psapi.EnforcedPolicyAnnotationKey, rules.Enforce.String())
	result := p.evaluate(rules.Enforce, &pod.ObjectMeta, &pod.Spec)
	p.audit(r, rules.Audit, &pod.ObjectMeta, &pod.Spec)
	if !result.Allowed {
		return apierrors.NewForbidden(r.Resource.GroupResource(), r.Name, fmt.Errorf("violates PodSecurity %q: %s", rules.Enforce.String(), result.ForbiddenDetail()))
	}
	if rules.Warn != rules.Enforce {
		p.warn(r, rules.Warn, &pod.ObjectMeta, &pod.Spec)
	}
	return nil
}

func (p podSecurity) workload(ctx context.Context, r *Request, m *metav1.ObjectMeta, spec *corev1.PodSpec) error {
	rules, errs, err := p.policyOf(ctx, r.Namespace)
	if err != nil {
		p.note(r, "error", fmt.Sprintf("failed to lookup namespace %q: %v", r.Namespace, err))
		return nil // whoever makes the pods will be told
	}
	if len(errs) == 0 && rules.Warn.Level == psapi.LevelPrivileged && rules.Audit.Level == psapi.LevelPrivileged {
		return nil
	}
	p.noteErrors(r, errs)
	p.audit(r, rules.Audit, m, spec)
	p.warn(r, rules.Warn, m, spec)
	return nil
}

func (p podSecurity) evaluate(lv psapi.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) policy.AggregateCheckResult {
	return policy.AggregateCheckResults(p.checks.EvaluatePod(lv, m, spec))
}

// would words how a pod breaks a policy that is not enforced; empty where it does not.
func (p podSecurity) would(lv psapi.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) string {
	result := p.evaluate(lv, m, spec)
	if result.Allowed {
		return ""
	}
	return fmt.Sprintf("would violate PodSecurity %q: %s", lv.String(), result.ForbiddenDetail())
}

func (p podSecurity) warn(r *Request, lv psapi.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if text := p.would(lv, m, spec); text != "" {
		r.warn(text)
	}
}

// audit tells the audit log, where there is one, of what its policy would not have.
func (p podSecurity) audit(r *Request, lv psapi.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if r.Annotate == nil {
		return
	}
	if text := p.would(lv, m, spec); text != "" {
		p.note(r, psapi.AuditViolationsAnnotationKey, text)
	}
}

// imagesChanged tells of what an update of a pod can change that a policy looks at: containers and their images.
func imagesChanged(pod, old *corev1.Pod) bool {
	if len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return true
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Image != old.Spec.Containers[i].Image {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Image != old.Spec.InitContainers[i].Image {
			return true
		}
	}
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool {
		return !slices.ContainsFunc(old.Spec.EphemeralContainers, func(o corev1.EphemeralContainer) bool {
			return o.Name == c.Name && o.Image == c.Image
		})
	})
}

// namespace checks the labels that name a policy, and warns of pods that are there and break a stricter one.
func (p podSecurity) namespace(ctx context.Context, r *Request, ns *corev1.Namespace) error {
	if r.Subresource != "" {
		return nil
	}
	rules, errs := psapi.PolicyToEvaluate(ns.Labels, privileged)
	if r.Operation == Create {
		return p.labelErrors(r, errs)
	}
	old, ok := r.Old.(*corev1.Namespace)
	if !ok {
		return nil
	}
	before, oldErrs := psapi.PolicyToEvaluate(old.Labels, privileged)
	if len(errs) > 0 && errs.ToAggregate().Error() != errText(oldErrs) {
		return p.labelErrors(r, errs)
	}
	relaxed := rules.Enforce.Version == before.Enforce.Version && psapi.CompareLevels(rules.Enforce.Level, before.Enforce.Level) < 1
	if rules.Enforce.Level == psapi.LevelPrivileged || relaxed {
		return nil
	}
	for _, text := range p.existing(ctx, ns.Name, rules.Enforce) {
		r.warn(text)
	}
	return nil
}

func errText(errs field.ErrorList) string {
	if len(errs) == 0 {
		return ""
	}
	return errs.ToAggregate().Error()
}

func (p podSecurity) labelErrors(r *Request, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(r.Kind.GroupKind(), r.Name, errs)
}

// existing words which pods of a namespace break a policy, those alike together.
func (p podSecurity) existing(ctx context.Context, namespace string, lv psapi.LevelVersion) []string {
	pods, err := list[*corev1.Pod](ctx, p.reader, schema.GroupResource{Resource: "pods"}, namespace)
	if err != nil {
		return []string{"failed to list pods while checking new PodSecurity enforce level"}
	}
	pods = variedFirst(pods)
	total, deadline := len(pods), time.Now().Add(podCheckTime)
	pods = pods[:min(total, maxPodsChecked)]
	found := map[string][]string{} // names by what is wrong
	for i, pod := range pods {
		if result := p.evaluate(lv, &pod.ObjectMeta, &pod.Spec); !result.Allowed {
			found[result.ForbiddenReason()] = append(found[result.ForbiddenReason()], pod.Name)
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			pods = pods[:i+1]
			break
		}
	}
	var head, body []string
	if len(pods) < total {
		head = append(head, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", len(pods), total))
	}
	if len(found) > 0 {
		head = append(head, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, lv.String()))
	}
	for reason, names := range found {
		body = append(body, namesText(names)+": "+reason)
	}
	slices.Sort(body)
	return append(head, body...)
}

func namesText(names []string) string {
	first := slices.Min(names)
	switch len(names) {
	case 1:
		return first
	case 2:
		return first + " (and 1 other pod)"
	}
	return fmt.Sprintf("%s (and %d other pods)", first, len(names)-1)
}

// variedFirst puts further pods of one owner behind those of others: they are most likely alike.
func variedFirst(pods []*corev1.Pod) []*corev1.Pod {
	var first, rest []*corev1.Pod
	seen := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner != nil && seen[owner.UID] {
			rest = append(rest, pod)
			continue
		}
		if owner != nil {
			seen[owner.UID] = true
		}
		first = append(first, pod)
	}
	return append(first, rest...)
}
