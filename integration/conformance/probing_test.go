package conformance

import (
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// listener is a pod of the demo server, whose log has a line for each request.
func (e *env) listener() (ip string) {
	e.Helper()
	e.create(onePod("server", corev1.Container{Name: "main", Image: "coracle/demo:v1"}))
	return e.ready("server").Status.PodIP
}

func hooksRun(e *env) {
	ip := e.listener()
	get := func(line string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: ip, Port: intstr.FromInt32(8080), Path: "/log?line=" + line}}
	}
	c := shell("main", "trap 'wget -qO- http://"+ip+":8080/log?line=signal; exit 0' TERM; while true; do sleep 0.1; done")
	c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"wget", "-qO-", "http://" + ip + ":8080/log?line=exec-after-start"}}},
		PreStop: get("http-before-stop")}
	pod := onePod("hooked", c)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(30))
	e.create(pod)
	d := shell("main", "sleep 1000")
	d.Lifecycle = &corev1.Lifecycle{PostStart: get("http-after-start"), PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"wget", "-qO-", "http://" + ip + ":8080/log?line=exec-before-stop"}}}}
	other := onePod("other", d)
	other.Spec.TerminationGracePeriodSeconds = new(int64(2))
	e.create(other)
	f := shell("main", "trap 'exit 0' TERM; while true; do sleep 0.1; done")
	f.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 2}}}
	sleeps := onePod("sleeps", f)
	sleeps.Spec.TerminationGracePeriodSeconds = new(int64(60))
	e.create(sleeps)
	for _, name := range []string{"hooked", "other", "sleeps"} {
		e.ready(name)
	}
	began := time.Now()
	for name, grace := range map[string]int64{"hooked": 30, "other": 2, "sleeps": 60} {
		e.remove(name, grace)
	}
	for _, name := range []string{"hooked", "other", "sleeps"} {
		e.removed(name)
	}
	if took := time.Since(began); took < 2*time.Second {
		e.Errorf("gone after %v, though one sleeps before it stops", took)
	}
	log := e.log("server", "main")
	at := 0
	for _, line := range []string{"exec-after-start", "http-before-stop", "signal"} {
		next := strings.Index(log[at:], line)
		if next < 0 {
			e.Fatalf("no %s after the others in\n%s", line, log)
		}
		at += next
	}
	for _, line := range []string{"http-after-start", "exec-before-stop"} {
		if !strings.Contains(log, line) {
			e.Errorf("no %s in\n%s", line, log)
		}
	}
}

func hooksFail(e *env) {
	bad := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}
	start, stop := shell("main", "sleep 1000"), shell("main", "sleep 1000")
	start.Lifecycle, stop.Lifecycle = &corev1.Lifecycle{PostStart: bad}, &corev1.Lifecycle{PreStop: bad}
	e.create(onePod("start", start))
	pod := onePod("stop", stop)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(2))
	e.create(pod)
	e.ready("stop")
	e.remove("stop", 2)
	e.told("stop", "FailedPreStopHook", "PreStopHook failed")
	e.told("stop", "Killing", "Stopping container main")
	e.told("start", "FailedPostStartHook", "PostStartHook failed")
	e.phase("start", corev1.PodFailed)
	// The second deletion's grace counts.
	slow := onePod("slow", shell("main", "trap '' TERM; sleep 1000"))
	e.create(slow)
	e.ready("slow")
	e.remove("slow", 600)
	e.until("slow", func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil {
			return errUnready(p)
		}
		return nil
	})
	e.remove("slow", 1)
	e.removed("slow")
}

// probe is one that asks each second.
func probe(h corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5}
}

func execProbe(command ...string) *corev1.Probe {
	return probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: command}})
}

func probesSucceed(e *env) {
	l, err := e.cluster.Listen("tcp", ":0")
	e.must(err)
	server, status := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, status)
	status.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_SERVING)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	web := corev1.Container{Name: "main", Image: "coracle/demo:v1"}
	exec, tcp, http, rpc := shell("main", "echo ok >/tmp/health; sleep 1000"), web, web, shell("main", "sleep 1000")
	exec.LivenessProbe = execProbe("cat", "/tmp/health")
	exec.LivenessProbe.InitialDelaySeconds = 2
	tcp.LivenessProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}})
	http.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	http.LivenessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("web")}})
	http.StartupProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}})
	tcp.LivenessProbe.InitialDelaySeconds, http.StartupProbe.FailureThreshold = 3, 30
	addr := l.Addr().String()
	port := intstr.Parse(addr[strings.LastIndex(addr, ":")+1:]).IntVal
	rpc.LivenessProbe = probe(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port, Service: new("db")}})
	all := map[string]corev1.Container{"exec": exec, "tcp": tcp, "http": http, "grpc": rpc}
	for name, c := range all {
		pod := onePod(name, c)
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
		pod.Spec.HostNetwork = name == "grpc" // where the test can serve it
		e.create(pod)
	}
	for name := range all {
		e.ready(name)
	}
	time.Sleep(4 * time.Second)
	for name := range all {
		if p := e.ready(name); p.Status.ContainerStatuses[0].RestartCount != 0 {
			e.Errorf("%s: %s", name, describe(p))
		}
	}
	status.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	e.told("grpc", "Unhealthy", `Liveness probe failed: service unhealthy (responded with "NOT_SERVING")`)
	e.told("grpc", "Killing", "Container main failed liveness probe, will be restarted")
}

func livenessRestarts(e *env) {
	web := corev1.Container{Name: "main", Image: "coracle/demo:v1", LivenessProbe: probe(corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}})}
	web.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "wget -qO- http://127.0.0.1:8080/fail; true"}}}}
	web.LivenessProbe.InitialDelaySeconds, web.LivenessProbe.TerminationGracePeriodSeconds = 1, new(int64(1))
	pod := onePod("ill", web)
	pod.Spec.RestartPolicy, pod.Spec.TerminationGracePeriodSeconds = corev1.RestartPolicyAlways, new(int64(600))
	e.create(pod)
	slow := shell("main", "trap '' TERM; sleep 1000")
	slow.LivenessProbe = execProbe("sleep", "100")
	slow.LivenessProbe.TimeoutSeconds, slow.LivenessProbe.TerminationGracePeriodSeconds = 1, new(int64(1))
	hung := onePod("hung", slow)
	hung.Spec.RestartPolicy, hung.Spec.TerminationGracePeriodSeconds = corev1.RestartPolicyAlways, new(int64(600))
	e.create(hung)
	last := int32(0)
	for _, name := range []string{"ill", "hung"} {
		want := int32(2)
		e.until(name, func(p *corev1.Pod) error {
			if len(p.Status.ContainerStatuses) == 0 {
				return errUnready(p)
			}
			count := p.Status.ContainerStatuses[0].RestartCount
			if name == "ill" && count < last {
				e.Fatalf("the count went from %d to %d", last, count)
			}
			last = count
			if count < want {
				return errUnready(p)
			}
			return nil
		})
	}
	e.told("ill", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503")
	e.told("ill", "Killing", "Container main failed liveness probe, will be restarted")
	e.told("hung", "Unhealthy", `Liveness probe failed: command timed out: "sleep 100" timed out after 1s`)
	e.remove("ill", 0)
	e.remove("hung", 0)
}

func readinessFollows(e *env) {
	ready := corev1.Container{Name: "main", Image: "coracle/demo:v1", ReadinessProbe: probe(corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}})}
	ready.ReadinessProbe.InitialDelaySeconds = 5
	never := ready
	never.ReadinessProbe = execProbe("false")
	gated := onePod("gated", shell("main", "sleep 1000"))
	gated.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/open"}}
	e.create(onePod("later", ready))
	e.create(onePod("never", never))
	e.create(gated)
	got := e.ready("later")
	var at time.Time
	for _, c := range got.Status.Conditions {
		if c.Type == corev1.PodReady {
			at = c.LastTransitionTime.Time
		}
	}
	if st := got.Status.ContainerStatuses[0]; at.Sub(st.State.Running.StartedAt.Time) < 4*time.Second || st.RestartCount != 0 {
		e.Errorf("ready at %v: %s", at, describe(got))
	}
	e.inside("later", "wget -qO- http://127.0.0.1:8080/fail?for=3s")
	e.until("later", func(p *corev1.Pod) error {
		if p.Status.ContainerStatuses[0].Ready {
			return errUnready(p)
		}
		return nil
	})
	e.told("later", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
	e.ready("later")
	bad := e.phase("never", corev1.PodRunning)
	if st := bad.Status.ContainerStatuses[0]; st.Ready || st.RestartCount != 0 {
		e.Errorf("never: %s", describe(bad))
	}
	e.until("gated", func(p *corev1.Pod) error {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Reason == "ReadinessGatesNotReady" &&
				c.Message == `corresponding condition of pod readiness gate "example.com/open" does not exist.` {
				return nil
			}
		}
		return errUnready(p)
	})
	_, err := e.kube.CoreV1().Pods(e.ns).Patch(e.ctx, "gated", types.StrategicMergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"example.com/open","status":"True"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	e.ready("gated")
}
