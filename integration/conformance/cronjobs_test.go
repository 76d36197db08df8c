package conformance

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// cron makes a CronJob that starts a script every minute.
func (e *env) cron(text string, change func(*batchv1.CronJobSpec)) *batchv1.CronJob {
	e.Helper()
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "cron", Labels: map[string]string{"e2e": e.ns}}, Spec: batchv1.CronJobSpec{
		Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: script(text, nil).Spec},
	}}
	if change != nil {
		change(&c.Spec)
	}
	c, err := e.kube.BatchV1().CronJobs(e.ns).Create(e.ctx, c, metav1.CreateOptions{})
	e.must(err)
	return c
}

// cronIs waits until the CronJob is as ok wants it.
func (e *env) cronIs(ok func(*batchv1.CronJob) bool) *batchv1.CronJob {
	e.Helper()
	var c *batchv1.CronJob
	e.patiently(func() (err error) {
		if c, err = e.kube.BatchV1().CronJobs(e.ns).Get(e.ctx, "cron", metav1.GetOptions{}); err == nil && !ok(c) {
			err = fmt.Errorf("%+v", c.Status)
		}
		return err
	})
	return c
}

func (e *env) jobs() []batchv1.Job {
	e.Helper()
	list, err := e.kube.BatchV1().Jobs(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	return list.Items
}

// untilNextMinute waits for it to pass, and a little more.
func (e *env) untilNextMinute() {
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(63 * time.Second)))
}

func cronSuspended(e *env) {
	e.cron("exit 0", func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
	e.untilNextMinute()
	equal(e, "jobs", len(e.jobs()), 0)
	_, err := e.kube.BatchV1().CronJobs(e.ns).Patch(e.ctx, "cron", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{})
	e.must(err)
	e.cronIs(func(c *batchv1.CronJob) bool { return c.Status.LastSuccessfulTime != nil && len(c.Status.Active) == 0 })
}

func cronForbids(e *env) {
	e.cron("sleep 3600", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent })
	first := e.cronIs(func(c *batchv1.CronJob) bool { return len(c.Status.Active) == 1 }).Status.Active[0].Name
	e.untilNextMinute()
	equal(e, "active", e.cronIs(func(c *batchv1.CronJob) bool { return len(c.Status.Active) == 1 }).Status.Active[0].Name, first)
	equal(e, "jobs", len(e.jobs()), 1)
	e.eventually(func() error { return e.event("cron", "JobAlreadyActive") })
}

// event tells whether there is one of the object for the reason.
func (e *env) event(object, reason string) error {
	list, err := e.kube.CoreV1().Events(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object + ",reason=" + reason})
	if err == nil && len(list.Items) == 0 {
		err = fmt.Errorf("no event %s", reason)
	}
	return err
}

func cronReplaces(e *env) {
	e.cron("sleep 3600", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent })
	first := e.cronIs(func(c *batchv1.CronJob) bool { return len(c.Status.Active) == 1 }).Status.Active[0].Name
	e.cronIs(func(c *batchv1.CronJob) bool { return len(c.Status.Active) == 1 && c.Status.Active[0].Name != first })
	equal(e, "jobs", len(e.jobs()), 1)
	e.eventually(func() error { return e.pods("job-name="+first, 0) })
}

func cronAllows(e *env) {
	e.cron("sleep 3600", nil)
	e.cronIs(func(c *batchv1.CronJob) bool { return len(c.Status.Active) == 2 })
	e.runningPods("", 2)
	for _, j := range e.jobs() {
		at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		e.must(err)
		equal(e, "name", j.Name, fmt.Sprintf("cron-%d", at.Unix()/60))
	}
}

func cronAPI(e *env) {
	crons := e.kube.BatchV1().CronJobs(e.ns)
	w, err := crons.Watch(e.ctx, metav1.ListOptions{LabelSelector: "e2e=" + e.ns})
	e.must(err)
	defer w.Stop()
	e.cron("exit 0", func(s *batchv1.CronJobSpec) { s.Schedule, s.TimeZone = "0 0 29 2 *", ptr.To("Asia/Tokyo") })
	e.sees(w, watch.Added)
	_, err = crons.Patch(e.ctx, "cron", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	e.must(err)
	e.cronIs(func(c *batchv1.CronJob) bool {
		c.Annotations["updated"] = "true"
		_, err := crons.Update(e.ctx, c, metav1.UpdateOptions{})
		return err == nil
	})
	started := metav1.NewTime(time.Now().Truncate(time.Second))
	_, err = crons.Patch(e.ctx, "cron", types.MergePatchType, fmt.Appendf(nil, `{"status":{"lastScheduleTime":%q}}`, started.UTC().Format(time.RFC3339)), metav1.PatchOptions{}, "status")
	e.must(err)
	c := e.cronIs(func(c *batchv1.CronJob) bool { return c.Status.LastScheduleTime.Equal(&started) })
	equal(e, "annotations", fmt.Sprint(c.Annotations), "map[patched:true updated:true]")
	c.Status.LastScheduleTime = ptr.To(metav1.NewTime(started.Add(time.Second)))
	_, err = crons.UpdateStatus(e.ctx, c, metav1.UpdateOptions{})
	e.must(err)
	all, err := e.kube.BatchV1().CronJobs("").List(e.ctx, metav1.ListOptions{LabelSelector: "e2e=" + e.ns})
	e.must(err)
	equal(e, "cron jobs", len(all.Items), 1)
	for _, bad := range []string{"TZ=UTC * * * * *", "CRON_TZ=UTC * * * * *", "TZ=UTC", "* * * *"} {
		_, err = crons.Patch(e.ctx, "cron", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"schedule":%q,"timeZone":null}}`, bad), metav1.PatchOptions{})
		e.refused(err, "spec.schedule: Invalid value")
	}
	e.must(crons.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=" + e.ns}))
	e.sees(w, watch.Deleted)
}

func cronByHand(e *env) {
	e.cron("exit 0", func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
	if out := e.cluster.Kubectl("-n", e.ns, "create", "job", "job", "--from=cronjob/cron"); !strings.Contains(out, "job.batch/job created") {
		e.Error(out)
	}
	e.jobEnds(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	j := e.jobs()[0]
	equal(e, "how it came", j.Annotations["cronjob.kubernetes.io/instantiate"], "manual")
	equal(e, "owner", metav1.GetControllerOf(&j).Name, "cron")
	c := e.cronIs(func(c *batchv1.CronJob) bool { return c.Status.LastSuccessfulTime != nil })
	equal(e, "active", len(c.Status.Active), 0)
	out := e.cluster.Kubectl("-n", e.ns, "get", "pods", "-o", "jsonpath={.items[*].status.phase}")
	equal(e, "pods", out, string(corev1.PodSucceeded))
}
