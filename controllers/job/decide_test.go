package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type edit func(*batchv1.Job)

// jobOf has parallelism 2, three completions and started a minute ago, unless edits say otherwise.
func jobOf(edits ...edit) *batchv1.Job {
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "ns", UID: "job"},
		Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](3), BackoffLimit: ptr.To[int32](6),
			CompletionMode: ptr.To(batchv1.NonIndexedCompletion), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever}}},
		Status: batchv1.JobStatus{StartTime: ptr.To(metav1.NewTime(now.Add(-time.Minute)))},
	}
	for _, e := range edits {
		e(j)
	}
	return j
}

func completions(n int32) edit { return func(j *batchv1.Job) { j.Spec.Completions = &n } }
func parallelism(n int32) edit { return func(j *batchv1.Job) { j.Spec.Parallelism = &n } }
func limit(n int32) edit       { return func(j *batchv1.Job) { j.Spec.BackoffLimit = &n } }
func suspended(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }
func indexed(j *batchv1.Job)   { j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }
func onlyFailed(j *batchv1.Job) {
	j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
}
func perIndex(n int32) edit {
	return func(j *batchv1.Job) { indexed(j); j.Spec.BackoffLimitPerIndex = &n }
}
func status(change func(*batchv1.JobStatus)) edit { return func(j *batchv1.Job) { change(&j.Status) } }
func onFailure(j *batchv1.Job)                    { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }

type change func(*corev1.Pod)

// podOn is a tracked pod that runs, for an index unless that is noIndex.
func podOn(name string, index int, changes ...change) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Finalizers: []string{batchv1.JobTrackingFinalizer}, CreationTimestamp: metav1.NewTime(now.Add(-time.Minute))},
		Spec:       corev1.PodSpec{NodeName: "n"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if index != noIndex {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: strconv.Itoa(index)}
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func succeeded(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
func pending(p *corev1.Pod)   { p.Status.Phase, p.Spec.NodeName = corev1.PodPending, "" }
func deleting(p *corev1.Pod)  { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func untracked(p *corev1.Pod) { p.Finalizers = nil }
func ready(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}
func failed(ago time.Duration, code int32) change {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses = []corev1.ContainerStatus{exited("c", code)}
		p.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(now.Add(-ago))
	}
}
func after(failures int) change {
	return func(p *corev1.Pod) { p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(failures) }
}

func restartedTimes(n int32) change {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}

func namesOf(list []*corev1.Pod) string {
	var n []string
	for _, p := range list {
		n = append(n, p.Name)
	}
	slices.Sort(n)
	return strings.Join(n, " ")
}

// String is the plan in one line.
func (p plan) String() string {
	var parts []string
	add := func(what, which string) {
		if which != "" {
			parts = append(parts, what+" "+which)
		}
	}
	for _, n := range p.create {
		add("create", fmt.Sprintf("%d/%d/%d", n.index, n.failures, n.ignored))
	}
	add("remove", namesOf(p.remove))
	add("end", namesOf(p.end))
	add("release", namesOf(p.release))
	if p.finish != nil {
		add("finish", string(p.finish.Type)+" "+p.finish.Reason)
	}
	if p.wait > 0 {
		add("wait", p.wait.String())
	}
	return strings.Join(parts, ", ")
}

func TestDecide(t *testing.T) {
	failJob := func(j *batchv1.Job) {
		j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{42}}},
			{Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{43}}},
		}}
	}
	workQueue := func(j *batchv1.Job) { j.Spec.Completions = nil }
	deadline := func(s int64) edit { return func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &s } }
	deletingJob := func(j *batchv1.Job) { j.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
	maxFailed := func(n int32) edit { return func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = &n } }
	has := func(t batchv1.JobConditionType) edit {
		return status(func(s *batchv1.JobStatus) {
			s.Conditions = append(s.Conditions, *newCondition(t, "Earlier", "told", now))
		})
	}
	count := func(succeeded, failed int32) edit {
		return status(func(s *batchv1.JobStatus) { s.Succeeded, s.Failed = succeeded, failed })
	}
	done := func(text string) edit { return status(func(s *batchv1.JobStatus) { s.CompletedIndexes = text }) }
	tests := []struct {
		name string
		job  *batchv1.Job
		pods []*corev1.Pod
		want string
	}{
		{"new", jobOf(), nil, "create -1/0/0, create -1/0/0"},
		{"enough run", jobOf(), []*corev1.Pod{podOn("a", noIndex), podOn("b", noIndex, pending)}, ""},
		{"one left to do", jobOf(count(2, 0)), nil, "create -1/0/0"},
		{"one succeeded", jobOf(), []*corev1.Pod{podOn("a", noIndex, succeeded), podOn("b", noIndex)}, "create -1/0/0, release a"},
		{"all succeeded", jobOf(count(2, 0)), []*corev1.Pod{podOn("a", noIndex, succeeded)}, "release a, finish Complete CompletionsReached"},
		{"counted once", jobOf(count(2, 0)), []*corev1.Pod{podOn("a", noIndex, succeeded, untracked)}, "create -1/0/0"},
		{"nothing to do", jobOf(completions(0)), nil, "finish Complete CompletionsReached"},
		{"parallelism zero", jobOf(parallelism(0)), []*corev1.Pod{podOn("a", noIndex)}, "remove a"},
		{"too many", jobOf(), []*corev1.Pod{podOn("a", noIndex, ready), podOn("b", noIndex), podOn("c", noIndex, pending)}, "remove c"},
		{"work queue", jobOf(workQueue), []*corev1.Pod{podOn("a", noIndex)}, "create -1/0/0"},
		{"work queue ends", jobOf(workQueue), []*corev1.Pod{podOn("a", noIndex), podOn("b", noIndex, succeeded)}, "release b"},
		{"work queue is done", jobOf(workQueue, count(1, 0)), []*corev1.Pod{podOn("a", noIndex, failed(0, 1))}, "release a, finish Complete CompletionsReached"},
		{"a failure waits", jobOf(), []*corev1.Pod{podOn("a", noIndex, failed(3*time.Second, 1))}, "release a, wait 7s"},
		{"a failure has waited", jobOf(), []*corev1.Pod{podOn("a", noIndex, failed(10*time.Second, 1))}, "create -1/0/0, create -1/0/0, release a"},
		{"limit reached", jobOf(limit(1), count(0, 1)), []*corev1.Pod{podOn("a", noIndex, failed(0, 1)), podOn("b", noIndex)}, "end b, release a b, finish Failed BackoffLimitExceeded"},
		{"limit reached by restarts", jobOf(limit(2), onFailure), []*corev1.Pod{podOn("a", noIndex, restartedTimes(2))}, "end a, release a, finish Failed BackoffLimitExceeded"},
		{"limit zero and no restart", jobOf(limit(0), onFailure, parallelism(1)), []*corev1.Pod{podOn("a", noIndex, restartedTimes(0))}, ""},
		{"a deletion is a failure", jobOf(parallelism(1)), []*corev1.Pod{podOn("a", noIndex, deleting)}, "release a, wait 10s"},
		{"a deletion is awaited", jobOf(parallelism(1), onlyFailed), []*corev1.Pod{podOn("a", noIndex, deleting)}, ""},
		{"suspended", jobOf(suspended), []*corev1.Pod{podOn("a", noIndex)}, "remove a"},
		{"suspended and all succeeded", jobOf(suspended, count(3, 0)), nil, "finish Complete CompletionsReached"},
		{"deadline ahead", jobOf(deadline(90)), []*corev1.Pod{podOn("a", noIndex), podOn("b", noIndex)}, "wait 30s"},
		{"deadline passed", jobOf(deadline(60)), []*corev1.Pod{podOn("a", noIndex)}, "end a, release a, finish Failed DeadlineExceeded"},
		{"deadline does not pass while suspended", jobOf(deadline(1), suspended), nil, ""},
		{"deadline before back-off", jobOf(deadline(62)), []*corev1.Pod{podOn("a", noIndex, failed(0, 1))}, "release a, wait 2s"},
		{"policy fails the job", jobOf(failJob), []*corev1.Pod{podOn("a", noIndex, failed(0, 42)), podOn("b", noIndex)}, "end b, release a b, finish Failed PodFailurePolicy"},
		{"policy ignores", jobOf(failJob, limit(0), parallelism(1)), []*corev1.Pod{podOn("a", noIndex, failed(time.Hour, 43))}, "create -1/0/0, release a"},
		{"failing goes on", jobOf(has(batchv1.JobFailureTarget)), []*corev1.Pod{podOn("a", noIndex, deleting)}, "release a, finish Failed Earlier"},
		{"succeeding goes on", jobOf(has(batchv1.JobSuccessCriteriaMet), limit(0)), []*corev1.Pod{podOn("a", noIndex, failed(0, 1)), podOn("b", noIndex)}, "end b, release a b, finish Complete Earlier"},
		{"deleted", jobOf(deletingJob), []*corev1.Pod{podOn("a", noIndex), podOn("b", noIndex, succeeded)}, "release a b"},

		{"indexes", jobOf(indexed), nil, "create 0/0/0, create 1/0/0"},
		{"first gap", jobOf(indexed, completions(9), done("0,2")), []*corev1.Pod{podOn("a", 1)}, "create 3/0/0"},
		{"an index twice", jobOf(indexed), []*corev1.Pod{podOn("a", 1, ready), podOn("b", 1)}, "remove b"},
		{"no index and too great ones", jobOf(indexed), []*corev1.Pod{podOn("a", noIndex), podOn("b", 3), podOn("c", 2)}, "remove a b"},
		{"scaled down", jobOf(indexed, completions(1), parallelism(1), done("0-2")), nil, "finish Complete CompletionsReached"},
		{"an index awaits the end of its pod", jobOf(indexed, completions(2), onlyFailed), []*corev1.Pod{podOn("a", 0, deleting)}, "create 1/0/0"},
		{"success by policy", jobOf(indexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("2")}}}
		}), []*corev1.Pod{podOn("a", 2, succeeded), podOn("b", 0)}, "end b, release a b, finish Complete SuccessPolicy"},

		{"an index is tried again", jobOf(perIndex(1)), []*corev1.Pod{podOn("a", 0, after(0), failed(time.Minute, 1)), podOn("b", 1)}, "create 0/1/0"},
		{"an index waits, another does not", jobOf(perIndex(1)), []*corev1.Pod{podOn("a", 0, after(0), failed(3*time.Second, 1)), podOn("b", 1)}, "create 2/0/0, wait 7s"},
		{"its successor lets it go", jobOf(perIndex(1)), []*corev1.Pod{podOn("a", 0, after(0), failed(time.Minute, 1)), podOn("b", 0, after(1)), podOn("c", 1)}, "release a"},
		{"an index is lost", jobOf(perIndex(1)), []*corev1.Pod{podOn("a", 0, after(1), failed(0, 1)), podOn("b", 1)}, "create 2/0/0, release a"},
		{"the last index is lost", jobOf(perIndex(0), done("0,1")), []*corev1.Pod{podOn("a", 2, after(0), failed(0, 1))}, "release a, finish Failed FailedIndexes"},
		{"too many are lost", jobOf(perIndex(0), maxFailed(0)), []*corev1.Pod{podOn("a", 2, after(0), failed(0, 1)), podOn("b", 1)}, "end b, release a b, finish Failed MaxFailedIndexesExceeded"},
		{"an ignored failure of an index", jobOf(perIndex(0), failJob), []*corev1.Pod{podOn("a", 0, after(0), failed(time.Minute, 43)), podOn("b", 1)}, "create 0/0/1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.job.DeepCopy()
			p := decide(snapshot{job: tt.job, pods: tt.pods, now: now})
			if p.String() != tt.want {
				t.Fatalf("%q, want %q", p, tt.want)
			}
			if fmt.Sprint(before) != fmt.Sprint(tt.job) {
				t.Fatal("the informer's job was changed")
			}
		})
	}
}

func TestStatusOf(t *testing.T) {
	job := jobOf(parallelism(4), completions(7), status(func(s *batchv1.JobStatus) {
		s.Succeeded, s.Failed = 1, 2
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"gone", "s1"}, Failed: []types.UID{"f1"}}
	}))
	list := []*corev1.Pod{podOn("r", noIndex, ready), podOn("p", noIndex, pending), podOn("s1", noIndex, succeeded), podOn("s2", noIndex, succeeded),
		podOn("f1", noIndex, failed(time.Hour, 1)), podOn("f2", noIndex, failed(time.Hour, 1)), podOn("d", noIndex, deleting)}
	p := decide(snapshot{job: job, pods: list, now: now})
	s := p.status
	got := fmt.Sprint(s.Active, *s.Ready, *s.Terminating, s.Succeeded, s.Failed, s.UncountedTerminatedPods.Succeeded, s.UncountedTerminatedPods.Failed)
	if got != "2 1 1 1 2 [gone s1 s2] [f1 f2 d]" || p.String() != "release d f1 f2 s1 s2, wait 10s" {
		t.Fatalf("%s; %s", got, p)
	}
	after, finished := settle(p, map[types.UID]bool{"s2": true, "r": true, "p": true}) // one could not be released
	if got := fmt.Sprint(finished, after.Succeeded, after.Failed, after.UncountedTerminatedPods.Succeeded, after.UncountedTerminatedPods.Failed); got != "false 3 5 [s2] []" {
		t.Fatal(got)
	}
}

// TestStatusStaysSmall has more ended pods than a status may name.
func TestStatusStaysSmall(t *testing.T) {
	var list []*corev1.Pod
	for i := range 1200 {
		list = append(list, podOn(fmt.Sprint(i), noIndex, failed(time.Hour, 1)))
	}
	p := decide(snapshot{job: jobOf(limit(1)), pods: list, now: now})
	if n := len(p.status.UncountedTerminatedPods.Failed); n != maxUncounted || len(p.release) != maxUncounted {
		t.Fatal(n, len(p.release))
	}
	if s, finished := settle(p, map[types.UID]bool{"1199": true}); finished || s.Failed != maxUncounted {
		t.Fatal("the job ends before all is counted")
	}
}

func TestSuspendAndResume(t *testing.T) {
	j := jobOf(suspended)
	p := decide(snapshot{job: j, now: now})
	if p.status.StartTime != nil || p.status.Conditions[0].Reason != "JobSuspended" || fmt.Sprint(p.events) != "[{Normal Suspended Job suspended}]" {
		t.Fatalf("%+v %v", p.status, p.events)
	}
	j.Status = p.status
	if p = decide(snapshot{job: j, now: now.Add(time.Hour)}); len(p.events) != 0 || !p.status.Conditions[0].LastTransitionTime.Equal(&j.Status.Conditions[0].LastTransitionTime) {
		t.Fatalf("told again: %v", p.events)
	}
	j.Spec.Suspend = ptr.To(false)
	p = decide(snapshot{job: j, now: now.Add(time.Hour)})
	if c := p.status.Conditions[0]; c.Status != corev1.ConditionFalse || c.Reason != "JobResumed" || !p.status.StartTime.Equal(ptr.To(metav1.NewTime(now.Add(time.Hour)))) ||
		fmt.Sprint(p.events) != "[{Normal Resumed Job resumed}]" {
		t.Fatalf("%+v %v", p.status, p.events)
	}
	if p = decide(snapshot{job: jobOf(), now: now}); len(p.status.Conditions) != 0 {
		t.Fatal("a job that was never suspended has been resumed")
	}
}

func TestPodOf(t *testing.T) {
	j := jobOf(perIndex(3), func(j *batchv1.Job) {
		j.Name = strings.Repeat("n", 60)
		j.Spec.Template.Finalizers = []string{"example.com/f"}
		j.Spec.Template.Labels = map[string]string{"l": "1"}
		j.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "i"}}
		j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "own", Env: []corev1.EnvVar{{Name: "JOB_COMPLETION_INDEX", Value: "x"}}}}
	})
	p := podOf(j, newPod{index: 12, failures: 2, ignored: 1})
	if p.GenerateName != strings.Repeat("n", 54)+"-12-" || p.Spec.Hostname != j.Name+"-12" || p.Labels[batchv1.JobCompletionIndexAnnotation] != "12" || p.Labels["l"] != "1" {
		t.Fatalf("%+v", p.ObjectMeta)
	}
	if a := p.Annotations; a[batchv1.JobCompletionIndexAnnotation] != "12" || a[batchv1.JobIndexFailureCountAnnotation] != "2" || a[batchv1.JobIndexIgnoredFailureCountAnnotation] != "1" {
		t.Fatal(a)
	}
	if !slices.Equal(p.Finalizers, []string{"example.com/f", batchv1.JobTrackingFinalizer}) || len(p.Spec.InitContainers[0].Env) != 1 || len(p.Spec.Containers[0].Env) != 1 ||
		len(j.Spec.Template.Labels) != 1 || len(j.Spec.Template.Spec.InitContainers[0].Env) != 0 {
		t.Fatalf("%+v", p)
	}
	if p = podOf(jobOf(), newPod{index: noIndex}); p.GenerateName != "j-" || p.Spec.Hostname != "" || len(p.Annotations) != 0 {
		t.Fatalf("%+v", p)
	}
}
