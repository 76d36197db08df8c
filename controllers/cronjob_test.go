package controllers_test

import (
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/internal/clock"
)

func (c *cluster) cronJob(name, image string, policy batchv1.ConcurrencyPolicy) *batchv1.CronJob {
	c.Helper()
	t := template(nil, image)
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	cron, err := c.client.BatchV1().CronJobs("default").Create(c.ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.CronJobSpec{
		Schedule: "* * * * *", ConcurrencyPolicy: policy, SuccessfulJobsHistoryLimit: ptr.To[int32](1),
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: t}},
	}}, metav1.CreateOptions{})
	c.must(err)
	return cron
}

// standing makes controllers live an hour later than everybody else, half a minute past a minute, so that a CronJob is due when it is made.
func standing() (*clock.Manual, func(*controllers.Config)) {
	m := clock.NewManual(time.Now().Truncate(time.Minute).Add(time.Hour + 30*time.Second))
	return m, func(cfg *controllers.Config) { cfg.Clock = m }
}

// minutes puts the controllers' clock forward and wakes them.
func (c *cluster) minutes(m *clock.Manual, n int) {
	c.Helper()
	m.Advance(time.Duration(n) * time.Minute)
	list, err := c.client.BatchV1().CronJobs("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, cron := range list.Items {
		_, err := c.client.BatchV1().CronJobs("default").Patch(c.ctx, cron.Name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"at":"%v"}}}`, m.Now()), metav1.PatchOptions{})
		c.must(err)
	}
}

// cronStatus waits until the CronJob's status is as check wants it.
func (c *cluster) cronStatus(name string, check func(batchv1.CronJobStatus) bool) batchv1.CronJobStatus {
	c.Helper()
	var status batchv1.CronJobStatus
	c.eventually("cron job "+name, func() error {
		cron, err := c.client.BatchV1().CronJobs("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		if status = cron.Status; !check(status) {
			return fmt.Errorf("%+v", status)
		}
		return nil
	})
	return status
}

func TestCronJobLife(t *testing.T) {
	at, later := standing()
	c := start(t, later)
	c.endPods()
	cron := c.cronJob("tick", "exit 0", batchv1.AllowConcurrent)
	last := c.cronStatus("tick", func(s batchv1.CronJobStatus) bool {
		return s.LastScheduleTime != nil && s.LastSuccessfulTime != nil && len(s.Active) == 0
	}).LastScheduleTime
	name := fmt.Sprintf("tick-%d", last.Unix()/60)
	job, err := c.client.BatchV1().Jobs("default").Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	if !metav1.IsControlledBy(job, cron) || job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != last.UTC().Format(time.RFC3339) {
		t.Fatalf("%+v", job.ObjectMeta)
	}
	c.event("tick", "SuccessfulCreate", "Created job "+name)
	c.event("tick", "SawCompletedJob", "Saw completed job: "+name+", condition: Complete")

	c.minutes(at, 1)
	c.cronStatus("tick", func(s batchv1.CronJobStatus) bool { return s.LastScheduleTime.After(last.Time) && len(s.Active) == 0 })
	c.event("tick", "SuccessfulDelete", "Deleted job "+name)
	c.podCount("job-name="+name, 0)
	_, err = c.client.BatchV1().CronJobs("default").Patch(c.ctx, "tick", types.MergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{})
	c.must(err)
	c.minutes(at, 200)
	time.Sleep(100 * time.Millisecond)
	list, err := c.client.BatchV1().Jobs("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	if len(list.Items) != 1 {
		t.Fatalf("%d jobs while suspended", len(list.Items))
	}
	_, err = c.client.BatchV1().CronJobs("default").Patch(c.ctx, "tick", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{})
	c.must(err)
	c.event("tick", "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	c.must(c.client.BatchV1().CronJobs("default").Delete(c.ctx, "tick", metav1.DeleteOptions{}))
	c.podCount("", 0)
}

func TestConcurrencyPolicies(t *testing.T) {
	at, later := standing()
	c := start(t, later)
	for name, policy := range map[string]batchv1.ConcurrencyPolicy{"allow": batchv1.AllowConcurrent, "forbid": batchv1.ForbidConcurrent, "replace": batchv1.ReplaceConcurrent} {
		c.cronJob(name, "v1", policy)
	}
	first := map[string]string{}
	for _, name := range []string{"allow", "forbid", "replace"} {
		first[name] = c.cronStatus(name, func(s batchv1.CronJobStatus) bool { return len(s.Active) == 1 }).Active[0].Name
		c.runningPod("job-name="+first[name], "")
	}
	c.minutes(at, 1)
	c.cronStatus("allow", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 2 })
	c.event("forbid", "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
	replaced := c.cronStatus("replace", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 1 && s.Active[0].Name != first["replace"] })
	c.runningPod("job-name="+replaced.Active[0].Name, "")
	c.podCount("job-name="+first["replace"], 0)
	if s := c.cronStatus("forbid", func(batchv1.CronJobStatus) bool { return true }); len(s.Active) != 1 || s.Active[0].Name != first["forbid"] {
		t.Fatalf("%+v", s)
	}
	c.endPod(c.runningPod("job-name="+first["forbid"], ""), 0)
	next := c.cronStatus("forbid", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 1 && s.Active[0].Name != first["forbid"] }) // what was missed is made up for
	c.must(c.client.BatchV1().Jobs("default").Delete(c.ctx, next.Active[0].Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
	c.cronStatus("forbid", func(s batchv1.CronJobStatus) bool { return len(s.Active) == 0 })
	c.event("forbid", "MissingJob", "Active job went missing: "+next.Active[0].Name)
}
