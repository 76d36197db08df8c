package kinds

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
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
	long := cronJob("@daily")
	long.Name = "a123456789012345678901234567890123456789012345678901"
	wantTexts(t, create(k, long))
	long.Name += "2"
	wantTexts(t, create(k, long), `metadata.name: Invalid value: "a1234567890123456789012345678901234567890123456789012": must be no more than 52 characters`)
}
