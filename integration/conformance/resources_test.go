package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// resourceTests are of what pods may use: their cgroups, changes of them, runtime classes, and what a node refuses.
var resourceTests = map[string]func(*env){
	"three containers are resized to less in all":           resizedToLess,
	"three containers are resized each in its way":          resizedEachItsWay,
	"a resize may replace the pod":                          resizedByReplacement,
	"a container restarts for the memory it gets":           resizedByRestart,
	"memory in use is not taken away":                       resizedBelowUsage,
	"a pod's own resources are resized":                     podLevelResources,
	"cgroups are set by the quality of service":             cgroupsByQuality,
	"what uses too much memory is killed, also as a child":  killedForMemory,
	"requests and limits are files, also after a resize":    resourcesInVolumes,
	"what the node has not is refused":                      refusedByTheNode,
	"a runtime class chooses the runtime and its overhead":  runtimeClassOverhead,
	"a pod of a runtime class that is deleted is refused":   runtimeClassDeleted,
	"runtime classes are created, changed, watched, listed": runtimeClassOperations,
}

// amounts are requests, and limits equal to them, as "100m" and "32Mi".
func amounts(cpu, memory string) corev1.ResourceRequirements {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	return corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
}

// sized is a container that does nothing with resources of its own.
func sized(name, cpu, memory string) corev1.Container {
	c := shell(name, "trap exit TERM; while :; do sleep 1; done")
	c.Resources = amounts(cpu, memory)
	return c
}

// resizePatch asks for other resources by the name of containers.
func resizePatch(containers ...corev1.Container) string {
	type part struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	var parts []part
	for _, c := range containers {
		parts = append(parts, part{c.Name, c.Resources})
	}
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"containers": parts}})
	if err != nil {
		panic(err)
	}
	return string(data)
}

// resize asks by kubectl for other resources.
func (e *env) resize(pod string, containers ...corev1.Container) {
	e.Helper()
	if out, err := e.cluster.TryKubectl("", "patch", "-n", e.ns, "pod", pod, "--subresource", "resize", "-p", resizePatch(containers...)); err != nil {
		e.Fatalf("%v\n%s", err, out)
	}
}

// resized waits until the containers have such resources by the pod's status, and looks whether they have them in their cgroups.
func (e *env) resized(name string, restarts int32, containers ...corev1.Container) *corev1.Pod {
	e.Helper()
	pod := e.until(name, func(p *corev1.Pod) error {
		for _, want := range containers {
			for _, st := range p.Status.ContainerStatuses {
				if st.Name == want.Name && (st.State.Running == nil || st.Resources == nil || !sameAmounts(st.Resources.Limits, want.Resources.Limits) ||
					!sameAmounts(st.Resources.Requests, want.Resources.Requests)) {
					return fmt.Errorf("%s is not resized: %s", st.Name, describe(p))
				}
			}
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
				return fmt.Errorf("not done: %s", describe(p))
			}
		}
		return nil
	})
	for _, st := range pod.Status.ContainerStatuses {
		if st.RestartCount != restarts {
			e.Errorf("%s has been restarted %d times, not %d", st.Name, st.RestartCount, restarts)
		}
	}
	for _, c := range containers {
		quota, memory := e.limitsInside(name, c.Name)
		if want := c.Resources.Limits.Cpu().MilliValue() * 100; quota != want {
			e.Errorf("%s: a quota of %d, not %d", c.Name, quota, want)
		}
		if want := c.Resources.Limits.Memory().Value(); memory != want {
			e.Errorf("%s: a limit of %d bytes, not %d", c.Name, memory, want)
		}
	}
	return pod
}

func sameAmounts(a, b corev1.ResourceList) bool {
	return a.Cpu().Cmp(*b.Cpu()) == 0 && a.Memory().Cmp(*b.Memory()) == 0
}

// limitsInside are the quota of CPU, in microseconds of a tenth of a second, and the limit of memory that a container sees.
func (e *env) limitsInside(pod, container string) (quota, memory int64) {
	e.Helper()
	const script = "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 cpu.max; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max"
	f := strings.Fields(e.insideOf(pod, container, script))
	if len(f) != 2 {
		e.Fatalf("limits of %s: %v", container, f)
	}
	quota, _ = strconv.ParseInt(f[0], 10, 64)
	memory, _ = strconv.ParseInt(f[1], 10, 64)
	return quota, memory
}

// insideOf runs a script in one of a pod's containers.
func (e *env) insideOf(pod, container, script string) string {
	e.Helper()
	out, err := e.cluster.TryKubectl("", "exec", "-n", e.ns, pod, "-c", container, "--", "sh", "-c", script)
	if err != nil {
		e.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// podCgroup reads a file of a pod's own cgroup: of the controller and by the name of version 1, or by that of version 2.
func (e *env) podCgroup(pod *corev1.Pod, controller, file, file2 string) string {
	e.Helper()
	mount, name := filepath.Join("/sys/fs/cgroup", controller), file
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		mount, name = "/sys/fs/cgroup", file2
	}
	for _, between := range []string{"", "burstable", "besteffort"} {
		found, err := filepath.Glob(filepath.Join(mount, "kubepods*", between, "pod"+string(pod.UID), name))
		e.must(err)
		if len(found) > 0 {
			data, err := os.ReadFile(found[0])
			e.must(err)
			return strings.TrimSpace(string(data))
		}
	}
	e.Fatalf("pod %s has no %s", pod.Name, name)
	return ""
}

func resizedToLess(e *env) {
	before := []corev1.Container{sized("c1", "20m", "30Mi"), sized("c2", "25m", "35Mi"), sized("c3", "30m", "40Mi")}
	e.create(onePod("less", before...))
	e.ready("less")
	e.resized("less", 0, before...)
	after := []corev1.Container{sized("c1", "30m", "40Mi"), sized("c2", "15m", "25Mi"), sized("c3", "20m", "30Mi")}
	e.resize("less", after...)
	pod := e.resized("less", 0, after...)
	equal(e, "the pod's limit of memory", e.podCgroup(pod, "memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(95<<20))
	equal(e, "the pod's allocation", pod.Status.AllocatedResources.Cpu().String(), "65m")
	e.told("less", "ResizeStarted", `Pod resize started: {"containers":[{"name":"c1"`)
	e.told("less", "ResizeCompleted", `Pod resize completed: {"containers":[{"name":"c1"`)
}

func resizedEachItsWay(e *env) {
	e.create(onePod("mixed", sized("c1", "20m", "30Mi"), sized("c2", "25m", "35Mi"), sized("c3", "30m", "40Mi")))
	e.ready("mixed")
	after := []corev1.Container{sized("c1", "40m", "30Mi"), sized("c2", "15m", "55Mi"), sized("c3", "50m", "60Mi")}
	e.resize("mixed", after...)
	pod := e.resized("mixed", 0, after...)
	equal(e, "the pod's limit of memory", e.podCgroup(pod, "memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(145<<20))
	equal(e, "class", pod.Status.QOSClass, corev1.PodQOSGuaranteed)
}

func resizedByReplacement(e *env) {
	pods := e.kube.CoreV1().Pods(e.ns)
	e.create(onePod("replaced", sized("c1", "20m", "30Mi")))
	e.ready("replaced")
	after := sized("c1", "40m", "60Mi")
	e.eventually(func() error {
		pod, err := pods.Get(e.ctx, "replaced", metav1.GetOptions{})
		e.must(err)
		pod.Spec.Containers[0].Resources = after.Resources
		_, err = pods.UpdateResize(e.ctx, "replaced", pod, metav1.UpdateOptions{})
		return err
	})
	e.resized("replaced", 0, after)
	whole, err := e.raw("GET", "/api/v1/namespaces/"+e.ns+"/pods/replaced", "", "")
	e.must(err)
	byResize, err := e.raw("GET", "/api/v1/namespaces/"+e.ns+"/pods/replaced/resize", "", "")
	e.must(err)
	equal(e, "the pod by its resize path", byResize, whole)
	// More than the node has helps no waiting, and the class of quality stays.
	_, err = pods.Patch(e.ctx, "replaced", types.StrategicMergePatchType, []byte(resizePatch(sized("c1", "1000", "60Mi"))), metav1.PatchOptions{}, "resize")
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "node didn't have enough allocatable resources: cpu, requested: 1000000, allocatable: ") {
		e.Errorf("too much: %v", err)
	}
	unequal := sized("c1", "40m", "60Mi")
	unequal.Resources.Requests[corev1.ResourceCPU] = resource.MustParse("20m")
	_, err = pods.Patch(e.ctx, "replaced", types.StrategicMergePatchType, []byte(resizePatch(unequal)), metav1.PatchOptions{}, "resize")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "Pod QOS Class may not change as a result of resizing") {
		e.Errorf("another class: %v", err)
	}
}

func resizedByRestart(e *env) {
	c := sized("c1", "20m", "30Mi")
	c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired},
		{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	pod := onePod("restarting", c)
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(pod)
	e.ready("restarting")
	e.resize("restarting", sized("c1", "30m", "30Mi"))
	e.resized("restarting", 0, sized("c1", "30m", "30Mi"))
	e.resize("restarting", sized("c1", "30m", "50Mi"))
	e.resized("restarting", 1, sized("c1", "30m", "50Mi"))
	e.told("restarting", "Killing", "Container c1 resize requires restart")
}

func resizedBelowUsage(e *env) {
	c := shell("c1", "dd if=/dev/zero of=/dev/shm/f bs=1M count=40 2>/dev/null; touch /tmp/full; trap exit TERM; while :; do sleep 1; done")
	c.Resources = amounts("100m", "80Mi")
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/full"}}}, PeriodSeconds: 1}
	e.create(onePod("full", c))
	e.ready("full")
	e.resize("full", sized("c1", "100m", "30Mi"))
	e.until("full", func(p *corev1.Pod) error {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizeInProgress && c.Reason == corev1.PodReasonError && c.ObservedGeneration == p.Generation &&
				strings.HasPrefix(c.Message, "cannot decrease memory limits: [attempting to set pod memory limit (31457280) below current usage (") &&
				strings.Contains(c.Message, `, attempting to set container "c1" memory limit (31457280) below current usage (`) {
				return nil
			}
		}
		return fmt.Errorf("no error: %s", describe(p))
	})
	e.told("full", "ResizeError", `Pod resize error: {"containers":[{"name":"c1"`)
	if _, memory := e.limitsInside("full", "c1"); memory != 80<<20 {
		e.Errorf("the limit is %d", memory)
	}
	e.inside("full", "rm /dev/shm/f")
	e.resized("full", 0, sized("c1", "100m", "30Mi"))
}

func podLevelResources(e *env) {
	pod := onePod("whole", shell("c1", "sleep 1000"), sized("c2", "10m", "20Mi"))
	pod.Spec.Resources = &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("50Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi")}}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "LIMIT", ValueFrom: &corev1.EnvVarSource{
		ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", ContainerName: "c1"}}}}
	e.create(pod)
	pod = e.ready("whole")
	equal(e, "class", pod.Status.QOSClass, corev1.PodQOSBurstable)
	equal(e, "a limit that is the pod's", strings.TrimSpace(e.insideOf("whole", "c1", "echo $LIMIT")), strconv.Itoa(100<<20))
	if quota, memory := e.limitsInside("whole", "c1"); quota != 10_000 || memory != 100<<20 {
		e.Errorf("a container without limits: %d, %d", quota, memory)
	}
	if quota, memory := e.limitsInside("whole", "c2"); quota != 1_000 || memory != 20<<20 {
		e.Errorf("a container of its own limits: %d, %d", quota, memory)
	}
	equal(e, "the pod's limit", e.podCgroup(pod, "memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(100<<20))
	_, err := e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, "whole", types.StrategicMergePatchType,
		[]byte(`{"spec":{"resources":{"requests":{"cpu":"60m"},"limits":{"cpu":"200m","memory":"120Mi"}}}}`), metav1.PatchOptions{}, "resize")
	e.must(err)
	pod = e.until("whole", func(p *corev1.Pod) error {
		r := p.Status.Resources
		if r == nil || r.Limits.Memory().Value() != 120<<20 || r.Requests.Cpu().MilliValue() != 60 || p.Status.AllocatedResources.Cpu().MilliValue() != 60 {
			return fmt.Errorf("not resized: %s", describe(p))
		}
		return nil
	})
	equal(e, "the pod's new limit", e.podCgroup(pod, "memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(120<<20))
	e.eventually(func() error {
		if quota, memory := e.limitsInside("whole", "c1"); quota != 20_000 || memory != 120<<20 {
			return fmt.Errorf("a container without limits: %d, %d", quota, memory)
		}
		return nil
	})
}

func cgroupsByQuality(e *env) {
	burstable := sized("c", "50m", "16Mi")
	burstable.Resources.Limits = nil
	for name, c := range map[string]corev1.Container{"guaranteed": sized("c", "50m", "16Mi"), "burstable": burstable, "besteffort": shell("c", "sleep 1000")} {
		e.create(onePod(name, c))
	}
	for name, class := range map[string]corev1.PodQOSClass{"guaranteed": corev1.PodQOSGuaranteed, "burstable": corev1.PodQOSBurstable, "besteffort": corev1.PodQOSBestEffort} {
		pod := e.ready(name)
		equal(e, name, pod.Status.QOSClass, class)
		where := strings.Contains(e.inside(name, "cat /proc/self/cgroup"), "/"+name+"/pod")
		if _, v2 := os.Stat("/sys/fs/cgroup/cgroup.controllers"); v2 != nil && where != (name != "guaranteed") {
			e.Errorf("%s is in the wrong cgroup", name)
		}
	}
	equal(e, "the score of best effort", strings.TrimSpace(e.inside("besteffort", "cat /proc/1/oom_score_adj")), "1000")
	score, err := strconv.Atoi(strings.TrimSpace(e.inside("burstable", "cat /proc/1/oom_score_adj")))
	if err != nil || score < 900 || score > 999 {
		e.Errorf("the score of a burstable pod is %d, %v", score, err)
	}
	pod := e.ready("guaranteed")
	equal(e, "its shares", e.podCgroup(pod, "cpu", "cpu.shares", "cpu.weight"), map[bool]string{true: "2", false: "51"}[isUnified()])
	equal(e, "its quota", strings.Fields(e.podCgroup(pod, "cpu", "cpu.cfs_quota_us", "cpu.max"))[0], "5000")
}

func isUnified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

func killedForMemory(e *env) {
	for name, script := range map[string]string{"itself": "exec tail /dev/zero", "child": "tail /dev/zero; exit 3"} {
		c := shell("main", script)
		c.Resources = amounts("100m", "16Mi")
		e.create(onePod(name, c))
	}
	for name, codes := range map[string]string{"itself": " 137 ", "child": " 3 137 "} { // version 2 kills all of a container at once
		pod := e.phase(name, corev1.PodFailed)
		end := pod.Status.ContainerStatuses[0].State.Terminated
		if end == nil || end.Reason != "OOMKilled" || !strings.Contains(codes, fmt.Sprintf(" %d ", end.ExitCode)) {
			e.Errorf("%s: %s", name, describe(pod))
		}
	}
}

func resourcesInVolumes(e *env) {
	c := sized("main", "125m", "64Mi")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "info", MountPath: "/info"}}
	bare := shell("bare", "sleep 1000")
	ref := func(container, field, divisor string) *corev1.ResourceFieldSelector {
		return &corev1.ResourceFieldSelector{ContainerName: container, Resource: field, Divisor: resource.MustParse(divisor)}
	}
	pod := onePod("told", c, bare)
	pod.Spec.Volumes = []corev1.Volume{{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
		{Path: "cpu", ResourceFieldRef: ref("main", "requests.cpu", "1m")}, {Path: "memory", ResourceFieldRef: ref("main", "limits.memory", "1Mi")},
		{Path: "all", ResourceFieldRef: ref("bare", "limits.memory", "1")}, {Path: "cpus", ResourceFieldRef: ref("bare", "limits.cpu", "1")},
	}}}}}
	e.create(pod)
	pod = e.ready("told")
	node, err := e.kube.CoreV1().Nodes().Get(e.ctx, pod.Spec.NodeName, metav1.GetOptions{})
	e.must(err)
	all := node.Status.Allocatable
	read := func() string {
		return e.insideOf("told", "main", "cd /info; echo $(cat cpu) $(cat memory) $(cat all) $(cat cpus)")
	}
	equal(e, "files", strings.TrimSpace(read()), fmt.Sprintf("125 64 %d %d", all.Memory().Value(), all.Cpu().Value()))
	e.resize("told", sized("main", "150m", "96Mi"))
	e.eventually(func() error {
		if got := strings.Fields(read()); len(got) != 4 || got[0] != "150" || got[1] != "96" {
			return fmt.Errorf("still %v", got)
		}
		return nil
	})
}

func refusedByTheNode(e *env) {
	node, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	bound := func(name string, c corev1.Container) *corev1.Pod {
		p := onePod(name, c)
		p.Spec.NodeName = node.Items[0].Name
		return p
	}
	paged := sized("c", "10m", "16Mi")
	paged.Resources.Limits["hugepages-2Mi"] = resource.MustParse("2000Gi")
	paged.Resources.Requests["hugepages-2Mi"] = resource.MustParse("2000Gi")
	gadget := sized("c", "10m", "16Mi")
	gadget.Resources.Limits["example.com/gadget"], gadget.Resources.Requests["example.com/gadget"] = resource.MustParse("1"), resource.MustParse("1")
	claiming := bound("claims", sized("c", "10m", "16Mi"))
	claiming.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x", ResourceClaimName: new("none")}}
	for _, c := range []struct {
		pod             *corev1.Pod
		reason, message string
	}{
		{bound("cpu", sized("c", "1000", "16Mi")), "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: "},
		{bound("memory", sized("c", "10m", "2000Gi")), "OutOfmemory", "Pod was rejected: Node didn't have enough resource: memory, requested: 2147483648000, used: "},
		{bound("pages", paged), "OutOfhugepages-2Mi", "Pod was rejected: Node didn't have enough resource: hugepages-2Mi, requested: 2147483648000, used: 0, capacity: "},
		{bound("gadget", gadget), "OutOfexample.com/gadget", "Pod was rejected: Node didn't have enough resource: example.com/gadget, requested: 1, used: 0, capacity: 0"},
		{claiming, "UnsupportedPod", "Pod was rejected: resourceClaims are not supported on this node"},
	} {
		e.create(c.pod)
		if p := e.phase(c.pod.Name, corev1.PodFailed); p.Status.Reason != c.reason || !strings.HasPrefix(p.Status.Message, c.message) {
			e.Errorf("%s: %s: %s", p.Name, p.Status.Reason, p.Status.Message)
		}
	}
}

// runtimeClass makes a class of a name of its own, for the test's time.
func (e *env) runtimeClass(name, handler string, change func(*nodev1.RuntimeClass)) string {
	e.Helper()
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: e.ns + "-" + name, Labels: map[string]string{"of": e.ns}}, Handler: handler}
	if change != nil {
		change(class)
	}
	classes := e.kube.NodeV1().RuntimeClasses()
	_, err := classes.Create(e.ctx, class, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() { _ = classes.Delete(e.ctx, class.Name, metav1.DeleteOptions{}) })
	return class.Name
}

func runtimeClassOverhead(e *env) {
	name := e.runtimeClass("heavy", "runc", func(c *nodev1.RuntimeClass) {
		c.Overhead = &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("1Mi")}}
		c.Scheduling = &nodev1.Scheduling{NodeSelector: map[string]string{corev1.LabelOSStable: "linux"}}
	})
	pod := onePod("heavy", sized("c", "20m", "16Mi"))
	pod.Spec.RuntimeClassName = &name
	e.create(pod)
	pod = e.ready("heavy")
	equal(e, "overhead", pod.Spec.Overhead.Cpu().String()+" "+pod.Spec.Overhead.Memory().String(), "10m 1Mi")
	equal(e, "selector", pod.Spec.NodeSelector[corev1.LabelOSStable], "linux")
	equal(e, "the pod's limit of memory", e.podCgroup(pod, "memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(17<<20))
	unknown := e.runtimeClass("unknown", "no-such-runtime", nil)
	other := onePod("unknown", sized("c", "20m", "16Mi"))
	other.Spec.RuntimeClassName = &unknown
	e.create(other)
	e.told("unknown", "FailedCreatePodSandBox", `Failed to create pod sandbox: failed to get sandbox runtime: no runtime for "no-such-runtime" is configured`)
}

func runtimeClassDeleted(e *env) {
	name := e.runtimeClass("gone", "runc", nil)
	classes := e.kube.NodeV1().RuntimeClasses()
	e.must(classes.Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(func() error {
		if _, err := classes.Get(e.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	pod := onePod("late", sized("c", "20m", "16Mi"))
	pod.Spec.RuntimeClassName = &name
	_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), fmt.Sprintf("RuntimeClass %q not found", name)) {
		e.Errorf("created: %v", err)
	}
}

func runtimeClassOperations(e *env) {
	e.discovers("node.k8s.io", "v1", map[string]string{"runtimeclasses": allVerbs})
	classes := e.kube.NodeV1().RuntimeClasses()
	options := metav1.ListOptions{LabelSelector: "of=" + e.ns}
	names := []string{e.runtimeClass("a", "runc", nil), e.runtimeClass("b", "runc", nil), e.runtimeClass("c", "runc", nil)}
	list, err := classes.List(e.ctx, options)
	e.must(err)
	equal(e, "classes", len(list.Items), 3)
	options.ResourceVersion = list.ResourceVersion
	w, err := classes.Watch(e.ctx, options)
	e.must(err)
	defer w.Stop()
	_, err = classes.Patch(e.ctx, names[0], types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "patched", e.sees(w, watch.Modified).(*nodev1.RuntimeClass).Annotations["patched"], "true")
	class, err := classes.Get(e.ctx, names[0], metav1.GetOptions{})
	e.must(err)
	class.Annotations["updated"] = "true"
	_, err = classes.Update(e.ctx, class, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "updated", e.sees(w, watch.Modified).(*nodev1.RuntimeClass).Annotations["updated"], "true")
	e.must(classes.Delete(e.ctx, names[0], metav1.DeleteOptions{}))
	equal(e, "deleted", e.sees(w, watch.Deleted).(*nodev1.RuntimeClass).Name, names[0])
	e.must(classes.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=" + e.ns}))
	cluster.Eventually(e.T, time.Minute, func() error {
		list, err := classes.List(e.ctx, metav1.ListOptions{LabelSelector: "of=" + e.ns})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}
