package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestRemaining(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	job := func(ttl *int32, t batchv1.JobConditionType, status corev1.ConditionStatus, ago time.Duration) *batchv1.Job {
		return &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}, Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: t, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-ago))},
		}}}
	}
	deleted := job(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionTrue, time.Hour)
	deleted.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	tests := []struct {
		name string
		job  *batchv1.Job
		wait time.Duration
		ok   bool
	}{
		{"no limit", job(nil, batchv1.JobComplete, corev1.ConditionTrue, time.Hour), 0, false},
		{"under way", job(ptr.To[int32](0), batchv1.JobSuspended, corev1.ConditionTrue, time.Hour), 0, false},
		{"about to fail", job(ptr.To[int32](0), batchv1.JobFailureTarget, corev1.ConditionTrue, time.Hour), 0, false},
		{"not failed", job(ptr.To[int32](0), batchv1.JobFailed, corev1.ConditionFalse, time.Hour), 0, false},
		{"at once", job(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionTrue, 0), 0, true},
		{"later", job(ptr.To[int32](100), batchv1.JobFailed, corev1.ConditionTrue, time.Minute), 40 * time.Second, true},
		{"overdue", job(ptr.To[int32](10), batchv1.JobFailed, corev1.ConditionTrue, time.Minute), 0, true},
		{"being deleted", deleted, 0, false},
	}
	for _, tt := range tests {
		if wait, ok := remaining(tt.job, now); wait != tt.wait || ok != tt.ok {
			t.Errorf("%s: %v %v", tt.name, wait, ok)
		}
	}
}
