package conformance

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// containerTests are of what a container is started with: its command, arguments, environment, names and namespaces.
var containerTests = map[string]func(*env){
	"the image's entrypoint and arguments are used where none are given": func(e *env) {
		e.prints(corev1.Container{Name: "main", Image: "coracle/demo:v1", Args: []string{"echo", "only the arguments"}}, "only the arguments\n")
	},
	"the image's own command runs where none is given": func(e *env) {
		e.listener()
		if log := e.log("server", "main"); !strings.Contains(log, "demo v1 listens on :8080") {
			e.Errorf("it prints %q", log)
		}
	},
	"a command takes the entrypoint's place": func(e *env) {
		e.prints(corev1.Container{Name: "main", Image: "coracle/demo:v1", Command: []string{"/bin/echo", "the command"}}, "the command\n")
	},
	"variables are composed of others": func(e *env) {
		c := corev1.Container{Name: "main", Image: cluster.Busybox, Command: []string{"echo", "$(FOO);$(BAR);$(BOTH);$(NONE);$$(FOO)"}, Env: []corev1.EnvVar{
			{Name: "FOO", Value: "foo"}, {Name: "BAR", Value: "bar"}, {Name: "BOTH", Value: "$(FOO);;$(BAR)"},
		}}
		e.prints(c, "foo;bar;foo;;bar;$(NONE);$(FOO)\n")
	},
	"config maps and secrets become variables, with any prefix": sourcesBecomeVariables,
	"lines of a file in a volume become variables":              filesBecomeVariables,
	"fields and resources become variables":                     fieldsBecomeVariables,
	"a pod has the names it asks for":                           podsHaveNames,
	"processes and IPC are shared as asked":                     namespacesAreShared,
}

// prints runs a container to its end, and wants its log to be that.
func (e *env) prints(c corev1.Container, want string) {
	e.Helper()
	if log := e.finish(onePod("prints", c)); log != want {
		e.Errorf("printed %q, not %q", log, want)
	}
}

// printsLines wants the log to have each of the lines.
func (e *env) printsLines(pod *corev1.Pod, lines ...string) {
	e.Helper()
	log := e.finish(pod)
	for _, line := range lines {
		if !strings.Contains("\n"+log, "\n"+line+"\n") {
			e.Errorf("%s does not print %q:\n%s", pod.Name, line, log)
		}
	}
}

func sourcesBecomeVariables(e *env) {
	_, err := e.kube.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"},
		Data: map[string]string{"data-1": "value-1", "data-2": "value-2"}}, metav1.CreateOptions{})
	e.must(err)
	_, err = e.kube.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Data: map[string][]byte{"data-1": []byte("secret-1")}}, metav1.CreateOptions{})
	e.must(err)
	// No shell: it keeps variables from its children whose names it cannot have.
	cm, s := corev1.LocalObjectReference{Name: "cm"}, corev1.LocalObjectReference{Name: "s"}
	c := corev1.Container{Name: "main", Image: cluster.Busybox, Command: []string{"env"}}
	for _, prefix := range []string{"", "p-", "#_", "$_", "1-"} {
		c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{Prefix: prefix, ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cm}},
			corev1.EnvFromSource{Prefix: "s" + prefix, SecretRef: &corev1.SecretEnvSource{LocalObjectReference: s}})
	}
	absent := corev1.LocalObjectReference{Name: "absent"}
	c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: absent, Optional: new(true)}})
	c.Env = []corev1.EnvVar{
		{Name: "ONE", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: cm, Key: "data-1"}}},
		{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: s, Key: "data-1"}}},
		{Name: "NONE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: s, Key: "data-9", Optional: new(true)}}},
		{Name: "data-2", Value: "env wins"},
	}
	e.printsLines(onePod("env", c), "data-1=value-1", "data-2=env wins", "p-data-1=value-1", "#_data-2=value-2", "$_data-1=value-1", "1-data-1=value-1",
		"sdata-1=secret-1", "sp-data-1=secret-1", "s#_data-1=secret-1", "ONE=value-1", "SECRET=secret-1")
}

func filesBecomeVariables(e *env) {
	c := corev1.Container{Name: "main", Image: cluster.Busybox, Command: []string{"env"}}
	for name, key := range map[string]string{"ONE": "A", "TWO": "B", "NONE": "C"} {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{
			VolumeName: "v", Path: "config.env", Key: key, Optional: new(key == "C")}}})
	}
	pod := onePod("files", c)
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	write := shell("write", `printf "# made here\nA='first value'\nB='$(id -u)'\n" >/v/config.env`)
	write.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	pod.Spec.InitContainers = []corev1.Container{write}
	e.printsLines(pod, "ONE=first value", "TWO=0")
	lacks := onePod("lacks", c)
	lacks.Spec.Volumes = pod.Spec.Volumes
	e.create(lacks)
	e.until("lacks", func(p *corev1.Pod) error {
		if st := p.Status.ContainerStatuses; len(st) == 0 || st[0].State.Waiting == nil || st[0].State.Waiting.Reason != "CreateContainerConfigError" {
			return errUnready(p)
		}
		return nil
	})
}

func fieldsBecomeVariables(e *env) {
	c := shell("main", "env")
	for name, path := range map[string]string{"NAME": "metadata.name", "NS": "metadata.namespace", "IP": "status.podIP", "IPS": "status.podIPs",
		"HOST": "status.hostIP", "HOSTS": "status.hostIPs", "NODE": "spec.nodeName", "SA": "spec.serviceAccountName", "LABEL": "metadata.labels['a/b']"} {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}})
	}
	for name, resource := range map[string]string{"CPU": "limits.cpu", "MEMORY": "limits.memory"} {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: resource}}})
	}
	pod := onePod("fields", c)
	pod.Labels = map[string]string{"a/b": "c"}
	log := e.finish(pod)
	got, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, "fields", metav1.GetOptions{})
	e.must(err)
	node, err := e.kube.CoreV1().Nodes().Get(e.ctx, got.Spec.NodeName, metav1.GetOptions{})
	e.must(err)
	for _, line := range []string{"NAME=fields", "NS=" + e.ns, "IP=" + got.Status.PodIP, "IPS=" + got.Status.PodIP, "HOST=" + got.Status.HostIP,
		"HOSTS=" + got.Status.HostIPs[0].IP, "NODE=" + node.Name, "SA=default", "LABEL=c",
		"CPU=" + node.Status.Allocatable.Cpu().String(), "MEMORY=" + node.Status.Allocatable.Memory().AsDec().String()} {
		if !strings.Contains("\n"+log, "\n"+line+"\n") {
			e.Errorf("no %q in\n%s", line, log)
		}
	}
}

func podsHaveNames(e *env) {
	look := func(name string) *corev1.Pod {
		return onePod(name, shell("main", "hostname; cat /etc/hostname /etc/hosts /proc/sys/kernel/hostname"))
	}
	plain, named, full, over, host := look("plain"), look("named"), look("full"), look("over"), look("host")
	plain.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"seven", "seven.test"}}}
	named.Spec.Hostname, named.Spec.Subdomain = "first", "db"
	full.Spec.Hostname, full.Spec.Subdomain, full.Spec.SetHostnameAsFQDN = "first", "db", new(true)
	over.Spec.HostnameOverride = new("own.example.test")
	host.Spec.HostNetwork = true
	log := e.finish(plain)
	for _, line := range []string{"plain", "# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "192.0.2.7\tseven\tseven.test"} {
		if !strings.Contains("\n"+log, "\n"+line+"\n") {
			e.Errorf("no %q in\n%s", line, log)
		}
	}
	fqdn := "first.db." + e.ns + ".svc.cluster.local"
	e.printsLines(named, "first")
	e.printsLines(full, fqdn)
	e.printsLines(over, "own.example.test")
	if log := e.finish(host); strings.Contains(log, "Kubernetes-managed hosts file") {
		e.Errorf("the host's own file is managed:\n%s", log)
	}
	got, err := e.kube.CoreV1().Pods(e.ns).Get(e.ctx, "named", metav1.GetOptions{})
	e.must(err)
	if log := e.log("named", "main"); !strings.Contains(log, got.Status.PodIP+"\t"+fqdn+"\tfirst\n") {
		e.Errorf("the pod's address has not its name:\n%s", log)
	}
}

func namespacesAreShared(e *env) {
	shared := onePod("shared", shell("main", "for i in 1 2 3 4 5 6 7 8 9; do grep -ls 'sleep.4242' /proc/[0-9]*/cmdline && exit; sleep 1; done; echo none"), shell("other", "sleep 4242"))
	shared.Spec.ShareProcessNamespace = new(true)
	apart := onePod("apart", shell("main", "cat /proc/1/cmdline | tr '\\0' ' '; readlink /proc/self/ns/ipc"))
	host := onePod("host", shell("main", "cat /proc/1/comm; readlink /proc/self/ns/ipc"))
	host.Spec.HostPID, host.Spec.HostIPC = true, true
	e.create(shared)
	own, hosts := e.finish(apart), e.finish(host)
	if !strings.HasPrefix(own, "sh -c") {
		e.Errorf("the first process of a container of its own is %q", own)
	}
	if strings.HasPrefix(hosts, "sh\n") || strings.HasSuffix(own, hosts[strings.Index(hosts, "ipc:"):]) {
		e.Errorf("on the host it sees %q, else %q", hosts, own)
	}
	e.until("shared", func(p *corev1.Pod) error {
		for _, st := range p.Status.ContainerStatuses {
			if st.Name == "main" && st.State.Terminated != nil {
				return nil
			}
		}
		return errUnready(p)
	})
	if log := e.log("shared", "main"); !strings.Contains(log, "/proc/") {
		e.Errorf("the other container's process is not seen: %q", log)
	}
}
