package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func batchKinds() []Kind { return []Kind{cronJobs(), jobs()} }

// The labels that name a pod's job: today's, and those from before.
var jobLabels = struct{ uid, name, oldUID, oldName string }{
	batchv1.ControllerUidLabel, batchv1.JobNameLabel, "controller-uid", "job-name",
}

func jobs() Kind {
	spec, status := batchv1.JobSpec{}.SwaggerDoc(), batchv1.JobStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		nameColumn(),
		column("Status", "string", "Status of the job."),
		column("Completions", "string", status["succeeded"]),
		column("Duration", "string", "Time required to complete the job."),
		ageColumn(),
	}
	columns = append(append(columns, containerColumns()...), wideColumn("Selector", "string", spec["selector"]))
	return Kind{
		GVK:                 batchv1.SchemeGroupVersion.WithKind("Job"),
		Resource:            "jobs",
		Singular:            "job",
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "jobs",
		New:                 func() runtime.Object { return &batchv1.Job{} },
		NewList:             func() runtime.Object { return &batchv1.JobList{} },
		Default:             on(defaultJob),
		PrepareCreate:       on(prepareJobCreate),
		PrepareUpdate:       onUpdate(prepareJobUpdate),
		Validate:            check(validateJob),
		ValidateUpdate:      checkUpdate(validateJobUpdate),
		Warnings:            warn(jobWarnings),
		UnconditionalUpdate: true,
		OrphanByDefault:     true,
		Fields: fieldSet(func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		}),
		Columns: columns,
		Cells:   cells(jobCells),
		Status: &Subresource{
			PrepareUpdate:  onUpdate(func(j, old *batchv1.Job) { old.Spec.DeepCopyInto(&j.Spec) }),
			ValidateUpdate: checkUpdate(validateJobStatusUpdate),
		},
	}
}

func defaultJob(j *batchv1.Job) {
	defaultJobSpec(&j.Spec)
	if len(j.Labels) == 0 {
		j.Labels = copyMap(j.Spec.Template.Labels)
	}
}

func defaultJobSpec(s *batchv1.JobSpec) {
	if s.Completions == nil && s.Parallelism == nil {
		setDefaultPtr(&s.Completions, 1)
	}
	setDefaultPtr(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		setDefaultPtr(&s.BackoffLimit, 1<<31-1)
	}
	setDefaultPtr(&s.BackoffLimit, 6)
	setDefaultPtr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setDefaultPtr(&s.Suspend, false)
	setDefaultPtr(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		for i := range s.PodFailurePolicy.Rules {
			for k := range s.PodFailurePolicy.Rules[i].OnPodConditions {
				setDefault(&s.PodFailurePolicy.Rules[i].OnPodConditions[k].Status, corev1.ConditionTrue)
			}
		}
	}
	replacement := batchv1.TerminatingOrFailed
	if s.PodFailurePolicy != nil {
		replacement = batchv1.Failed
	}
	setDefaultPtr(&s.PodReplacementPolicy, replacement)
	defaultPodTemplate(&s.Template)
}

// prepareJobCreate makes selector and labels of the job's own of its UID, unless the user gave a selector by hand.
func prepareJobCreate(j *batchv1.Job) {
	j.Status = batchv1.JobStatus{}
	j.Spec.Scheduling = nil // alpha, and off as upstream's gate is
	dropDisabledPodFields(&j.Spec.Template.Spec, nil)
	if *orZero(j.Spec.ManualSelector) {
		return
	}
	labels := copyMap(j.Spec.Template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	uid := string(j.UID)
	for name, value := range map[string]string{jobLabels.uid: uid, jobLabels.oldUID: uid, jobLabels.name: j.Name, jobLabels.oldName: j.Name} {
		if _, ok := labels[name]; !ok {
			labels[name] = value
		}
	}
	j.Spec.Template.Labels = labels
	selector := j.Spec.Selector.DeepCopy()
	if selector == nil {
		selector = &metav1.LabelSelector{}
	}
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	if _, ok := selector.MatchLabels[jobLabels.uid]; !ok {
		selector.MatchLabels[jobLabels.uid] = uid
	}
	j.Spec.Selector = selector
}

func prepareJobUpdate(j, old *batchv1.Job) {
	old.Status.DeepCopyInto(&j.Status)
	j.Spec.Scheduling = nil
	dropDisabledPodFields(&j.Spec.Template.Spec, &old.Spec.Template.Spec)
}

func jobCells(j *batchv1.Job, now metav1.Time) []any {
	names, images := containerCells(j.Spec.Template.Spec.Containers)
	return []any{
		j.Name, jobState(j), jobCompletions(j), jobDuration(j, now), age(now, j.CreationTimestamp), names, images, metav1.FormatLabelSelector(j.Spec.Selector),
	}
}

func jobState(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool {
		return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func jobCompletions(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if parallel := *orZero(j.Spec.Parallelism); parallel > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallel)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now metav1.Time) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime != nil:
		return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
}

func cronJobs() Kind {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		nameColumn(),
		column("Schedule", "string", spec["schedule"]),
		column("Timezone", "string", spec["timeZone"]),
		column("Suspend", "boolean", spec["suspend"]),
		column("Active", "integer", status["active"]),
		column("Last Schedule", "string", status["lastScheduleTime"]),
		ageColumn(),
	}
	columns = append(append(columns, containerColumns()...), wideColumn("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]))
	return Kind{
		GVK:                 batchv1.SchemeGroupVersion.WithKind("CronJob"),
		Resource:            "cronjobs",
		Singular:            "cronjob",
		ShortNames:          []string{"cj"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Prefix:              "cronjobs",
		New:                 func() runtime.Object { return &batchv1.CronJob{} },
		NewList:             func() runtime.Object { return &batchv1.CronJobList{} },
		Default:             on(defaultCronJob),
		PrepareCreate:       on(prepareCronJobCreate),
		PrepareUpdate:       onUpdate(prepareCronJobUpdate),
		Validate:            check(validateCronJob),
		ValidateUpdate:      checkUpdate(validateCronJobUpdate),
		Warnings:            warn(cronJobWarnings),
		UnconditionalUpdate: true,
		Columns:             columns,
		Cells:               cells(cronJobCells),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(c, old *batchv1.CronJob) { old.Spec.DeepCopyInto(&c.Spec) }),
			ValidateUpdate: checkUpdate(func(c, old *batchv1.CronJob) field.ErrorList {
				return validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
			}),
		},
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	setDefault(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	setDefaultPtr(&c.Spec.Suspend, false)
	setDefaultPtr(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	setDefaultPtr(&c.Spec.FailedJobsHistoryLimit, 1)
	defaultPodTemplate(&c.Spec.JobTemplate.Spec.Template)
}

func prepareCronJobCreate(c *batchv1.CronJob) {
	c.Status = batchv1.CronJobStatus{}
	c.Spec.JobTemplate.Spec.Scheduling = nil
	dropDisabledPodFields(&c.Spec.JobTemplate.Spec.Template.Spec, nil)
}

func prepareCronJobUpdate(c, old *batchv1.CronJob) {
	old.Status.DeepCopyInto(&c.Status)
	c.Spec.JobTemplate.Spec.Scheduling = nil
	dropDisabledPodFields(&c.Spec.JobTemplate.Spec.Template.Spec, &old.Spec.JobTemplate.Spec.Template.Spec)
}

func cronJobCells(c *batchv1.CronJob, now metav1.Time) []any {
	last, zone := cellNone, cellNone
	if c.Status.LastScheduleTime != nil {
		last = age(now, *c.Status.LastScheduleTime)
	}
	if c.Spec.TimeZone != nil {
		zone = *c.Spec.TimeZone
	}
	names, images := containerCells(c.Spec.JobTemplate.Spec.Template.Spec.Containers)
	return []any{
		c.Name, c.Spec.Schedule, zone, *orZero(c.Spec.Suspend), int64(len(c.Status.Active)), last, age(now, c.CreationTimestamp),
		names, images, metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector),
	}
}

// knownTimeZone tells whether the machine knows a zone, under its exact name.
func knownTimeZone(name string) bool {
	if strings.EqualFold(name, "Local") {
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}
