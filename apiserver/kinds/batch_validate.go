package kinds

import (
	"fmt"
	"slices"
	"strings"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of Indexed jobs and of policies, upstream's.
const (
	maxJobIndexes         = 100_000
	maxParallelIndexes    = 10_000
	maxFailuresPerIndex   = 10_000
	maxParallelPerIndex   = 10_000
	maxPolicyRules        = 20
	maxJobExitCodes       = 255
	maxPodConditions      = 20
	maxManagedBy          = 63
	cronJobNameMax        = 52
	cronJobNameMaxMessage = "must be no more than 52 characters"
)

func validateJob(j *batchv1.Job) field.ErrorList {
	errs := validateMeta(&j.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateJobSelector(j)...)
	errs = append(errs, validateJobSpec(&j.Spec, field.NewPath("spec"))...)
	if *orZero(j.Spec.CompletionMode) == batchv1.IndexedCompletion && j.Spec.Completions != nil && *j.Spec.Completions > 0 {
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if msgs := validation.IsDNS1123Label(last); len(msgs) > 0 {
			errs = append(errs, field.Invalid(metadata().Child("name"), j.Name, fmt.Sprintf("will not able to create pod with invalid DNS label: %s", last)))
		}
	}
	return errs
}

// validateJobSelector wants the selector that the server made, unless the user said that it is theirs.
func validateJobSelector(j *batchv1.Job) field.ErrorList {
	if *orZero(j.Spec.ManualSelector) {
		return nil
	}
	path := field.NewPath("spec")
	if j.Spec.Selector == nil {
		return nil // told of with the rest of the spec
	}
	var errs field.ErrorList
	expected := labels.Set{}
	template := path.Child("template", "metadata", "labels")
	for _, l := range []struct{ name, value string }{
		{jobLabels.uid, string(j.UID)}, {jobLabels.oldUID, string(j.UID)}, {jobLabels.name, j.Name}, {jobLabels.oldName, j.Name},
	} {
		expected[l.name] = l.value
		switch got, ok := j.Spec.Template.Labels[l.name]; {
		case !ok:
			errs = append(errs, field.Required(template.Key(l.name), fmt.Sprintf("must be '%s'", l.value)))
		case got != l.value:
			errs = append(errs, field.Invalid(template.Key(l.name), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l.value)))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(expected) {
		errs = append(errs, field.Invalid(path.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

func validateJobSpec(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	errs := validateJobTemplateSpec(s, path)
	if s.Selector == nil {
		return append(errs, field.Required(path.Child("selector"), ""))
	}
	errs = append(errs, validateSelector(s.Selector, path.Child("selector"))...)
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// validateJobTemplateSpec checks all but the selector, which jobs of a template get later.
func validateJobTemplateSpec(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, n := range []struct {
		name  string
		value *int32
	}{{"parallelism", s.Parallelism}, {"completions", s.Completions}, {"backoffLimit", s.BackoffLimit}, {"ttlSecondsAfterFinished", s.TTLSecondsAfterFinished},
		{"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes}} {
		if n.value != nil {
			errs = append(errs, nonnegative(*n.value, path.Child(n.name))...)
		}
	}
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, apivalidation.ValidateNonnegativeField(*s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	}
	errs = append(errs, validateJobIndexes(s, path)...)
	if p := s.PodReplacementPolicy; p != nil {
		switch {
		case s.PodFailurePolicy != nil && *p != batchv1.Failed:
			errs = append(errs, field.NotSupported(path.Child("podReplacementPolicy"), *p, []batchv1.PodReplacementPolicy{batchv1.Failed}))
		default:
			errs = append(errs, oneOf(*p, path.Child("podReplacementPolicy"), batchv1.Failed, batchv1.TerminatingOrFailed)...)
		}
	}
	if m := s.ManagedBy; m != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *m)...)
		if len(*m) > maxManagedBy {
			errs = append(errs, field.TooLong(path.Child("managedBy"), "", maxManagedBy))
		}
	}
	errs = append(errs, validateJobPods(s, path)...)
	errs = append(errs, validateFailurePolicy(s, path.Child("podFailurePolicy"))...)
	return append(errs, validateSuccessPolicy(s, path.Child("successPolicy"))...)
}

func validateJobPods(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	template := path.Child("template")
	errs := validatePodTemplate(&s.Template, template)
	known := []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
	restart := s.Template.Spec.RestartPolicy
	switch {
	case restart == "" || restart == corev1.RestartPolicyAlways:
		errs = append(errs, field.Required(template.Child("spec", "restartPolicy"), fmt.Sprintf("valid values: %q, %q", known[0], known[1])))
	case !slices.Contains(known, restart):
		errs = append(errs, field.NotSupported(template.Child("spec", "restartPolicy"), restart, known))
	case s.PodFailurePolicy != nil && restart != corev1.RestartPolicyNever:
		errs = append(errs, field.Invalid(template.Child("spec", "restartPolicy"), restart, `only "Never" is supported when podFailurePolicy is specified`))
	}
	return errs
}

func validateJobIndexes(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	mode := *orZero(s.CompletionMode)
	if mode != batchv1.IndexedCompletion && mode != batchv1.NonIndexedCompletion {
		errs = append(errs, field.NotSupported(path.Child("completionMode"), mode, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	if s.BackoffLimitPerIndex == nil && s.MaxFailedIndexes != nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	switch mode {
	case batchv1.IndexedCompletion:
		return append(errs, validateIndexed(s, path)...)
	case "", batchv1.NonIndexedCompletion:
		for _, f := range []struct {
			name  string
			value *int32
		}{{"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes}} {
			if f.value != nil {
				errs = append(errs, field.Invalid(path.Child(f.name), *f.value, "requires indexed completion mode"))
			}
		}
	}
	return errs
}

func validateIndexed(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	atMost := func(name string, value *int32, most int32, when string) {
		if value != nil && *value > most {
			errs = append(errs, field.Invalid(path.Child(name), *value, fmt.Sprintf("must be less than or equal to %d%s", most, when)))
		}
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	atMost("parallelism", s.Parallelism, maxJobIndexes, " when completion mode is Indexed")
	if s.MaxFailedIndexes != nil && s.Completions != nil && *s.MaxFailedIndexes > *s.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	atMost("maxFailedIndexes", s.MaxFailedIndexes, maxJobIndexes, "")
	if s.BackoffLimitPerIndex == nil || *orZero(s.Completions) <= maxJobIndexes {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", maxJobIndexes)))
	}
	when := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", maxJobIndexes)
	atMost("parallelism", s.Parallelism, maxParallelPerIndex, when)
	atMost("maxFailedIndexes", s.MaxFailedIndexes, maxFailuresPerIndex, when)
	return errs
}

func validateFailurePolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if s.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	rules := path.Child("rules")
	if n := len(s.PodFailurePolicy.Rules); n > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, n, maxPolicyRules))
	}
	containers := sets.New[string]()
	for i := range s.Template.Spec.Containers {
		containers.Insert(s.Template.Spec.Containers[i].Name)
	}
	for i := range s.Template.Spec.InitContainers {
		containers.Insert(s.Template.Spec.InitContainers[i].Name)
	}
	for i := range s.PodFailurePolicy.Rules {
		errs = append(errs, validateFailureRule(s, &s.PodFailurePolicy.Rules[i], rules.Index(i), containers)...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, at *field.Path, containers sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	actions := []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	switch {
	case r.Action == "":
		errs = append(errs, field.Required(at.Child("action"), fmt.Sprintf("valid values: %q", actions)))
	case !slices.Contains(actions, r.Action):
		errs = append(errs, field.NotSupported(at.Child("action"), r.Action, actions))
	case r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil:
		errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(r.OnExitCodes, at.Child("onExitCodes"), containers)...)
	}
	if n := len(r.OnPodConditions); n > maxPodConditions {
		errs = append(errs, field.TooMany(at.Child("onPodConditions"), n, maxPodConditions))
	}
	for i, c := range r.OnPodConditions {
		here := at.Child("onPodConditions").Index(i)
		errs = append(errs, qualifiedName(string(c.Type), here.Child("type"))...)
		errs = append(errs, given(c.Status, here.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	if r.OnExitCodes != nil && len(r.OnPodConditions) > 0 {
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	}
	if r.OnExitCodes == nil && len(r.OnPodConditions) == 0 {
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

// given wants one of some values, and names them where there is none.
func given[T ~string](value T, path *field.Path, known ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", known))}
	}
	return oneOf(value, path, known...)
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, at *field.Path, containers sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	if name := r.ContainerName; name != nil && !containers.Has(*name) {
		errs = append(errs, field.Invalid(at.Child("containerName"), *name, "must be one of the container or initContainer names in the pod template"))
	}
	errs = append(errs, given(r.Operator, at.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)...)
	values := at.Child("values")
	switch n := len(r.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	case n > maxJobExitCodes:
		errs = append(errs, field.TooMany(values, n, maxJobExitCodes))
	}
	seen, sorted := sets.New[int32](), true
	for i, v := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen.Has(v) {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen.Insert(v)
		sorted = sorted && (i == 0 || r.Values[i-1] <= v)
	}
	if !sorted {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if s.SuccessPolicy == nil {
		return nil
	}
	if *orZero(s.CompletionMode) != batchv1.IndexedCompletion {
		return field.ErrorList{field.Invalid(path, *s.SuccessPolicy, "requires indexed completion mode")}
	}
	rules := path.Child("rules")
	switch n := len(s.SuccessPolicy.Rules); {
	case n == 0:
		return field.ErrorList{field.Required(rules, "at least one rules must be specified when the successPolicy is specified")}
	case n > maxPolicyRules:
		return field.ErrorList{field.TooMany(rules, n, maxPolicyRules)}
	}
	var errs field.ErrorList
	for i := range s.SuccessPolicy.Rules {
		errs = append(errs, validateSuccessRule(&s.SuccessPolicy.Rules[i], *orZero(s.Completions), rules.Index(i))...)
	}
	return errs
}

func validateSuccessRule(r *batchv1.SuccessPolicyRule, completions int32, at *field.Path) field.ErrorList {
	if r.SucceededIndexes == nil && r.SucceededCount == nil {
		return field.ErrorList{field.Required(at, "at least one of succeededCount or succeededIndexes must be specified")}
	}
	var errs field.ErrorList
	total := completions
	if r.SucceededIndexes != nil {
		const longest = 64 << 10
		if len(*r.SucceededIndexes) > longest {
			errs = append(errs, field.TooLong(at.Child("succeededIndexes"), "", longest))
		}
		n, err := countIndexes(*r.SucceededIndexes, completions)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("succeededIndexes"), *r.SucceededIndexes, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		}
		total = n
	}
	if c := r.SucceededCount; c != nil {
		path := at.Child("succeededCount")
		errs = append(errs, nonnegative(*c, path)...)
		if *c > completions {
			errs = append(errs, field.Invalid(path, *c, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if r.SucceededIndexes != nil && *c > total {
			errs = append(errs, field.Invalid(path, *c, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// countIndexes counts what a text such as 1,3-5 names; indexes must grow and be below completions.
func countIndexes(text string, completions int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	var total int32
	last := int32(-1)
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := index(from)
		if err != nil {
			return 0, err
		}
		end := first
		if isRange {
			if end, err = index(to); err != nil {
				return 0, err
			}
			if end <= first {
				return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", first, end)
			}
		}
		if first <= last {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, first)
		}
		if end >= completions {
			return 0, fmt.Errorf("too large index: %q", part)
		}
		total += end - first + 1
		last = end
	}
	return total, nil
}

func index(text string) (int32, error) {
	var n int32
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != text {
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
	}
	return n, nil
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	errs := validateMetaUpdate(&j.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("spec")
	errs = append(errs, inherited(validateJobSpec(&j.Spec, path), func() field.ErrorList { return validateJobSpec(&old.Spec, path) })...)
	errs = append(errs, validateCompletionsUpdate(&j.Spec, &old.Spec, path)...)
	errs = append(errs, immutable(j.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateJobTemplateUpdate(j, old, path)...)
	for _, f := range []struct {
		name       string
		value, old any
	}{
		{"completionMode", j.Spec.CompletionMode, old.Spec.CompletionMode}, {"podFailurePolicy", j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy},
		{"backoffLimitPerIndex", j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex}, {"managedBy", j.Spec.ManagedBy, old.Spec.ManagedBy},
		{"successPolicy", j.Spec.SuccessPolicy, old.Spec.SuccessPolicy},
	} {
		errs = append(errs, immutable(f.value, f.old, path.Child(f.name))...)
	}
	return errs
}

// validateCompletionsUpdate lets the completions of an Indexed job change together with its parallelism.
func validateCompletionsUpdate(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(s.Completions, old.Completions) {
		return nil
	}
	if s.Completions == nil || *orZero(s.CompletionMode) != batchv1.IndexedCompletion || !equality.Semantic.DeepEqual(s.Completions, s.Parallelism) {
		return immutable(s.Completions, old.Completions, path.Child("completions"))
	}
	return nil
}

// validateJobTemplateUpdate lets scheduling directives and resources change while the job is suspended and has not started, or no longer runs.
func validateJobTemplateUpdate(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	was := old.Spec.Template.DeepCopy()
	if *orZero(old.Spec.Suspend) && old.Status.StartTime == nil {
		now := &j.Spec.Template
		was.Labels, was.Annotations = now.Labels, now.Annotations
		was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = now.Spec.NodeSelector, now.Spec.Tolerations, now.Spec.SchedulingGates
		if now.Spec.Affinity != nil || was.Spec.Affinity != nil {
			was.Spec.Affinity = now.Spec.Affinity
		}
		copyResources(was.Spec.InitContainers, now.Spec.InitContainers)
		copyResources(was.Spec.Containers, now.Spec.Containers)
	}
	return immutable(&j.Spec.Template, was, path.Child("template"))
}

func copyResources(to, from []corev1.Container) {
	for i := range min(len(to), len(from)) {
		to[i].Resources = from[i].Resources
	}
}

func validateJobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	errs := validateMetaUpdate(&j.ObjectMeta, &old.ObjectMeta)
	s, path := &j.Status, field.NewPath("status")
	errs = append(errs, nonnegative(s.Active, path.Child("active"))...)
	errs = append(errs, nonnegative(s.Succeeded, path.Child("succeeded"))...)
	errs = append(errs, nonnegative(s.Failed, path.Child("failed"))...)
	errs = append(errs, nonnegative(*orZero(s.Ready), path.Child("ready"))...)
	errs = append(errs, nonnegative(*orZero(s.Terminating), path.Child("terminating"))...)
	has := func(t batchv1.JobConditionType) bool {
		return slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
	}
	if has(batchv1.JobComplete) && has(batchv1.JobFailed) {
		errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	if s.CompletionTime != nil && !has(batchv1.JobComplete) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	if s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	return errs
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateCronJobSpec(&c.Spec, nil)...)
	if len(c.Name) > cronJobNameMax {
		errs = append(errs, field.Invalid(metadata().Child("name"), c.Name, cronJobNameMaxMessage))
	}
	return errs
}

func validateCronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	return append(errs, inherited(validateCronJobSpec(&c.Spec, &old.Spec), func() field.ErrorList { return validateCronJobSpec(&old.Spec, &old.Spec) })...)
}

func validateCronJobSpec(s, old *batchv1.CronJobSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if s.Schedule == "" {
		errs = append(errs, field.Required(path.Child("schedule"), ""))
	} else {
		errs = append(errs, validateSchedule(s, old, path.Child("schedule"))...)
	}
	if zone := s.TimeZone; zone != nil && (old == nil || old.TimeZone == nil || *old.TimeZone != *zone) {
		switch {
		case *zone == "":
			errs = append(errs, field.Invalid(path.Child("timeZone"), s.TimeZone, "timeZone must be nil or non-empty string"))
		case strings.EqualFold(*zone, "Local"):
			errs = append(errs, field.Invalid(path.Child("timeZone"), s.TimeZone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		case !knownTimeZone(*zone):
			errs = append(errs, field.Invalid(path.Child("timeZone"), s.TimeZone, "unknown time zone "+*zone))
		}
	}
	if s.StartingDeadlineSeconds != nil {
		errs = append(errs, apivalidation.ValidateNonnegativeField(*s.StartingDeadlineSeconds, path.Child("startingDeadlineSeconds"))...)
	}
	errs = append(errs, oneOf(s.ConcurrencyPolicy, path.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	template := path.Child("jobTemplate", "spec")
	job := s.JobTemplate.Spec.DeepCopy()
	setDefaultPtr(&job.CompletionMode, batchv1.NonIndexedCompletion) // a template has no defaults of its own
	if job.ManualSelector != nil && *job.ManualSelector {
		errs = append(errs, field.NotSupported(template.Child("manualSelector"), *job.ManualSelector, []string{"nil", "false"}))
	}
	errs = append(errs, validateJobTemplateSpec(job, template)...)
	errs = append(errs, nonnegative(*orZero(s.SuccessfulJobsHistoryLimit), path.Child("successfulJobsHistoryLimit"))...)
	return append(errs, nonnegative(*orZero(s.FailedJobsHistoryLimit), path.Child("failedJobsHistoryLimit"))...)
}

func validateSchedule(s, old *batchv1.CronJobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.Contains(s.Schedule, "TZ=") && !strings.Contains(s.Schedule, " ") { // the parser would panic
		errs = append(errs, field.Invalid(path, s.Schedule, "expected a schedule after the time zone"))
	} else if _, err := cron.ParseStandard(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, s.Schedule, err.Error()))
	}
	inSchedule := strings.Contains(s.Schedule, "TZ")
	switch {
	case inSchedule && s.TimeZone != nil:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	case inSchedule && (old == nil || old.Schedule != s.Schedule):
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	}
	return errs
}

func jobWarnings(j, old *batchv1.Job) []string {
	var all []string
	if old == nil && *orZero(j.Spec.CompletionMode) == batchv1.IndexedCompletion && *orZero(j.Spec.Completions) > maxJobIndexes && *orZero(j.Spec.Parallelism) > maxParallelIndexes {
		all = append(all, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return append(all, templateWarnings(&j.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Spec.Template }), specTemplatePath)...)
}

func cronJobWarnings(c, old *batchv1.CronJob) []string {
	path := field.NewPath("spec", "jobTemplate", "spec", "template")
	var all []string
	if strings.Contains(c.Spec.Schedule, "TZ") {
		all = append(all, `cannot use TZ or CRON_TZ in schedule, use timeZone field instead`)
	}
	return append(all, templateWarnings(&c.Spec.JobTemplate.Spec.Template, oldTemplate(old, func() *corev1.PodTemplateSpec { return &old.Spec.JobTemplate.Spec.Template }), path)...)
}
