package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// securityTests are of security contexts, seen from inside.
var securityTests = map[string]func(*env){
	"a container runs as the user and groups that are asked for": func(e *env) {
		for _, c := range []struct {
			name   string
			pod    *corev1.PodSecurityContext
			own    *corev1.SecurityContext
			uid    int64
			gid    int64
			groups string
		}{
			{"plain", nil, nil, 0, 0, "0"},
			{"user", nil, &corev1.SecurityContext{RunAsUser: new(int64(1001)), RunAsGroup: new(int64(2002))}, 1001, 2002, "2002"},
			{"image", &corev1.PodSecurityContext{RunAsUser: new(int64(1000))}, nil, 1000, 1000, "1000 50000 60000"},
			{"merge", &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), RunAsGroup: new(int64(3000)), FSGroup: new(int64(2000)), SupplementalGroups: []int64{4000}},
				nil, 1000, 3000, "2000 3000 4000 50000 60000"},
			{"strict", &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), RunAsGroup: new(int64(3000)), FSGroup: new(int64(2000)), SupplementalGroups: []int64{4000},
				SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicyStrict)}, nil, 1000, 3000, "2000 3000 4000"},
			{"beats", &corev1.PodSecurityContext{RunAsUser: new(int64(7)), RunAsGroup: new(int64(8))}, &corev1.SecurityContext{RunAsUser: new(int64(9))}, 9, 8, "8"},
		} {
			{
				pod := secured(c.name, "id -u; id -g; grep Groups: /proc/self/status", c.own)
				pod.Spec.SecurityContext = c.pod
				log := e.finish(pod)
				if want := fmt.Sprintf("%d\n%d\nGroups:\t%s \n", c.uid, c.gid, c.groups); log != want {
					e.Errorf("%s: %q, not %q", c.name, log, want)
				}
				user := e.until(c.name, func(*corev1.Pod) error { return nil }).Status.ContainerStatuses[0].User
				if user == nil || user.Linux == nil || user.Linux.UID != c.uid || user.Linux.GID != c.gid || strings.Trim(fmt.Sprint(user.Linux.SupplementalGroups), "[]") != c.groups {
					e.Errorf("%s: reported %+v", c.name, user)
				}
			}
		}
		node, err := e.kube.CoreV1().Nodes().Get(e.ctx, "node", metav1.GetOptions{})
		e.must(err)
		if f := node.Status.Features; f == nil || f.SupplementalGroupsPolicy == nil || !*f.SupplementalGroupsPolicy {
			e.Errorf("the node's features: %+v", f)
		}
	},
	"nobody who must not be root is": func(e *env) {
		for name, c := range map[string]struct {
			sc   corev1.SecurityContext
			want string
		}{
			"image": {corev1.SecurityContext{RunAsNonRoot: new(true)}, "container has runAsNonRoot and image will run as root"},
			"zero":  {corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(0))}, "container's runAsUser breaks non-root policy"},
		} {
			e.create(secured(name, "id", &c.sc))
			got := e.waits(name, "CreateContainerConfigError")
			pod := e.until(name, func(*corev1.Pod) error { return nil })
			if want := fmt.Sprintf(`%s (pod: "%s_%s(%s)", container: main)`, c.want, name, e.ns, pod.UID); got != want {
				e.Errorf("%s: %q, not %q", name, got, want)
			}
		}
		e.says("someone", "id -u", "1000\n", &corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(1000))})
	},
	"capabilities are added and dropped": func(e *env) {
		all := strings.TrimSpace(strings.TrimPrefix(e.finish(secured("bounds", "grep CapBnd /proc/self/status", &corev1.SecurityContext{Privileged: new(true)})), "CapBnd:"))
		const defaults, none, netAdmin = "00000000a80425fb", "0000000000000000", "0000000000001000"
		list := func(names ...corev1.Capability) []corev1.Capability { return names }
		for name, c := range map[string]struct {
			sc               corev1.SecurityContext
			effective, bound string
		}{
			"plain":      {corev1.SecurityContext{}, defaults, defaults},
			"user":       {corev1.SecurityContext{RunAsUser: new(int64(1000))}, none, defaults},
			"nothing":    {corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: list("ALL")}}, none, none},
			"one":        {corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: list("ALL"), Add: list("NET_ADMIN")}}, netAdmin, netAdmin},
			"more":       {corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: list("NET_ADMIN")}}, "00000000a80435fb", "00000000a80435fb"},
			"less":       {corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: list("MKNOD", "net_raw")}}, "00000000a00405fb", "00000000a00405fb"},
			"all":        {corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: list("ALL")}}, all, all},
			"privileged": {corev1.SecurityContext{Privileged: new(true)}, all, all},
		} {
			want := fmt.Sprintf("CapInh:\t%s\nCapPrm:\t%s\nCapEff:\t%s\nCapBnd:\t%s\nCapAmb:\t%s\n", none, c.effective, c.effective, c.bound, none)
			e.says(name, "grep Cap /proc/self/status", want, &c.sc)
		}
	},
	"privileges are not regained where that is not allowed": func(e *env) {
		for name, c := range map[string]struct {
			allow *bool
			want  string
		}{"unset": {nil, "0\nNoNewPrivs:\t0\n"}, "allowed": {new(true), "0\nNoNewPrivs:\t0\n"}, "forbidden": {new(false), "1000\nNoNewPrivs:\t1\n"}} {
			pod := secured(name, "/v/escape euid; grep NoNewPrivs /proc/self/status", &corev1.SecurityContext{RunAsUser: new(int64(1000)), AllowPrivilegeEscalation: c.allow})
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			mount := []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			init := shell("init", "cp /bin/escape /v && chmod 4755 /v/escape")
			init.Image, init.VolumeMounts, pod.Spec.Containers[0].VolumeMounts = escapeImage, mount, mount
			pod.Spec.InitContainers = []corev1.Container{init}
			if log := e.finish(pod); log != c.want {
				e.Errorf("%s: %q, not %q", name, log, c.want)
			}
		}
	},
	"a root file system is read-only where that is asked for": func(e *env) {
		const script = "exec 2>&1; echo x > /file && cat /file"
		e.says("writable", script, "x\n", &corev1.SecurityContext{ReadOnlyRootFilesystem: new(false)})
		e.says("unset", script, "x\n", nil)
		e.says("readonly", script+"; echo y > /dev/shm/file && cat /dev/shm/file", "sh: can't create /file: Read-only file system\ny\n", &corev1.SecurityContext{ReadOnlyRootFilesystem: new(true)})
	},
	"seccomp profiles filter system calls": func(e *env) {
		const script = "exec 2>&1; grep -w Seccomp /proc/self/status; unshare -U true && echo made; chmod 700 /tmp && echo changed"
		dir := filepath.Join(e.cluster.Layout.Agent(), "seccomp")
		e.must(os.MkdirAll(dir, 0o755))
		const profile = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}`
		e.must(os.WriteFile(filepath.Join(dir, "no-chmod.json"), []byte(profile), 0o644))
		localhost := func(name string) *corev1.SecurityContext {
			return &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}}
		}
		of := func(kind corev1.SeccompProfileType) *corev1.SecurityContext {
			return &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: kind}}
		}
		const refused = "unshare: unshare(0x10000000): Operation not permitted\n"
		e.says("unset", script, "Seccomp:\t0\nmade\nchanged\n", nil)
		e.says("unconfined", script, "Seccomp:\t0\nmade\nchanged\n", of(corev1.SeccompProfileTypeUnconfined))
		e.says("default", script, "Seccomp:\t2\n"+refused+"changed\n", of(corev1.SeccompProfileTypeRuntimeDefault))
		e.says("localhost", script, "Seccomp:\t2\nmade\nchmod: /tmp: Operation not permitted\n", localhost("no-chmod.json"))
		e.create(secured("missing", script, localhost("none.json")))
		if m := e.waits("missing", "CreateContainerError"); !strings.Contains(m, `cannot load seccomp profile "none.json"`) {
			e.Errorf("a missing profile: %q", m)
		}
	},
	"AppArmor is enforced or the pod is refused": func(e *env) {
		if _, err := os.Stat("/sys/kernel/security/apparmor/profiles"); err == nil {
			e.says("default", "cat /proc/self/attr/current", "coracle-default (enforce)\n", nil)
			return
		}
		profile := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
		e.rejected(secured("default", "true", &corev1.SecurityContext{AppArmorProfile: profile}), "AppArmor", "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host")
		e.says("unconfined", "echo ran", "ran\n", &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}})
	},
	"safe sysctls are set, others refused": func(e *env) {
		set := func(name string, host bool, kv ...string) *corev1.Pod {
			pod := secured(name, "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/core/somaxconn", nil)
			pod.Spec.HostIPC, pod.Spec.SecurityContext = host, &corev1.PodSecurityContext{}
			for i := 0; i < len(kv); i += 2 {
				pod.Spec.SecurityContext.Sysctls = append(pod.Spec.SecurityContext.Sysctls, corev1.Sysctl{Name: kv[i], Value: kv[i+1]})
			}
			return pod
		}
		if log := e.finish(set("safe", false, "kernel.shm_rmid_forced", "1", "net/ipv4/ip_unprivileged_port_start", "80", "net.core.somaxconn", "99")); log != "1\n80\n99\n" {
			e.Errorf("inside: %q", log)
		}
		e.rejected(set("unsafe", false, "kernel.msgmax", "8193"), "SysctlForbidden", `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`)
		if _, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, set("hosts", true, "kernel.shm_rmid_forced", "1"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			e.Errorf("one of the host's IPC namespace: %v", err)
		}
	},
	"invalid sysctls are rejected": func(e *env) {
		pod := secured("invalid", "true", nil)
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "foo-", Value: "bar"}, {Name: "kernel.shmmax", Value: "100000000"},
			{Name: "safe-and-unsafe", Value: "100000000"}, {Name: "bar..", Value: "42"}}}
		_, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `Invalid value: "foo-"`) || !strings.Contains(err.Error(), `Invalid value: "bar.."`) ||
			strings.Contains(err.Error(), "kernel.shmmax") {
			e.Errorf("%v", err)
		}
	},
	"the kernel's files are hidden unless asked otherwise": func(e *env) {
		const script = `grep -c " /proc/" /proc/mounts; grep -q "^proc /proc/sys proc ro" /proc/mounts && echo kept`
		unmasked := &corev1.SecurityContext{ProcMount: new(corev1.UnmaskedProcMount)}
		if log := e.finish(secured("default", script, &corev1.SecurityContext{ProcMount: new(corev1.DefaultProcMount)})); strings.HasPrefix(log, "0\n") || !strings.HasSuffix(log, "kept\n") {
			e.Errorf("by default: %q", log)
		}
		if _, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, secured("hosts", script, unmasked), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			e.Errorf("with the machine's users: %v", err)
		}
		pod := secured("unmasked", script, unmasked)
		pod.Spec.HostUsers = new(false)
		e.needsUsers()
		if log := e.finish(pod); log != "0\n" {
			e.Errorf("unmasked: %q", log)
		}
	},
	"Windows' options are none of Linux'": func(e *env) {
		pod := secured("windows", "true", &corev1.SecurityContext{WindowsOptions: &corev1.WindowsSecurityContextOptions{RunAsUserName: new("me")}})
		pod.Spec.OS = &corev1.PodOS{Name: corev1.Linux}
		if _, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "windowsOptions") {
			e.Errorf("%v", err)
		}
	},
	"the hosts file is managed unless it is mounted or the host's": func(e *env) {
		const managed = "# Kubernetes-managed hosts file"
		script := "cat /etc/hosts"
		pod := onePod("pod", shell("main", script), shell("other", script))
		pod.Spec.Containers[1].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/etc/hosts", SubPath: "hosts"}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "hosts"}}}}}
		_, err := e.kube.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "hosts"}, Data: map[string]string{"hosts": "127.0.0.1 mine\n"}}, metav1.CreateOptions{})
		e.must(err)
		if log := e.finish(pod); !strings.Contains(log, managed) || !strings.Contains(log, "\tpod\n") {
			e.Errorf("managed: %q", log)
		}
		if log := e.log("pod", "other"); log != "127.0.0.1 mine\n" {
			e.Errorf("mounted: %q", log)
		}
		pod = onePod("host", shell("main", script))
		pod.Spec.HostNetwork = true
		if log := e.finish(pod); strings.Contains(log, managed) {
			e.Errorf("of the host: %q", log)
		}
	},
	"a host port may be of one address": func(e *env) {
		pod := onePod("web", corev1.Container{Name: "main", Image: "coracle/demo:v1", Ports: []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18080, HostIP: "127.0.0.1"}}})
		e.create(pod)
		node := e.ready("web").Status.HostIP
		ask := func(host string) error {
			conn, err := e.cluster.Dial(e.ctx, "tcp", host+":18080")
			if err == nil {
				conn.Close()
			}
			return err
		}
		e.must(ask("127.0.0.1"))
		if node != "127.0.0.1" && ask(node) == nil {
			e.Errorf("the port of 127.0.0.1 answers at %s", node)
		}
	},
}

// secured is a pod of one container called main.
func secured(name, script string, sc *corev1.SecurityContext) *corev1.Pod {
	c := shell("main", script)
	c.SecurityContext = sc
	return onePod(name, c)
}

// says runs such a pod to its end, and wants its log to be that.
func (e *env) says(name, script, want string, sc *corev1.SecurityContext) {
	e.Helper()
	if log := e.finish(secured(name, script, sc)); log != want {
		e.Errorf("%s: %q, not %q", name, log, want)
	}
}

// rejected makes a pod that the node is to reject in these words.
func (e *env) rejected(pod *corev1.Pod, reason, message string) {
	e.Helper()
	e.create(pod)
	got := e.until(pod.Name, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed {
			return errors.New("not failed: " + describe(p))
		}
		return nil
	})
	if got.Status.Reason != reason || got.Status.Message != message {
		e.Errorf("%s: %s: %q, not %s: %q", pod.Name, got.Status.Reason, got.Status.Message, reason, message)
	}
}

// handler is what the node can beyond what every one can.
func (e *env) handler() corev1.NodeRuntimeHandlerFeatures {
	e.Helper()
	node, err := e.kube.CoreV1().Nodes().Get(e.ctx, "node", metav1.GetOptions{})
	e.must(err)
	for _, h := range node.Status.RuntimeHandlers {
		if h.Name == "" && h.Features != nil {
			return *h.Features
		}
	}
	e.Fatalf("no features: %+v", node.Status.RuntimeHandlers)
	return corev1.NodeRuntimeHandlerFeatures{}
}

// needsUsers skips the rest where the machine has no user namespaces for pods; that such pods are refused is seen first.
func (e *env) needsUsers() {
	e.Helper()
	if f := e.handler(); f.UserNamespaces != nil && *f.UserNamespaces {
		return
	}
	pod := secured("without", "true", nil)
	pod.Spec.HostUsers = new(false)
	e.create(pod)
	got := e.until("without", func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed {
			return errors.New("not failed: " + describe(p))
		}
		return nil
	})
	if !strings.Contains(got.Status.Message, "can't set `spec.hostUsers: false`") {
		e.Errorf("refused with %q", got.Status.Message)
	}
	e.Skipf("skipped: %s", got.Status.Message)
}

// escapeImage has busybox and the program of integration/escape.
const escapeImage = "docker.io/library/escape:1"
