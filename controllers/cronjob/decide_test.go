package cronjob

import (
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var (
	made = at("2026-01-02T03:00:30Z")
	now  = at("2026-01-02T03:04:05Z")
)

// everyMinute was made at made and started last at 03:03.
func everyMinute(edits ...func(*batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", UID: "cron", CreationTimestamp: metav1.NewTime(made)},
		Spec:       batchv1.CronJobSpec{Schedule: "* * * * *", TimeZone: ptr.To("UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent},
		Status:     batchv1.CronJobStatus{LastScheduleTime: ptr.To(metav1.NewTime(at("2026-01-02T03:03:00Z")))},
	}
	for _, edit := range edits {
		edit(c)
	}
	return c
}

func active(names ...string) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) {
		for _, n := range names {
			c.Status.Active = append(c.Status.Active, corev1.ObjectReference{Name: n, UID: types.UID(n)})
		}
	}
}

func policy(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = p }
}

// job started at minute of the hour and has ended as end says, unless that is empty.
func job(name string, end batchv1.JobConditionType, minute int) *batchv1.Job {
	start := metav1.NewTime(at("2026-01-02T03:00:00Z").Add(time.Duration(minute) * time.Minute))
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Status: batchv1.JobStatus{StartTime: &start}}
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
	}
	if end == batchv1.JobComplete {
		j.Status.CompletionTime = ptr.To(metav1.NewTime(start.Add(time.Second)))
	}
	return j
}

func names(list []*batchv1.Job) string {
	var n []string
	for _, j := range list {
		n = append(n, j.Name)
	}
	return strings.Join(n, " ")
}

func TestDecide(t *testing.T) {
	deadline := func(s int64) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = &s }
	}
	last := func(text string) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Status.LastScheduleTime = ptr.To(metav1.NewTime(at(text))) }
	}
	const slot = "c-29455384" // 03:04
	tests := []struct {
		name     string
		cron     *batchv1.CronJob
		jobs     []*batchv1.Job
		start    string
		replaced string
		reasons  string
		wait     time.Duration
	}{
		{"due", everyMinute(), nil, "03:04", "", "", 55 * time.Second},
		{"never started", everyMinute(func(c *batchv1.CronJob) { c.Status.LastScheduleTime = nil }), nil, "03:04", "", "", 55 * time.Second},
		{"made just now", everyMinute(func(c *batchv1.CronJob) { c.Status.LastScheduleTime, c.CreationTimestamp = nil, metav1.NewTime(now) }), nil, "", "", "", 55 * time.Second},
		{"made already", everyMinute(last("2026-01-02T03:04:00Z")), nil, "", "", "", 55 * time.Second},
		{"made and in the list", everyMinute(active(slot)), []*batchv1.Job{job(slot, "", 4)}, "", "", "", 55 * time.Second},
		{"suspended", everyMinute(func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) }), nil, "", "", "", 0},
		{"being deleted", everyMinute(func(c *batchv1.CronJob) { c.DeletionTimestamp = &metav1.Time{Time: now} }), nil, "", "", "", 0},
		{"allow", everyMinute(active("a")), []*batchv1.Job{job("a", "", 3)}, "03:04", "", "", 55 * time.Second},
		{"forbid", everyMinute(active("a"), policy(batchv1.ForbidConcurrent)), []*batchv1.Job{job("a", "", 3)}, "", "", "JobAlreadyActive", 55 * time.Second},
		{"forbid, the other has ended", everyMinute(active("a"), policy(batchv1.ForbidConcurrent)), []*batchv1.Job{job("a", batchv1.JobFailed, 3)}, "03:04", "", "SawCompletedJob", 55 * time.Second},
		{"replace", everyMinute(active("a", "b"), policy(batchv1.ReplaceConcurrent)), []*batchv1.Job{job("a", "", 3), job("b", batchv1.JobComplete, 2)}, "03:04", "a", "SawCompletedJob", 55 * time.Second},
		{"too late", everyMinute(deadline(3)), nil, "", "", "MissSchedule", 55 * time.Second},
		{"in time", everyMinute(deadline(5)), nil, "03:04", "", "", 55 * time.Second},
		{"many missed", everyMinute(last("2026-01-01T03:04:00Z")), nil, "03:04", "", "TooManyMissedTimes", 55 * time.Second},
		{"many missed before the deadline", everyMinute(last("2026-01-01T03:04:00Z"), deadline(200)), nil, "03:04", "", "", 55 * time.Second},
		{"many missed since the deadline", everyMinute(last("2026-01-01T03:04:00Z"), deadline(20000)), nil, "03:04", "", "TooManyMissedTimes", 55 * time.Second},
		{"unknown zone", everyMinute(func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("Mars/Olympus") }), nil, "", "", "UnknownTimeZone", 0},
		{"unreadable", everyMinute(func(c *batchv1.CronJob) { c.Spec.Schedule = "once" }), nil, "", "", "UnparseableSchedule", 0},
		{"never", everyMinute(func(c *batchv1.CronJob) { c.Spec.Schedule = "0 0 31 2 *" }), nil, "", "", "InvalidSchedule", 0},
		{"zone in the schedule", everyMinute(func(c *batchv1.CronJob) { c.Spec.Schedule, c.Spec.TimeZone = "TZ=UTC * * * * *", nil }), nil, "03:04", "", "UnsupportedSchedule", 55 * time.Second},
		{"somebody's job", everyMinute(), []*batchv1.Job{job("manual", "", 1)}, "03:04", "", "UnexpectedJob", 55 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := decide(snapshot{cron: tt.cron, jobs: tt.jobs, now: now})
			start := ""
			if p.start != nil {
				start = p.start.UTC().Format("15:04")
			}
			var reasons []string
			for _, e := range p.events {
				reasons = append(reasons, e.reason)
			}
			if start != tt.start || names(p.replaced) != tt.replaced || strings.Join(reasons, " ") != tt.reasons || p.wait != tt.wait {
				t.Fatalf("start %q, replaced %q, events %v, wait %v", start, names(p.replaced), p.events, p.wait)
			}
		})
	}
}

// TestEditedSchedule changes a schedule to one whose last time is past.
func TestEditedSchedule(t *testing.T) {
	c := everyMinute(func(c *batchv1.CronJob) {
		c.Status.LastScheduleTime = ptr.To(metav1.NewTime(at("2026-01-02T02:00:00Z")))
	})
	p := decide(snapshot{cron: c, edited: now, now: now.Add(time.Second)})
	if p.start != nil || p.wait != 54*time.Second {
		t.Fatalf("start %v, wait %v", p.start, p.wait)
	}
	if p = decide(snapshot{cron: c, edited: now, now: now.Add(time.Minute)}); p.start == nil || p.start.UTC().Format("15:04") != "03:05" {
		t.Fatalf("start %v", p.start)
	}
}

func TestStatusFollowsJobs(t *testing.T) {
	c := everyMinute(active("done", "failed", "running", "lost", "late"))
	p := decide(snapshot{cron: c, now: now, gone: map[types.UID]bool{"lost": true}, jobs: []*batchv1.Job{
		job("done", batchv1.JobComplete, 2), job("failed", batchv1.JobFailed, 2), job("running", "", 3), job("earlier", batchv1.JobComplete, 1),
	}})
	if got := fmt.Sprint(p.status.Active[0].Name, " ", p.status.Active[1].Name, len(p.status.Active)); got != "running late2" {
		t.Fatal(got, p.status.Active)
	}
	if got := p.status.LastSuccessfulTime; got == nil || !got.Equal(job("done", batchv1.JobComplete, 2).Status.CompletionTime) {
		t.Fatal(got)
	}
	want := []event{
		{"Normal", "SawCompletedJob", "Saw completed job: done, condition: Complete"}, {"Normal", "SawCompletedJob", "Saw completed job: failed, condition: Failed"},
		{"Normal", "MissingJob", "Active job went missing: lost"},
	}
	if fmt.Sprint(p.events) != fmt.Sprint(want) {
		t.Fatal(p.events)
	}
	if len(c.Status.Active) != 5 {
		t.Fatal("the informer's object was changed")
	}
}

func TestHistory(t *testing.T) {
	never := job("never", batchv1.JobFailed, 0)
	never.Status.StartTime = nil
	jobs := []*batchv1.Job{
		job("s3", batchv1.JobComplete, 3), job("s1", batchv1.JobComplete, 1), job("s2", batchv1.JobComplete, 2), job("s2b", batchv1.JobComplete, 2),
		never, job("f1", batchv1.JobFailed, 1), job("r", "", 0),
	}
	for _, tt := range []struct {
		successful, failed *int32
		want               string
	}{{ptr.To[int32](3), ptr.To[int32](1), "s1 f1"}, {ptr.To[int32](1), ptr.To[int32](9), "s1 s2 s2b"}, {ptr.To[int32](0), ptr.To[int32](0), "s1 s2 s2b s3 f1 never"}, {nil, nil, ""}} {
		c := everyMinute()
		c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = tt.successful, tt.failed
		if got := names(decide(snapshot{cron: c, jobs: jobs, now: now}).expired); got != tt.want {
			t.Errorf("limits %v %v: %q", tt.successful, tt.failed, got)
		}
	}
}

func TestJobOf(t *testing.T) {
	c := everyMinute(func(c *batchv1.CronJob) {
		c.Spec.TimeZone = ptr.To("Asia/Tokyo")
		c.Spec.JobTemplate = batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"}},
			Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](3)}}
	})
	j, err := jobOf(c, at("2026-01-02T03:04:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	owner := metav1.GetControllerOf(j)
	if j.Name != "c-29455384" || j.Namespace != "ns" || j.Labels["l"] != "1" || j.Annotations["a"] != "2" || owner.Kind != "CronJob" || owner.UID != "cron" ||
		j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2026-01-02T12:04:00+09:00" || *j.Spec.Parallelism != 3 {
		t.Fatalf("%+v", j)
	}
	if len(c.Spec.JobTemplate.Annotations) != 1 {
		t.Fatal("the template was changed")
	}
}
