package conformance

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

var jobTests = map[string]func(*env){
	"a job completes without needless waits":                  jobCompletes,
	"orphans are adopted, others released":                    jobAdopts,
	"disrupted pods are ignored":                              jobIgnores,
	"indexes have names, annotations and variables":           jobIndexes,
	"a job is deleted with its pods":                          jobDeleted,
	"every index runs although some fail":                     jobPerIndex,
	"a job's life":                                            jobLife,
	"an index fails by its exit code":                         jobFailIndex,
	"success by policy when all indexes succeed":              jobAllSucceed,
	"success by policy while indexes remain":                  jobSomeSucceed,
	"limits, deadlines and exit codes fail jobs":              jobFails,
	"a finished job goes when its time is up":                 jobExpires,
	"a suspended job runs on, with other scheduling, resumed": jobSuspended,
}

var cronTests = map[string]func(*env){
	"none start while suspended":        cronSuspended,
	"none start beside a forbidden one": cronForbids,
	"the next one replaces":             cronReplaces,
	"several run at once":               cronAllows,
	"a cron job's API":                  cronAPI,
	"kubectl creates a job of one":      cronByHand,
}

// TestJobs shows the behaviours of Jobs and CronJobs on a whole cluster, with real containers.
func TestJobs(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Up()
	s := newSuite(t, c)
	t.Run("job", func(t *testing.T) { s.parallel(t, jobTests) })
	t.Run("cron", func(t *testing.T) { s.parallel(t, cronTests) })
}

// parallel runs tests side by side: most of their time they wait.
func (s *suite) parallel(t *testing.T, tests map[string]func(*env)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(s.env(t))
		})
	}
}

// patiently waits for what takes a back-off or a minute to come.
func (e *env) patiently(condition func() error) {
	e.Helper()
	cluster.Eventually(e.T, 150*time.Second, condition)
}

// script is a job whose pods run a shell script.
func script(text string, change func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](0),
		Containers: []corev1.Container{{Name: "c", Image: "coracle/demo:v1", Command: []string{"sh", "-c", text}}},
	}}}}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

func indexedJob(completions, parallelism int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = &completions, &parallelism, ptr.To(batchv1.IndexedCompletion)
	}
}

// oddFail ends pods of odd indexes below four with a code.
func oddFail(code int) string {
	return fmt.Sprintf("if [ $JOB_COMPLETION_INDEX = 1 ] || [ $JOB_COMPLETION_INDEX = 3 ]; then exit %d; fi; exit 0", code)
}

func (e *env) createJob(job *batchv1.Job) *batchv1.Job {
	e.Helper()
	job, err := e.kube.BatchV1().Jobs(e.ns).Create(e.ctx, job, metav1.CreateOptions{})
	e.must(err)
	return job
}

// jobIs waits until the job is as ok wants it.
func (e *env) jobIs(ok func(*batchv1.Job) bool) *batchv1.Job {
	e.Helper()
	var job *batchv1.Job
	e.patiently(func() (err error) {
		if job, err = e.kube.BatchV1().Jobs(e.ns).Get(e.ctx, "job", metav1.GetOptions{}); err == nil && !ok(job) {
			err = fmt.Errorf("%+v", job.Status)
		}
		return err
	})
	return job
}

// jobEnds waits for the job's last condition.
func (e *env) jobEnds(t batchv1.JobConditionType, reason string) batchv1.JobStatus {
	e.Helper()
	return e.jobIs(func(j *batchv1.Job) bool { return jobCondition(j, t) == reason }).Status
}

// jobCondition is the reason of a condition that is true.
func jobCondition(j *batchv1.Job, t batchv1.JobConditionType) string {
	for _, c := range j.Status.Conditions {
		if c.Type == t && c.Status == corev1.ConditionTrue {
			return c.Reason
		}
	}
	return ""
}

func (e *env) podList(selector string) []corev1.Pod {
	e.Helper()
	list, err := e.kube.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: selector})
	e.must(err)
	return list.Items
}

// runningPods waits until n of the selected pods are ready and gives them.
func (e *env) runningPods(selector string, n int) (ready []corev1.Pod) {
	e.Helper()
	e.patiently(func() error {
		ready = nil
		for _, p := range e.podList(selector) {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
					ready = append(ready, p)
				}
			}
		}
		return same(len(ready), n)
	})
	return ready
}

func (e *env) patchJob(text string) {
	e.Helper()
	_, err := e.kube.BatchV1().Jobs(e.ns).Patch(e.ctx, "job", types.MergePatchType, []byte(text), metav1.PatchOptions{})
	e.must(err)
}

func jobCompletes(e *env) {
	begin := time.Now()
	e.createJob(script("exit 0", nil))
	s := e.jobEnds(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	e.Logf("complete after %v", time.Since(begin))
	equal(e, "succeeded", s.Succeeded, 1)
	out := e.cluster.Kubectl("-n", e.ns, "wait", "--for=condition=complete", "job/job")
	if !strings.Contains(out, "condition met") {
		e.Error(out)
	}
}

func jobAdopts(e *env) {
	job := e.createJob(script("sleep 3600", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](2), ptr.To[int32](2) }))
	p := e.runningPods("job-name=job", 2)[0]
	owned := func(name string, want bool) {
		e.Helper()
		e.eventually(func() error {
			p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return same(metav1.IsControlledBy(p, job), want)
		})
	}
	patch := func(text string) {
		_, err := e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, p.Name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		e.must(err)
	}
	patch(`{"metadata":{"ownerReferences":null}}`)
	owned(p.Name, true)
	patch(`{"metadata":{"labels":null}}`)
	owned(p.Name, false)
	e.runningPods("job-name=job", 2)
}

// jobIgnores evicts every pod once; each succeeds the second time, which it knows by a file on its node.
func jobIgnores(e *env) {
	marks := filepath.Join(e.cluster.Dir, "marks-"+e.ns)
	e.createJob(script("if [ -e /marks/$JOB_COMPLETION_INDEX ]; then exit 0; fi; touch /marks/$JOB_COMPLETION_INDEX; sleep 3600", func(s *batchv1.JobSpec) {
		indexedJob(2, 2)(s)
		s.BackoffLimit = ptr.To[int32](0)
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
		s.Template.Spec.Volumes = []corev1.Volume{{Name: "marks", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: marks, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}}}
		s.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "marks", MountPath: "/marks"}}
	}))
	for _, p := range e.runningPods("job-name=job", 2) {
		e.eventually(func() error {
			return e.kube.PolicyV1().Evictions(e.ns).Evict(e.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: p.Name}})
		})
	}
	s := e.jobEnds(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	equal(e, "failed", s.Failed, 0)
	equal(e, "completed", s.CompletedIndexes, "0,1")
}

func jobIndexes(e *env) {
	e.createJob(script("echo $JOB_COMPLETION_INDEX; hostname", indexedJob(4, 2)))
	s := e.jobEnds(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	equal(e, "completed", s.CompletedIndexes, "0-3")
	seen := map[string]bool{}
	for _, p := range e.podList("job-name=job") {
		index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		seen[index] = true
		equal(e, "the host's name", p.Spec.Hostname, "job-"+index)
		if !strings.HasPrefix(p.Name, "job-"+index+"-") {
			e.Errorf("pod %s of index %s", p.Name, index)
		}
		equal(e, "the log of "+p.Name, strings.TrimSpace(e.cluster.Kubectl("-n", e.ns, "logs", p.Name)), index+"\njob-"+index)
	}
	equal(e, "indexes", fmt.Sprint(seen), "map[0:true 1:true 2:true 3:true]")
}

func jobDeleted(e *env) {
	e.createJob(script("sleep 3600", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](4), ptr.To[int32](2) }))
	e.runningPods("job-name=job", 2)
	e.must(e.kube.BatchV1().Jobs(e.ns).Delete(e.ctx, "job", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	e.eventually(func() error {
		if _, err := e.kube.BatchV1().Jobs(e.ns).Get(e.ctx, "job", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the job is still there: %w", err)
		}
		return e.pods("", 0)
	})
}

func jobPerIndex(e *env) {
	e.createJob(script(oddFail(1), func(s *batchv1.JobSpec) { indexedJob(4, 2)(s); s.BackoffLimitPerIndex = ptr.To[int32](1) }))
	s := e.jobEnds(batchv1.JobFailed, batchv1.JobReasonFailedIndexes)
	equal(e, "indexes", s.CompletedIndexes+" "+*s.FailedIndexes, "0,2 1,3")
	equal(e, "pods", fmt.Sprint(s.Succeeded, s.Failed), "2 4")
}

func jobFailIndex(e *env) {
	e.createJob(script(oddFail(42), func(s *batchv1.JobSpec) {
		indexedJob(4, 4)(s)
		s.BackoffLimitPerIndex = ptr.To[int32](5)
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailIndex,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}}}}
	}))
	s := e.jobEnds(batchv1.JobFailed, batchv1.JobReasonFailedIndexes)
	equal(e, "indexes", s.CompletedIndexes+" "+*s.FailedIndexes, "0,2 1,3")
	equal(e, "pods", fmt.Sprint(s.Succeeded, s.Failed), "2 2")
}

func jobAllSucceed(e *env) {
	e.createJob(script("exit 0", func(s *batchv1.JobSpec) {
		indexedJob(3, 3)(s)
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0-2")}}}
	}))
	j := e.jobIs(func(j *batchv1.Job) bool { return jobCondition(j, batchv1.JobComplete) != "" })
	equal(e, "SuccessCriteriaMet", jobCondition(j, batchv1.JobSuccessCriteriaMet), batchv1.JobReasonSuccessPolicy)
	equal(e, "Complete", jobCondition(j, batchv1.JobComplete), batchv1.JobReasonSuccessPolicy)
	equal(e, "completed", j.Status.CompletedIndexes, "0-2")
}

func jobSomeSucceed(e *env) {
	e.createJob(script("if [ $JOB_COMPLETION_INDEX = 0 ]; then exit 0; fi; sleep 3600", func(s *batchv1.JobSpec) {
		indexedJob(3, 3)(s)
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0")}}}
	}))
	s := e.jobEnds(batchv1.JobComplete, batchv1.JobReasonSuccessPolicy)
	equal(e, "status", fmt.Sprint(s.CompletedIndexes, " ", s.Succeeded, s.Failed, s.Active, *s.Terminating), "0 1 0 0 0")
	equal(e, "the first condition", s.Conditions[0].Type, batchv1.JobSuccessCriteriaMet)
}

func jobFails(e *env) {
	run := func(name, text, reason string, change func(*batchv1.JobSpec)) {
		job := script(text, change)
		job.Name = name
		e.createJob(job)
		e.patiently(func() error {
			j, err := e.kube.BatchV1().Jobs(e.ns).Get(e.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return same(jobCondition(j, batchv1.JobFailed)+jobCondition(j, batchv1.JobFailureTarget), reason+reason)
		})
	}
	run("limit", "exit 1", batchv1.JobReasonBackoffLimitExceeded, func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](0) })
	run("deadline", "sleep 3600", batchv1.JobReasonDeadlineExceeded, func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](1) })
	run("code", "exit 7", batchv1.JobReasonPodFailurePolicy, func(s *batchv1.JobSpec) {
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpNotIn, Values: []int32{1, 2}}}}}
	})
	run("restarts", "exit 1", batchv1.JobReasonBackoffLimitExceeded, func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.Template.Spec.RestartPolicy = ptr.To[int32](1), corev1.RestartPolicyOnFailure
	})
}

func jobExpires(e *env) {
	e.createJob(script("exit 0", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](1) }))
	e.patiently(func() error {
		if _, err := e.kube.BatchV1().Jobs(e.ns).Get(e.ctx, "job", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the job is still there: %w", err)
		}
		return e.pods("", 0)
	})
}

func jobSuspended(e *env) {
	e.createJob(script("sleep 3600", func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) }))
	e.jobIs(func(j *batchv1.Job) bool { return jobCondition(j, batchv1.JobSuspended) == "JobSuspended" })
	e.must(e.pods("", 0))
	e.patchJob(`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"node"}}}}}`)
	e.patchJob(`{"spec":{"suspend":false}}`)
	equal(e, "the node selector", fmt.Sprint(e.runningPods("job-name=job", 1)[0].Spec.NodeSelector), "map[kubernetes.io/hostname:node]")
	e.patchJob(`{"spec":{"suspend":true}}`)
	e.eventually(func() error { return e.pods("", 0) })
	j := e.jobIs(func(j *batchv1.Job) bool {
		return jobCondition(j, batchv1.JobSuspended) == "JobSuspended" && j.Status.Active == 0 && *j.Status.Terminating == 0
	})
	equal(e, "failed", j.Status.Failed, 0)
}

// jobLife changes a suspended job in every way and deletes it with others of its label.
func jobLife(e *env) {
	jobs := e.kube.BatchV1().Jobs(e.ns)
	w, err := jobs.Watch(e.ctx, metav1.ListOptions{LabelSelector: "e2e=" + e.ns})
	e.must(err)
	defer w.Stop()
	job := script("exit 0", func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) })
	job.Labels = map[string]string{"e2e": e.ns}
	e.createJob(job)
	e.sees(w, watch.Added)
	e.patchJob(`{"metadata":{"labels":{"patched":"true"}}}`)
	e.jobIs(func(j *batchv1.Job) bool {
		j.Annotations = map[string]string{"updated": "true"}
		_, err := jobs.Update(e.ctx, j, metav1.UpdateOptions{})
		return err == nil
	})
	got := e.jobIs(func(j *batchv1.Job) bool { return j.Annotations["updated"] == "true" })
	equal(e, "label", got.Labels["patched"], "true")
	e.jobIs(func(j *batchv1.Job) bool {
		j.Status.StartTime = ptr.To(metav1.NewTime(time.Now().Truncate(time.Second)))
		_, err := jobs.UpdateStatus(e.ctx, j, metav1.UpdateOptions{})
		return err == nil
	})
	list, err := e.kube.BatchV1().Jobs("").List(e.ctx, metav1.ListOptions{LabelSelector: "e2e=" + e.ns})
	e.must(err)
	equal(e, "jobs", len(list.Items), 1)
	e.must(jobs.DeleteCollection(e.ctx, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}, metav1.ListOptions{LabelSelector: "e2e=" + e.ns}))
	e.sees(w, watch.Deleted)
}
