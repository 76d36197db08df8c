package kinds

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func cronJob(schedule string) *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "nightly", Namespace: "default"}}
	c.Spec.Schedule = schedule
	c.Spec.JobTemplate.Spec.Template.Spec = corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "busybox"}},
	}
	return c
}

func TestCronJobSchedules(t *testing.T) {
	k := kindOf(t, "batch", "cronjobs")
	for _, good := range []string{"*/5 * * * *", "0 0 1 jan mon-fri", "@hourly", "@every 1h"} {
		wantTexts(t, create(k, cronJob(good)))
	}
	for _, bad := range []string{"* * * *", "61 * * * *", "@never", "* * * * * *", "x"} {
		errs := create(k, cronJob(bad))
		if len(errs) != 1 || errs[0].Field != "spec.schedule" {
			t.Errorf("%q gives %v", bad, errs)
		}
	}
	wantTexts(t, create(k, cronJob("")), "spec.schedule: Required value")
	wantTexts(t, create(k, cronJob("CRON_TZ=UTC")), `spec.schedule: Invalid value: "CRON_TZ=UTC": expected a schedule after the time zone`,
		`spec.schedule: Invalid value: "CRON_TZ=UTC": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`)
	long := cronJob("@daily")
	long.Name = "a123456789012345678901234567890123456789012345678901"
	wantTexts(t, create(k, long))
	long.Name += "2"
	wantTexts(t, create(k, long), `metadata.name: Invalid value: "a1234567890123456789012345678901234567890123456789012": must be no more than 52 characters`)
}

// TestTemplateOfASuspendedJob changes what may change while a job does not run, and what may not.
func TestTemplateOfASuspendedJob(t *testing.T) {
	k := kindOf(t, "batch", "jobs")
	suspended, started := true, metav1.Now()
	old := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "default", ResourceVersion: "1"}, Spec: batchv1.JobSpec{Suspend: &suspended, Template: corev1.PodTemplateSpec{
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}}}
	wantTexts(t, create(k, old))
	changed := func(edit func(*corev1.PodSpec)) *batchv1.Job {
		j := old.DeepCopy()
		edit(&j.Spec.Template.Spec)
		return j
	}
	resources := changed(func(s *corev1.PodSpec) {
		s.NodeSelector = map[string]string{"disk": "fast"}
		s.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	})
	image := changed(func(s *corev1.PodSpec) { s.Containers[0].Image = "other" })
	wantTexts(t, update(k, resources, old))
	if errs := update(k, image, old); len(errs) != 1 || errs[0].Field != "spec.template" {
		t.Error("another image:", errs)
	}
	old.Status.StartTime = &started
	if errs := update(k, resources.DeepCopy(), old); len(errs) != 1 || errs[0].Field != "spec.template" {
		t.Error("a job that has not stopped yet:", errs)
	}
}
