package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// escapeTests are of what pods must not manage, and of what keeps them apart.
var escapeTests = map[string]func(*env){
	"a default pod does not get out": func(e *env) {
		victim := shell("main", "echo secret > /v/file; sleep 1000")
		victim.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		pod := onePod("victim", victim)
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		e.create(pod)
		of, err := filepath.Glob(filepath.Join(e.cluster.Layout.Pods(), string(e.ready("victim").UID), "volumes", "*", "v", "file"))
		if err != nil || len(of) != 1 {
			e.Fatalf("the victim's volume is not where it is looked for: %v %v", of, err)
		}
		command := "escape " + strings.Join([]string{of[0], e.cluster.Dir, e.cluster.Kubeconfig, e.cluster.Layout.ContainerdSocket()}, " ")
		held := func(name string, change func(*corev1.Pod)) {
			e.Helper()
			pod := secured(name, command, nil)
			pod.Spec.Containers[0].Image = escapeImage
			change(pod)
			if log := e.finish(pod); !strings.HasSuffix(log, "held\n") || strings.Count(log, "refused ") < 60 {
				e.Errorf("%s: %s", name, log)
			}
		}
		held("root", func(*corev1.Pod) {})
		held("user", func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000))} })
		held("filtered", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		})
		prober := secured("prober", "sleep 1000", nil)
		prober.Spec.Containers[0].Image = escapeImage
		e.create(prober)
		e.ready("prober")
		if log, err := e.tryInside("prober", command); err != nil || !strings.HasSuffix(log, "held\n") {
			e.Errorf("by kubectl exec: %v\n%s", err, log)
		}
	},
	"no working directory leads out by a file left open": func(e *env) {
		for fd := 3; fd < 12; fd++ {
			c := shell("main", "cat ../../../../../etc/hostname; ls -d ../../../../.."+e.cluster.Dir)
			c.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", fd)
			e.create(onePod(fmt.Sprintf("fd-%d", fd), c))
		}
		for fd := 3; fd < 12; fd++ {
			name := fmt.Sprintf("fd-%d", fd)
			pod := e.until(name, func(p *corev1.Pod) error {
				if p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
					return errors.New("not ended: " + describe(p))
				}
				return nil
			})
			if t := pod.Status.ContainerStatuses[0].State.Terminated; t == nil || t.Reason != "StartError" {
				if log := e.log(name, "main"); !strings.Contains(log, "No such file or directory") || strings.Contains(log, "\n"+e.cluster.Dir) {
					e.Errorf("%s: %q %s", name, log, describe(pod))
				}
			}
		}
	},
	"a link in a volume leads nowhere else": func(e *env) {
		for name, target := range map[string]string{"outside": "/etc", "up": "../../..", "itself": "link"} {
			pod := secured(name, "cat /mnt/hostname /mnt/passwd; ls /mnt", nil)
			mount := corev1.VolumeMount{Name: "v", MountPath: "/v"}
			init := shell("init", "ln -s "+target+" /v/link")
			init.VolumeMounts = []corev1.VolumeMount{mount}
			pod.Spec.InitContainers = []corev1.Container{init}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/mnt", SubPath: "link"}}
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			e.create(pod)
			if m := e.waits(name, "CreateContainerConfigError"); !strings.Contains(m, "failed to prepare subPath for volumeMount") {
				e.Errorf("%s: %q", name, m)
			}
		}
	},
	"a termination message is the container's own, and short": func(e *env) {
		secret := filepath.Join(e.TempDir(), "secret")
		e.must(os.WriteFile(secret, []byte("of the host"), 0o644))
		pod := secured("link", "rm -f /v/message; ln -s "+secret+" /v/message; exit 1", nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		pod.Spec.Containers[0].TerminationMessagePath = "/v/message"
		e.finish(pod)
		big := secured("big", "dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' x > /dev/termination-log; printf the-end >> /dev/termination-log", nil)
		e.finish(big)
		message := func(name string) string {
			return e.until(name, func(*corev1.Pod) error { return nil }).Status.ContainerStatuses[0].State.Terminated.Message
		}
		if m := message("link"); m != "" {
			e.Errorf("by a link: %q", m)
		}
		if m := message("big"); len(m) != 4096 || !strings.HasSuffix(m, "xxthe-end") {
			e.Errorf("of 64 MiB: %d bytes", len(m))
		}
	},
	"a pod sends from no address but its own": func(e *env) {
		listener := secured("listener", "escape hear 7000", nil)
		listener.Spec.Containers[0].Image = escapeImage
		e.create(listener)
		e.create(secured("other", "sleep 1000", nil))
		to, from := e.ready("listener").Status.PodIP, e.ready("other").Status.PodIP
		pod := secured("sender", "escape send "+from+" "+to+" 7000 honest-1 forged honest-2", nil)
		pod.Spec.Containers[0].Image = escapeImage
		if log := e.finish(pod); log != "" {
			e.Fatalf("not sent: %s", log)
		}
		e.eventually(func() error {
			if log := e.log("listener", "main"); !strings.Contains(log, "honest-2") {
				return fmt.Errorf("heard %q", log)
			}
			return nil
		})
		if log := e.log("listener", "main"); log != "honest-1\nhonest-2\n" {
			e.Errorf("heard %q", log)
		}
	},
	"a pod may have users of its own": func(e *env) {
		e.needsUsers()
		e.cluster.KubectlIn("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: files}\ndata: {key: from the map}\n", "apply", "-n", e.ns, "-f", "-")
		host := e.TempDir()
		e.must(os.Chmod(host, 0o777))
		start := func(name string) {
			pod := secured(name, `cat /proc/self/uid_map; stat -c %u:%g:%a /empty /memory /host; cat /map/key; echo; test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token
touch /empty/file /host/file-$HOSTNAME /etc/hosts; chown 1000:1000 /empty/file; stat -c %u:%g /empty/file; ping -c1 -W2 127.0.0.1 >/dev/null && echo pinged; echo ready; sleep 1000`, nil)
			pod.Spec.HostUsers = new(false)
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
			pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/empty/file"}}}, PeriodSeconds: 1}
			pod.Spec.Volumes = []corev1.Volume{{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
				{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}},
				{Name: "map", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "files"}}}}}
			for _, v := range []string{"empty", "memory", "host", "map"} {
				pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v, MountPath: "/" + v})
			}
			e.create(pod)
		}
		start("one")
		start("two")
		first := map[string]string{}
		for _, name := range []string{"one", "two"} {
			e.ready(name)
			log := e.log(name, "main")
			ids, rest, _ := strings.Cut(log, "\n")
			first[name] = ids
			const want = "0:2000:2777\n0:2000:2777\n0:0:777\nfrom the map\ntoken\n1000:1000\npinged\nready\n"
			if f := strings.Fields(ids); len(f) != 3 || f[0] != "0" || f[1] == "0" || f[2] != "65536" || rest != want {
				e.Errorf("%s: %q %q", name, ids, rest)
			}
			if got := e.inside(name, "id -u; grep CapEff /proc/self/status"); !strings.HasPrefix(got, "0\n") || strings.Contains(got, "0000000000000000") {
				e.Errorf("%s: by exec: %q", name, got)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(host, "file-"+name), &st); err != nil || st.Uid != 0 {
				e.Errorf("%s: its root's file is of user %d: %v", name, st.Uid, err)
			}
		}
		if first["one"] == first["two"] {
			e.Errorf("two pods have the same users: %s", first["one"])
		}
		pod := secured("caged", "escape "+e.cluster.Kubeconfig, nil)
		pod.Spec.Containers[0].Image, pod.Spec.HostUsers = escapeImage, new(false)
		if log := e.finish(pod); !strings.HasSuffix(log, "held\n") {
			e.Errorf("out of its users: %s", log)
		}
		shared := secured("shared", "cat /proc/1/comm; kill -0 1 && echo seen", nil)
		shared.Spec.HostUsers, shared.Spec.ShareProcessNamespace = new(false), new(true)
		if log := e.finish(shared); !strings.HasSuffix(log, "seen\n") {
			e.Errorf("with shared processes: %q", log)
		}
	},
	"read-only mounts are so recursively where that is asked for": func(e *env) {
		can := e.handler().RecursiveReadOnlyMounts
		host := e.hostFolder()
		below := filepath.Join(host, "below")
		e.must(os.Mkdir(below, 0o777))
		e.mountTmpfs(below)
		modes := map[string]corev1.RecursiveReadOnlyMode{"disabled": corev1.RecursiveReadOnlyDisabled, "possible": corev1.RecursiveReadOnlyIfPossible, "enabled": corev1.RecursiveReadOnlyEnabled}
		for name, mode := range modes {
			pod := secured(name, "touch /v/file 2>/dev/null || echo above; touch /v/below/file 2>/dev/null || echo below", nil)
			pod.Spec.Volumes = hostVolume(host)
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: &mode}}
			if can == nil || !*can {
				if mode == corev1.RecursiveReadOnlyEnabled {
					e.create(pod)
					e.waits(name, "CreateContainerConfigError")
					continue
				}
			}
			want, status := "above\n", corev1.RecursiveReadOnlyDisabled
			if mode != corev1.RecursiveReadOnlyDisabled && can != nil && *can {
				want, status = "above\nbelow\n", corev1.RecursiveReadOnlyEnabled
			}
			if log := e.finish(pod); log != want {
				e.Errorf("%s: read-only are %q, not %q", name, log, want)
			}
			got := e.until(name, func(*corev1.Pod) error { return nil }).Status.ContainerStatuses[0].VolumeMounts[0]
			if got.RecursiveReadOnly == nil || *got.RecursiveReadOnly != status {
				e.Errorf("%s: reported %+v", name, got)
			}
		}
	},
	"mounts come and go by their propagation": func(e *env) {
		host := e.hostFolder()
		for _, dir := range []string{"host", "pod"} {
			e.must(os.Mkdir(filepath.Join(host, dir), 0o777))
		}
		for name, mode := range map[string]corev1.MountPropagationMode{"none": corev1.MountPropagationNone, "in": corev1.MountPropagationHostToContainer, "both": corev1.MountPropagationBidirectional} {
			pod := secured(name, "sleep 1000", &corev1.SecurityContext{Privileged: new(mode == corev1.MountPropagationBidirectional)})
			pod.Spec.Volumes = hostVolume(host)
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", MountPropagation: &mode}}
			e.create(pod)
		}
		for _, name := range []string{"none", "in", "both"} {
			e.ready(name)
		}
		e.mountTmpfs(filepath.Join(host, "host"))
		e.must(os.WriteFile(filepath.Join(host, "host", "file"), nil, 0o644))
		e.inside("both", "mount -t tmpfs none /v/pod && touch /v/pod/file")
		for name, want := range map[string]string{"none": "", "in": "host pod ", "both": "host pod "} {
			if got := e.inside(name, "for d in host pod; do test -e /v/$d/file && printf '%s ' $d; done; true"); got != want {
				e.Errorf("%s sees the mounts %q, not %q", name, got, want)
			}
		}
		if _, err := os.Stat(filepath.Join(host, "pod", "file")); err != nil {
			e.Errorf("the host does not see the pod's mount: %v", err)
		}
		e.inside("both", "umount /v/pod")
		pod := secured("bold", "true", nil)
		pod.Spec.Volumes = hostVolume(host)
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", MountPropagation: new(corev1.MountPropagationBidirectional)}}
		if _, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod, metav1.CreateOptions{}); err == nil {
			e.Error("a container without privileges may mount on the host")
		}
	},
}

func hostVolume(path string) []corev1.Volume {
	return []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}}
}

// hostFolder is a folder of the host whose mounts are shared with those who take part, until the test ends.
func (e *env) hostFolder() string {
	e.Helper()
	dir := filepath.Join(e.TempDir(), "shared")
	e.must(os.MkdirAll(dir, 0o777))
	e.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	e.Cleanup(func() { unmountAll(e.T, dir) })
	e.must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
	return dir
}

func (e *env) mountTmpfs(dir string) {
	e.Helper()
	e.must(unix.Mount("none", dir, "tmpfs", 0, "mode=0777"))
	e.Cleanup(func() { unmountAll(e.T, dir) })
}

// unmountAll unmounts all that lies at a path.
func unmountAll(t *testing.T, dir string) {
	for range 10 {
		if unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
			return // nothing is there any more
		}
	}
	t.Errorf("%s has mounts without end", dir)
}
