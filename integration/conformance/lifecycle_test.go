package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// lifecycleTests are of how containers start, are looked after, restart and end.
var lifecycleTests = map[string]func(*env){
	"pods are created, seen, changed and removed":                 podsComeAndGo,
	"five hundred changes of a pod's spec are observed":           changesAreObserved,
	"a deadline that is set later ends a pod":                     deadlineIsSetLater,
	"quality of service is told":                                  qualityIsTold,
	"init containers run first, one after another":                initContainersRun,
	"init containers that fail keep the others from starting":     initContainersFail,
	"containers restart as their policies say":                    containersRestart,
	"all containers restart where a rule says so":                 allContainersRestart,
	"termination messages are read":                               messagesAreRead,
	"hooks run after the start and before the end":                hooksRun,
	"hooks that fail are told of":                                 hooksFail,
	"probes that succeed leave a container alone":                 probesSucceed,
	"a liveness probe that fails restarts, again and again":       livenessRestarts,
	"readiness follows its probe":                                 readinessFollows,
	"ephemeral containers are added, and kubectl debug uses them": ephemeralContainersRun,
	"static pods run from a folder":                               staticPodsRun,
	"kubectl debug makes copies and looks at nodes":               debugCopies,
}

func errUnready(p *corev1.Pod) error { return errors.New("not yet: " + describe(p)) }

// phase waits for a phase.
func (e *env) phase(name string, phase corev1.PodPhase) *corev1.Pod {
	e.Helper()
	return e.until(name, func(p *corev1.Pod) error {
		if p.Status.Phase != phase {
			return errUnready(p)
		}
		return nil
	})
}

// told waits for an event of a pod that contains the text.
func (e *env) told(pod, reason, text string) {
	e.Helper()
	cluster.Eventually(e.T, time.Minute, func() error {
		list, err := e.kube.CoreV1().Events(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",reason=" + reason})
		if err != nil {
			return err
		}
		var all []string
		for _, ev := range list.Items {
			if strings.Contains(ev.Message, text) {
				return nil
			}
			all = append(all, ev.Message)
		}
		return fmt.Errorf("no event %s %q among %q", reason, text, all)
	})
}

// removed waits until there is no such pod.
func (e *env) removed(pod string) {
	e.Helper()
	cluster.Eventually(e.T, time.Minute, func() error {
		p, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, pod, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		}
		return errUnready(p)
	})
}

func (e *env) remove(pod string, grace int64) {
	e.Helper()
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, pod, *metav1.NewDeleteOptions(grace)))
}

func (e *env) patch(pod, body string) *corev1.Pod {
	e.Helper()
	p, err := e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, pod, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{})
	e.must(err)
	return p
}

func podsComeAndGo(e *env) {
	pods := e.kube.CoreV1().Pods(e.ns)
	selector := metav1.ListOptions{LabelSelector: "time=now"}
	w, err := pods.Watch(e.ctx, selector)
	e.must(err)
	defer w.Stop()
	pod := onePod("web", shell("main", "sleep 1000"))
	pod.Labels = map[string]string{"time": "now"}
	e.create(pod)
	e.sees(w, watch.Added)
	ready := e.ready("web")
	st := ready.Status.ContainerStatuses[0]
	if st.User == nil || st.User.Linux == nil || st.User.Linux.UID != 0 || ready.Status.StartTime == nil || len(ready.Status.HostIPs) == 0 {
		e.Errorf("status: %s", describe(ready))
	}
	e.patch("web", `{"metadata":{"labels":{"time":"now","more":"label"}}}`)
	list, err := pods.List(e.ctx, metav1.ListOptions{LabelSelector: "more=label"})
	e.must(err)
	if len(list.Items) != 1 {
		e.Errorf("%d pods with the new label", len(list.Items))
	}
	// One that always fails can be deleted too.
	fails := onePod("fails", corev1.Container{Name: "main", Image: cluster.Busybox, Command: []string{"/bin/false"}})
	fails.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(fails)
	e.until("fails", func(p *corev1.Pod) error {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].LastTerminationState.Terminated == nil {
			return errUnready(p)
		}
		return nil
	})
	e.remove("fails", 0)
	e.remove("web", 2)
	for {
		ev := e.next(w)
		if p := ev.Object.(*corev1.Pod); ev.Type == watch.Deleted {
			if p.DeletionTimestamp == nil {
				e.Error("deleted without a time of deletion")
			}
			break
		}
	}
	if list, err = pods.List(e.ctx, selector); err != nil || len(list.Items) != 0 {
		e.Errorf("left: %v %v", list, err)
	}
	e.removed("fails")
}

func changesAreObserved(e *env) {
	pod := onePod("many", shell("main", "sleep 1000"))
	pod.Spec.Tolerations = []corev1.Toleration{{Key: "k0", Operator: corev1.TolerationOpExists}}
	e.create(pod)
	for i := 1; i < 500; i++ {
		body, err := json.Marshal([]map[string]any{{"op": "add", "path": "/spec/tolerations/-", "value": map[string]string{"key": fmt.Sprint("k", i), "operator": "Exists"}}})
		e.must(err)
		_, err = e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, "many", types.JSONPatchType, body, metav1.PatchOptions{})
		e.must(err)
	}
	got := e.until("many", func(p *corev1.Pod) error {
		if p.Generation != 500 || p.Status.ObservedGeneration != 500 {
			return fmt.Errorf("generation %d, observed %d", p.Generation, p.Status.ObservedGeneration)
		}
		return nil
	})
	for _, c := range got.Status.Conditions {
		if c.Type != corev1.PodScheduled && c.ObservedGeneration != 500 {
			e.Errorf("condition %s has observed %d", c.Type, c.ObservedGeneration)
		}
	}
}

func deadlineIsSetLater(e *env) {
	e.create(onePod("late", shell("main", "sleep 1000")))
	e.ready("late")
	e.patch("late", `{"spec":{"activeDeadlineSeconds":5}}`)
	got := e.phase("late", corev1.PodFailed)
	if got.Status.Reason != "DeadlineExceeded" || got.Status.Message != "Pod was active on the node longer than the specified deadline" {
		e.Errorf("status %s", describe(got))
	}
	e.told("late", "DeadlineExceeded", "Pod was active on the node longer")
}

func qualityIsTold(e *env) {
	amount := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
	c := shell("main", "true")
	c.Resources = corev1.ResourceRequirements{Requests: amount, Limits: amount}
	if got := e.create(onePod("sure", c)).Status.QOSClass; got != corev1.PodQOSGuaranteed {
		e.Errorf("quality of service %s", got)
	}
}

func initContainersRun(e *env) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		name := strings.ToLower(string(policy))
		pod := onePod(name, shell("main", "cat /v/log"))
		if policy == corev1.RestartPolicyAlways {
			pod.Spec.Containers[0] = shell("main", "cat /v/log; sleep 1000")
		}
		pod.Spec.RestartPolicy = policy
		pod.Spec.InitContainers = []corev1.Container{shell("one", "sleep 1; echo one >>/v/log"), shell("two", "echo two >>/v/log")}
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				list[i].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			}
		}
		e.create(pod)
	}
	e.ready("always")
	for _, p := range []*corev1.Pod{e.phase("always", corev1.PodRunning), e.phase("never", corev1.PodSucceeded)} {
		for _, st := range p.Status.InitContainerStatuses {
			if !st.Ready || st.State.Terminated == nil || st.State.Terminated.ExitCode != 0 {
				e.Errorf("%s: %s", p.Name, describe(p))
			}
		}
		if log := e.log(p.Name, "main"); log != "one\ntwo\n" {
			e.Errorf("%s: the init containers left %q", p.Name, log)
		}
	}
}

func initContainersFail(e *env) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		pod := onePod(strings.ToLower(string(policy)), shell("main", "true"))
		pod.Spec.RestartPolicy = policy
		pod.Spec.InitContainers = []corev1.Container{shell("bad", "exit 1"), shell("next", "true")}
		e.create(pod)
	}
	never := e.phase("never", corev1.PodFailed)
	always := e.until("always", func(p *corev1.Pod) error {
		if len(p.Status.InitContainerStatuses) == 0 || p.Status.InitContainerStatuses[0].RestartCount < 2 {
			return errUnready(p)
		}
		return nil
	})
	if always.Status.Phase != corev1.PodPending {
		e.Errorf("phase %s", always.Status.Phase)
	}
	for _, p := range []*corev1.Pod{never, always} {
		if st := p.Status.ContainerStatuses[0]; st.State.Running != nil || st.ContainerID != "" {
			e.Errorf("%s: a container was started: %s", p.Name, describe(p))
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodInitialized && (c.Status != corev1.ConditionFalse || c.Reason != "ContainersNotInitialized" ||
				c.Message != "containers with incomplete status: [bad next]") {
				e.Errorf("%s: %+v", p.Name, c)
			}
		}
	}
}

func containersRestart(e *env) {
	// Each fails on its first start and succeeds on its second, which a file in a volume tells it.
	script := "if [ -f /v/NAME ]; then exit 0; fi; touch /v/NAME; exit 42"
	pods := map[string]corev1.RestartPolicy{"always": corev1.RestartPolicyAlways, "onfailure": corev1.RestartPolicyOnFailure, "never": corev1.RestartPolicyNever}
	volume := []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	mount := []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	for name, policy := range pods {
		c := shell("main", strings.ReplaceAll(script, "NAME", "main"))
		c.VolumeMounts = mount
		pod := onePod(name, c)
		pod.Spec.RestartPolicy, pod.Spec.Volumes = policy, volume
		e.create(pod)
	}
	rules := onePod("rules", shell("main", strings.ReplaceAll(script, "NAME", "main")), shell("own", strings.ReplaceAll(script, "NAME", "own")))
	rules.Spec.InitContainers = []corev1.Container{shell("init", strings.ReplaceAll(script, "NAME", "init"))}
	rules.Spec.Volumes = volume
	restart := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	for _, c := range []*corev1.Container{&rules.Spec.InitContainers[0], &rules.Spec.Containers[0], &rules.Spec.Containers[1]} {
		c.VolumeMounts, c.RestartPolicy, c.RestartPolicyRules = mount, new(corev1.ContainerRestartPolicyNever), restart
	}
	rules.Spec.Containers[1].RestartPolicyRules, rules.Spec.Containers[1].RestartPolicy = nil, new(corev1.ContainerRestartPolicyOnFailure)
	e.create(rules)
	for name, want := range map[string]corev1.PodPhase{"onfailure": corev1.PodSucceeded, "never": corev1.PodFailed, "rules": corev1.PodSucceeded} {
		got := e.phase(name, want)
		count := int32(1)
		if name == "never" {
			count = 0
		}
		for _, st := range append(got.Status.InitContainerStatuses, got.Status.ContainerStatuses...) {
			if st.RestartCount != count || st.State.Terminated == nil || st.Ready && len(got.Status.InitContainerStatuses) == 0 {
				e.Errorf("%s: %s", name, describe(got))
			}
		}
	}
	always := e.until("always", func(p *corev1.Pod) error {
		st := p.Status.ContainerStatuses
		if len(st) == 0 || st[0].RestartCount < 1 || st[0].State.Waiting == nil {
			return errUnready(p)
		}
		return nil
	})
	if w := always.Status.ContainerStatuses[0].State.Waiting; w.Reason != "CrashLoopBackOff" || !strings.HasPrefix(w.Message, "back-off 10s restarting failed container=main pod=always_") ||
		always.Status.Phase != corev1.PodRunning {
		e.Errorf("always: %s", describe(always))
	}
	e.told("always", "BackOff", "Back-off restarting failed container main in pod always_")
}

func allContainersRestart(e *env) {
	watcher := shell("watcher", "if [ -f /v/again ]; then sleep 1000; fi; touch /v/again; exit 88")
	watcher.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	watcher.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}}}}
	pod := onePod("all", shell("app", "trap '' TERM; sleep 1000"), watcher)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(600))
	pod.Spec.InitContainers = []corev1.Container{shell("setup", "echo x >>/v/setup")}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	for _, c := range []*corev1.Container{&pod.Spec.InitContainers[0], &pod.Spec.Containers[0], &pod.Spec.Containers[1]} {
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	}
	e.create(pod)
	got := e.until("all", func(p *corev1.Pod) error {
		if len(p.Status.ContainerStatuses) == 0 {
			return errUnready(p)
		}
		for _, st := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if st.RestartCount != 1 || st.Name != "setup" && !st.Ready {
				return errUnready(p)
			}
		}
		return nil
	})
	if out := e.inside("all", "cat /v/setup"); !strings.HasSuffix(out, "\nx\nx\n") {
		e.Errorf("the init container ran: %q", out)
	}
	for _, c := range got.Status.Conditions {
		if c.Type == corev1.AllContainersRestarting && c.Status != corev1.ConditionFalse {
			e.Errorf("%+v", c)
		}
	}
	e.remove("all", 0)
}

func messagesAreRead(e *env) {
	file := shell("main", "printf DONE >/dev/termination-custom-log")
	file.TerminationMessagePath = "/dev/termination-custom-log"
	file.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64(1000))}
	fromLog := shell("main", "printf DONE; exit 1")
	fromLog.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	empty := shell("main", "printf DONE; exit 0")
	empty.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	both := shell("main", "printf log; printf OK >/dev/termination-log; exit 1")
	both.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	cut := shell("main", "yes x | tr -d '\\n' | head -c 10000 >/dev/termination-log")
	for name, c := range map[string]corev1.Container{"file": file, "log": fromLog, "empty": empty, "both": both, "cut": cut} {
		e.create(onePod(name, c))
	}
	for name, want := range map[string]string{"file": "DONE", "log": "DONE", "empty": "", "both": "OK", "cut": strings.Repeat("x", 4096)} {
		got := e.until(name, func(p *corev1.Pod) error {
			if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Terminated == nil {
				return errUnready(p)
			}
			return nil
		})
		if m := got.Status.ContainerStatuses[0].State.Terminated.Message; m != want {
			e.Errorf("%s: message %q", name, m)
		}
	}
}
