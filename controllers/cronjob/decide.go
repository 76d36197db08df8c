package cronjob

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// snapshot is what one decision rests on.
type snapshot struct {
	cron *batchv1.CronJob
	// jobs are those that the CronJob owns.
	jobs []*batchv1.Job
	// gone are jobs that status shows as active and that do not exist any more.
	gone map[types.UID]bool
	// edited is when the schedule was changed, zero when that is not known.
	edited time.Time
	now    time.Time
}

// plan is what to do: jobs of the past are deleted, then those that are replaced, then one is created for its time; status is without it.
type plan struct {
	expired, replaced []*batchv1.Job
	start             *time.Time
	status            batchv1.CronJobStatus
	events            []event
	// wait is how long until the next time of the schedule; zero when there is none to wait for.
	wait time.Duration
}

type event struct{ kind, reason, message string }

func (p *plan) warn(reason, format string, args ...any) {
	p.events = append(p.events, event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)})
}

func (p *plan) note(reason, format string, args ...any) {
	p.events = append(p.events, event{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)})
}

// decide says what to do. It is pure.
func decide(s snapshot) plan {
	p := plan{status: *s.cron.Status.DeepCopy()}
	s.follow(&p)
	s.expire(&p)
	if s.cron.DeletionTimestamp == nil {
		s.schedule(&p)
	}
	return p
}

// follow brings status up to what has become of the jobs.
func (s snapshot) follow(p *plan) {
	for _, job := range s.jobs {
		active := isActive(p.status.Active, job.UID)
		end, done := finished(job)
		switch {
		case done && active:
			p.note("SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end)
			p.status.Active = without(p.status.Active, job.UID)
		case !done && !active:
			p.warn("UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		}
		if last := p.status.LastSuccessfulTime; end == batchv1.JobComplete && job.Status.CompletionTime != nil && (last == nil || job.Status.CompletionTime.After(last.Time)) {
			p.status.LastSuccessfulTime = job.Status.CompletionTime
		}
	}
	for _, ref := range s.cron.Status.Active {
		if s.gone[ref.UID] {
			p.note("MissingJob", "Active job went missing: %v", ref.Name)
			p.status.Active = without(p.status.Active, ref.UID)
		}
	}
}

// expire plans to delete the oldest of too many finished jobs.
func (s snapshot) expire(p *plan) {
	for _, h := range []struct {
		end   batchv1.JobConditionType
		limit *int32
	}{{batchv1.JobComplete, s.cron.Spec.SuccessfulJobsHistoryLimit}, {batchv1.JobFailed, s.cron.Spec.FailedJobsHistoryLimit}} {
		if h.limit == nil {
			continue
		}
		var past []*batchv1.Job
		for _, job := range s.jobs {
			if end, _ := finished(job); end == h.end && job.DeletionTimestamp == nil {
				past = append(past, job)
			}
		}
		slices.SortFunc(past, byStart)
		p.expired = append(p.expired, past[:max(0, len(past)-int(*h.limit))]...)
	}
}

// byStart orders jobs by when they started; those that never did come last.
func byStart(a, b *batchv1.Job) int {
	at, bt := a.Status.StartTime, b.Status.StartTime
	switch {
	case at == nil && bt != nil:
		return 1
	case at != nil && bt == nil:
		return -1
	case at != nil && !at.Equal(bt):
		return at.Compare(bt.Time)
	}
	return cmp.Compare(a.Name, b.Name)
}

// schedule plans the next start.
func (s snapshot) schedule(p *plan) {
	spec := &s.cron.Spec
	if spec.TimeZone != nil {
		if _, err := time.LoadLocation(*spec.TimeZone); err != nil {
			p.warn("UnknownTimeZone", "invalid timeZone: %q: %s", *spec.TimeZone, err)
			return
		}
	}
	if ptr.Deref(spec.Suspend, false) {
		return
	}
	if strings.Contains(spec.Schedule, "TZ") {
		p.warn("UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", spec.Schedule)
	}
	schedule, err := parse(spec)
	if err != nil {
		p.warn("UnparseableSchedule", "unparseable schedule: %q : %s", spec.Schedule, err)
		return
	}
	times, err := startsOf(schedule, s.earliest(), s.now)
	if err != nil {
		p.warn("InvalidSchedule", "invalid schedule: %s : %s", spec.Schedule, err)
		return
	}
	p.wait = times.next.Sub(s.now)
	if times.due == nil {
		return
	}
	if deadline := spec.StartingDeadlineSeconds; deadline != nil {
		since := s.now.Add(-time.Duration(*deadline) * time.Second)
		if times.due.Before(since) {
			p.warn("MissSchedule", "Missed scheduled time to start a job: %s", times.due.UTC().Format(time.RFC1123Z))
			return
		}
		if times.many { // what is older than the deadline is not missed any more
			recent, err := startsOf(schedule, since, s.now)
			times.many = err == nil && recent.many
		}
	}
	if times.many {
		p.warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	s.begin(p, *times.due)
}

// earliest is the time after which starts count: the last start, when the CronJob was made, or when its schedule was changed.
func (s snapshot) earliest() time.Time {
	earliest := s.cron.CreationTimestamp.Time
	if last := s.cron.Status.LastScheduleTime; last != nil {
		earliest = last.Time
	}
	if s.edited.After(earliest) {
		return s.edited
	}
	return earliest
}

// begin plans the start that is due, unless it has been made or may not be made now.
func (s snapshot) begin(p *plan, due time.Time) {
	name := jobName(s.cron, due)
	if slices.ContainsFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) || p.status.LastScheduleTime.Equal(&metav1.Time{Time: due}) {
		return
	}
	switch {
	case s.cron.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(p.status.Active) > 0:
		p.note("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return
	case s.cron.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, job := range s.jobs {
			if isActive(p.status.Active, job.UID) {
				p.replaced = append(p.replaced, job)
			}
		}
	}
	p.start = &due
}

// jobName is the name of the job that starts at a time: the same for whoever makes it.
func jobName(cron *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cron.Name, at.Unix()/60)
}

// jobOf is the job that starts at a time.
func jobOf(cron *batchv1.CronJob, at time.Time) (*batchv1.Job, error) {
	zone, err := time.LoadLocation(ptr.Deref(cron.Spec.TimeZone, ""))
	if err != nil {
		return nil, err
	}
	template := cron.Spec.JobTemplate.DeepCopy()
	if template.Annotations == nil {
		template.Annotations = map[string]string{}
	}
	template.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cron.Namespace, Name: jobName(cron, at), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cron, kind)},
		},
		Spec: template.Spec,
	}, nil
}

func finished(job *batchv1.Job) (batchv1.JobConditionType, bool) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type, true
		}
	}
	return "", false
}

func isActive(active []corev1.ObjectReference, uid types.UID) bool {
	return slices.ContainsFunc(active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func without(active []corev1.ObjectReference, uid types.UID) []corev1.ObjectReference {
	var rest []corev1.ObjectReference
	for _, r := range active {
		if r.UID != uid {
			rest = append(rest, r)
		}
	}
	return rest
}
