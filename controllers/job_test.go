package controllers_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// job makes a job whose pods run an image that says how they end: "exit 3", or "exit 3 1" where pods of odd indexes end with the second number.
func (c *cluster) job(name, image string, edit func(*batchv1.JobSpec)) *batchv1.Job {
	c.Helper()
	t := template(nil, image)
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{Template: t}}
	if edit != nil {
		edit(&j.Spec)
	}
	j, err := c.client.BatchV1().Jobs("default").Create(c.ctx, j, metav1.CreateOptions{})
	c.must(err)
	return j
}

// endPods ends running pods as their image says.
func (c *cluster) endPods() {
	w, err := c.client.CoreV1().Pods("").Watch(c.ctx, metav1.ListOptions{})
	c.must(err)
	c.Cleanup(w.Stop)
	go func() {
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted || pod.Status.Phase != corev1.PodRunning || !strings.HasPrefix(pod.Spec.Containers[0].Image, "exit ") {
				continue
			}
			codes := strings.Fields(pod.Spec.Containers[0].Image)[1:]
			index, _ := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
			code, _ := strconv.Atoi(codes[index%len(codes)])
			c.endPod(pod, int32(code))
		}
	}()
}

func (c *cluster) endPod(pod *corev1.Pod, code int32) {
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			pod.Status.Conditions[i].Status, pod.Status.Conditions[i].LastTransitionTime = corev1.ConditionFalse, metav1.Now()
		}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}}}}
	_, _ = c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
}

// jobStatus waits until the job's status is as check wants it.
func (c *cluster) jobStatus(name string, check func(*batchv1.Job) bool) *batchv1.Job {
	c.Helper()
	var job *batchv1.Job
	c.eventually("job "+name, func() error {
		var err error
		job, err = c.client.BatchV1().Jobs("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		if !check(job) {
			return fmt.Errorf("%+v", job.Status)
		}
		return nil
	})
	return job
}

func jobHas(t batchv1.JobConditionType, reason string) func(*batchv1.Job) bool {
	return func(j *batchv1.Job) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t && c.Status == corev1.ConditionTrue && c.Reason == reason {
				return true
			}
		}
		return false
	}
}

func TestJobLife(t *testing.T) {
	c := start(t, nil)
	c.endPods()
	begin := time.Now()
	c.job("one", "exit 0", nil)
	job := c.jobStatus("one", jobHas(batchv1.JobComplete, batchv1.JobReasonCompletionsReached))
	t.Logf("complete after %v", time.Since(begin))
	s := job.Status
	if s.Succeeded != 1 || s.Failed != 0 || s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || s.StartTime == nil || s.CompletionTime == nil ||
		len(s.UncountedTerminatedPods.Succeeded) != 0 || !jobHas(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached)(job) {
		t.Fatalf("%+v", s)
	}
	pod := c.pods("job-name=one")[0]
	if len(pod.Finalizers) != 0 || !strings.HasPrefix(pod.Name, "one-") {
		t.Fatalf("%s %v", pod.Name, pod.Finalizers)
	}
	c.event("one", "SuccessfulCreate", "Created pod: "+pod.Name)
	c.event("one", "Completed", "Job completed")
	c.must(c.client.BatchV1().Jobs("default").Delete(c.ctx, "one", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
	c.podCount("job-name=one", 0)
}
