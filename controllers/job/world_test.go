package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

var errFault = errors.New("fault")

// world is a model of the API server with one job and its pods. It notes whatever breaks the promises of the package.
type world struct {
	revision int
	clock    *clock.Manual
	job      *batchv1.Job
	pods     map[string]*corev1.Pod
	// jobLog and podLog are all versions there have been; a pod that is gone has a deletion timestamp and no finalizer in its last one.
	jobLog []*batchv1.Job
	podLog []podEvent
	// uncounted are the UIDs that have ever been stored as not counted yet, counted those that have left the list again.
	uncounted, counted map[types.UID]bool
	// alone tells that one controller works at a time, so that there are never too many pods.
	alone bool
	wrong []string
}

type podEvent struct {
	pod  *corev1.Pod
	gone bool
}

func (w *world) complain(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) next() string {
	w.revision++
	return strconv.Itoa(w.revision)
}

// storePod writes a pod, which goes once it is being deleted, has ended and has no finalizer.
func (w *world) storePod(pod *corev1.Pod) {
	pod.ResourceVersion = w.next()
	gone := pod.DeletionTimestamp != nil && len(pod.Finalizers) == 0 && (pod.Status.Phase != corev1.PodRunning)
	w.pods[pod.Name] = pod
	if gone {
		delete(w.pods, pod.Name)
	}
	w.podLog = append(w.podLog, podEvent{pod, gone})
}

func (w *world) storeJob(job *batchv1.Job) {
	job.ResourceVersion = w.next()
	w.job = job
	w.jobLog = append(w.jobLog, job)
}

// change edits a pod as an agent or a user does.
func (w *world) change(pod *corev1.Pod, changes ...change) {
	pod = pod.DeepCopy()
	for _, c := range changes {
		c(pod)
	}
	w.storePod(pod)
}

func (w *world) active() (list []*corev1.Pod) {
	for _, pod := range w.pods {
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			list = append(list, pod)
		}
	}
	return list
}

func (w *world) create(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Name = fmt.Sprintf("%s%d", pod.GenerateName, w.revision)
	pod.UID, pod.CreationTimestamp = types.UID("uid of "+pod.Name), metav1.NewTime(w.clock.Now())
	pod.Status.Phase = corev1.PodPending
	if n := len(w.active()); w.alone && n >= int(*w.job.Spec.Parallelism) {
		w.complain("%s is created beside %d active ones", pod.Name, n)
	}
	for _, other := range w.active() {
		if index := pod.Annotations[batchv1.JobCompletionIndexAnnotation]; w.alone && index != "" && other.Annotations[batchv1.JobCompletionIndexAnnotation] == index {
			w.complain("%s is created beside %s of the same index", pod.Name, other.Name)
		}
	}
	w.storePod(pod)
	return pod
}

func (w *world) release(seen *corev1.Pod, unchanged bool) error {
	pod := w.pods[seen.Name]
	switch {
	case pod == nil:
		return nil
	case unchanged && pod.ResourceVersion != seen.ResourceVersion:
		return apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errFault)
	case !hasFinalizer(pod):
		return nil
	}
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if ended && !w.accounted(pod) {
		w.complain("%s %s goes uncounted: %+v", pod.Name, pod.Status.Phase, w.job.Status)
	}
	w.change(pod, untracked)
	return nil
}

// accounted tells whether the stored status knows of the pod's end.
func (w *world) accounted(pod *corev1.Pod) bool {
	f := examine(snapshot{job: w.job, now: now})
	if pod.Status.Phase == corev1.PodSucceeded && f.indexed {
		return f.done.has(f.index(pod)) || w.uncounted[pod.UID]
	}
	over := condition(w.job.Status.Conditions, batchv1.JobSuccessCriteriaMet) != nil // what is ended then is no failure
	return w.uncounted[pod.UID] || over || pod.Status.Phase == corev1.PodFailed && !f.counts(pod)
}

func (w *world) updateStatus(job *batchv1.Job) (*batchv1.Job, error) {
	if job.ResourceVersion != w.job.ResourceVersion {
		return nil, apierrors.NewConflict(batchv1.Resource("jobs"), job.Name, errFault)
	}
	w.audit(&w.job.Status, &job.Status)
	stored := w.job.DeepCopy()
	job.Status.DeepCopyInto(&stored.Status)
	w.storeJob(stored)
	return stored.DeepCopy(), nil
}

// audit checks that counts grow by what leaves the list of the uncounted, which nothing enters twice or leaves with its finalizer.
func (w *world) audit(old, cur *batchv1.JobStatus) {
	tracked := map[types.UID]bool{}
	for _, pod := range w.pods {
		tracked[pod.UID] = hasFinalizer(pod)
	}
	step := func(what string, before, after []types.UID, grown int32) {
		for _, uid := range after {
			if !slices.Contains(before, uid) && w.uncounted[uid] {
				w.complain("%s is counted twice", uid)
			}
			w.uncounted[uid] = true
		}
		for _, uid := range before {
			if slices.Contains(after, uid) {
				continue
			}
			grown--
			if tracked[uid] || w.counted[uid] {
				w.complain("%s is counted with its finalizer, or again", uid)
			}
			w.counted[uid] = true
		}
		if grown != 0 {
			w.complain("%s grows by %d too many", what, grown)
		}
	}
	none := &batchv1.UncountedTerminatedPods{}
	before, after := ptr.Deref(old.UncountedTerminatedPods, *none), ptr.Deref(cur.UncountedTerminatedPods, *none)
	step("failed", before.Failed, after.Failed, cur.Failed-old.Failed)
	if w.job.Spec.CompletionMode != nil && *w.job.Spec.CompletionMode == batchv1.IndexedCompletion {
		if cur.Succeeded < old.Succeeded {
			w.complain("indexes are done no more: %q, then %q", old.CompletedIndexes, cur.CompletedIndexes)
		}
		return
	}
	step("succeeded", before.Succeeded, after.Succeeded, cur.Succeeded-old.Succeeded)
}

// worker is a controller with informers that trail behind the world, over a connection that breaks.
type worker struct {
	*Controller
	w *world
	// jobSeen and podSeen are how much of the logs the informers have shown.
	jobSeen, podSeen int
	shown            map[string]*corev1.Pod
	// fault strikes at the request with that number: 1 loses the request, 2 the answer, 3 and 4 kill the process, too.
	at, fault, requests int
	dead                bool
}

func newWorker(w *world) *worker {
	k := &worker{w: w}
	k.start()
	return k
}

// start is that of a new process, whose informers list all there is.
func (k *worker) start() {
	log, still := slog.New(slog.NewTextHandler(io.Discard, nil)), clock.NewManual(now) // informers may trail behind for as long as they like
	k.Controller = &Controller{api: k, events: &record.FakeRecorder{}, clock: k.w.clock, lag: loop.NewLag(still), jobLag: loop.NewLag(still),
		loop: loop.New(loop.Config{Name: "test", Log: log}), memories: map[string]*memory{}, parallel: 1}
	k.jobSeen, k.podSeen, k.shown, k.dead = 0, 0, map[string]*corev1.Pod{}, false
	k.showJobs(len(k.w.jobLog))
	k.showPods(len(k.w.podLog))
}

func (k *worker) showJobs(n int) {
	k.jobSeen = min(k.jobSeen+n, len(k.w.jobLog))
	k.jobLag.Saw(k.w.jobLog[k.jobSeen-1].ResourceVersion)
}

func (k *worker) showPods(n int) {
	for ; n > 0 && k.podSeen < len(k.w.podLog); n-- {
		e := k.w.podLog[k.podSeen]
		k.podSeen++
		k.shown[e.pod.Name] = e.pod
		if e.gone {
			delete(k.shown, e.pod.Name)
		}
		k.lag.Saw(e.pod.ResourceVersion)
	}
}

// syncOnce is sync but for the informers and for adoption.
func (k *worker) syncOnce(at, fault int) error {
	const key = "ns/j"
	k.at, k.fault, k.requests = at, fault, 0
	job := k.w.jobLog[k.jobSeen-1]
	if finished(job) || max(k.jobLag.Behind(key), k.lag.Behind(key)) > 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(k.shown))
	var owned []*corev1.Pod
	for _, name := range names {
		owned = append(owned, k.shown[name])
	}
	err := k.reconcile(context.Background(), key, job.DeepCopy(), owned)
	if k.dead {
		k.start()
	}
	return err
}

// request carries one out, or loses it or its answer.
func (k *worker) request(do func() error) error {
	if k.dead {
		return errFault
	}
	strikes := k.requests == k.at && k.fault > 0
	k.requests++
	if !strikes {
		return do()
	}
	k.dead = k.fault > 2
	if k.fault%2 == 0 {
		_ = do()
	}
	return errFault
}

// certain is a request whose lost answer is asked for again, unless the process has died.
func (k *worker) certain(do func() error) error {
	if k.fault == 2 {
		k.fault = 0
	}
	return k.request(do)
}

func (k *worker) create(_ context.Context, pod *corev1.Pod) (made *corev1.Pod, err error) {
	err = k.certain(func() error { made = k.w.create(pod); return nil })
	return made, err
}

func (k *worker) delete(_ context.Context, pod *corev1.Pod) error {
	return k.certain(func() error {
		if pod := k.w.pods[pod.Name]; pod != nil && pod.DeletionTimestamp == nil {
			k.w.change(pod, func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(k.w.clock.Now())) })
		}
		return nil
	})
}

func (k *worker) release(_ context.Context, pod *corev1.Pod, unchanged bool) error {
	return k.request(func() error { return k.w.release(pod, unchanged) })
}

func (k *worker) list(context.Context, *batchv1.Job) (all []*corev1.Pod, err error) {
	err = k.request(func() error {
		for _, name := range slices.Sorted(maps.Keys(k.w.pods)) {
			all = append(all, k.w.pods[name])
		}
		return nil
	})
	return all, err
}

func (k *worker) updateStatus(_ context.Context, job *batchv1.Job) (stored *batchv1.Job, err error) {
	err = k.request(func() (err error) { stored, err = k.w.updateStatus(job); return err })
	return stored, err
}

func drawJob(t *rapid.T) *batchv1.Job {
	job := jobOf(parallelism(int32(rapid.IntRange(1, 4).Draw(t, "parallelism"))), completions(int32(rapid.IntRange(1, 8).Draw(t, "completions"))), limit(1000),
		status(func(s *batchv1.JobStatus) { *s = batchv1.JobStatus{} }))
	switch rapid.IntRange(0, 4).Draw(t, "mode") {
	case 0:
		job.Spec.Completions = nil
	case 1:
		indexed(job)
	case 2:
		perIndex(int32(rapid.IntRange(0, 2).Draw(t, "limit of an index")))(job)
	case 3:
		limit(int32(rapid.IntRange(0, 5).Draw(t, "limit")))(job)
	}
	if rapid.Bool().Draw(t, "replaced once they have failed") {
		onlyFailed(job)
	}
	if rapid.Bool().Draw(t, "policy") {
		onlyFailed(job)
		job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{43}}}}}
	}
	return job
}

// TestExactCounts lets agents, users, crashes, lost requests and answers, and informers that trail behind do as they like with a job: whatever ends is
// counted once, there are never too many pods, and in the end the job is over.
func TestExactCounts(t *testing.T) { rapid.Check(t, func(t *rapid.T) { exactCounts(t, 1) }) }

// TestExactCountsOfTwo has two controllers at work at once, as when a leader does not know yet that it is none.
func TestExactCountsOfTwo(t *testing.T) { rapid.Check(t, func(t *rapid.T) { exactCounts(t, 2) }) }

func exactCounts(t *rapid.T, workers int) {
	w := &world{clock: clock.NewManual(now), pods: map[string]*corev1.Pod{}, uncounted: map[types.UID]bool{}, counted: map[types.UID]bool{}, alone: workers == 1}
	w.storeJob(drawJob(t))
	var all []*worker
	for range workers {
		all = append(all, newWorker(w))
	}
	pick := func() *worker { return all[rapid.IntRange(0, workers-1).Draw(t, "worker")] }
	pod := func(t *rapid.T) *corev1.Pod {
		if len(w.pods) == 0 {
			t.Skip("no pod")
		}
		return w.pods[rapid.SampledFrom(slices.Sorted(maps.Keys(w.pods))).Draw(t, "pod")]
	}
	sync := func(t *rapid.T) {
		_ = pick().syncOnce(rapid.IntRange(0, 6).Draw(t, "at"), max(0, rapid.IntRange(-4, 4).Draw(t, "fault")))
	}
	t.Repeat(map[string]func(*rapid.T){
		"sync":  sync,
		"again": sync,
		"more":  func(t *rapid.T) { pick().showPods(rapid.IntRange(1, 9).Draw(t, "events")); sync(t) },
		"jobs":  func(t *rapid.T) { pick().showJobs(rapid.IntRange(1, 3).Draw(t, "events")) },
		"agent": func(t *rapid.T) { w.advance(pod(t), rapid.SampledFrom([]int32{0, 0, 1, 43}).Draw(t, "code")) },
		"user": func(t *rapid.T) {
			if p := pod(t); p.DeletionTimestamp == nil {
				w.change(p, func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(w.clock.Now())) })
			}
		},
		"edit": func(t *rapid.T) {
			job := w.job.DeepCopy()
			job.Spec.Suspend = ptr.To(rapid.Bool().Draw(t, "suspend"))
			w.storeJob(job)
		},
		"restart": func(*rapid.T) { pick().start() },
		"time":    func(*rapid.T) { w.clock.Advance(time.Minute) },
		"": func(t *rapid.T) {
			if len(w.wrong) > 0 {
				t.Fatal(w.wrong)
			}
		},
	})
	w.settle(t, all)
}

// advance takes the pod one step further in its life.
func (w *world) advance(pod *corev1.Pod, code int32) {
	switch {
	case pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil:
		w.change(pod, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, ready)
	case pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending:
	case code == 0:
		w.change(pod, succeeded)
	default:
		w.change(pod, failed(now.Sub(w.clock.Now()), code))
	}
}

// settle lets everything work as it should until the job is over.
func (w *world) settle(t *rapid.T, all []*worker) {
	job := w.job.DeepCopy()
	job.Spec.Suspend = ptr.To(false)
	w.storeJob(job)
	for left := 400; left > 0; left-- {
		if finished(w.job) {
			left = min(left, 5)
		}
		for _, k := range all {
			k.showJobs(len(w.jobLog))
			k.showPods(len(w.podLog))
			if err := k.syncOnce(0, 0); err != nil && !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(w.pods)) {
			w.advance(w.pods[name], 0)
		}
		w.clock.Advance(time.Minute)
	}
	s := &w.job.Status
	if !finished(w.job) || len(w.wrong) > 0 || s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || len(s.UncountedTerminatedPods.Failed)+len(s.UncountedTerminatedPods.Succeeded) > 0 {
		t.Fatalf("%v %+v", w.wrong, s)
	}
	for _, pod := range w.pods {
		if w.alone && hasFinalizer(pod) { // of two, one may not know the other's last pod; it is a stray then
			t.Fatalf("%s keeps its finalizer: %+v", pod.Name, s)
		}
	}
	if want := w.job.Spec.Completions; condition(s.Conditions, batchv1.JobComplete) != nil && want != nil && s.Succeeded < *want {
		t.Fatalf("complete with %+v", s)
	}
}
