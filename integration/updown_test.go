package integration

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestUpDown brings a cluster up, types the README's first app, takes it down, brings it up again, kills all of it, and takes it
// down for good. Neither time is anything left behind.
func TestUpDown(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	before := takeTraces(t, c)
	out := c.Up()
	for _, line := range []string{"API server ready", "node node Ready", "coracle/demo:v1", "What to type next"} {
		if !strings.Contains(out, line) {
			t.Errorf("up does not say %q:\n%s", line, out)
		}
	}
	if out := c.Up(); !strings.Contains(out, "up already") {
		t.Errorf("up of a cluster that is up says:\n%s", out)
	}
	k := &kube{t: t, c: c, kubeconfig: c.Kubeconfig, ns: "default"}
	firstApp(k)
	k.deployment("stays", 2)
	k.run("run", "alone", "--image=coracle/demo:v1")
	k.ready("pod/alone")
	k.run("create", "configmap", "kept", "--from-literal=a=b")
	uids := k.get("pods", "{.items[*].metadata.uid}")

	used := takeResources(t, c)
	down(t, c)
	used.gone(t)
	before.same(t, takeTraces(t, c))

	c.Up()
	k.want("config map after down and up", k.get("configmap/kept", "{.data.a}"), "b")
	k.rolledOut("stays")
	k.eventually("deployment/stays", "{.status.readyReplicas}", "2")
	k.ready("pod/alone")
	k.want("pods after down and up", k.get("pods", "{.items[*].metadata.uid}"), uids)
	k.contains("exec", k.run("exec", "alone", "--", "hostname"), "alone")

	used = takeResources(t, c)
	for _, pid := range used.processes() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	down(t, c, "--purge", "--kubeconfig-out", c.Kubeconfig)
	used.gone(t)
	before.same(t, takeTraces(t, c))
	for _, path := range []string{c.Layout.Data, c.Layout.Run, c.Kubeconfig} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left after --purge: %v", path, err)
		}
	}
	down(t, c) // of nothing is no error
}

func down(t *testing.T, c *cluster.Cluster, args ...string) {
	t.Helper()
	start := time.Now()
	if out, err := c.Coracle("down", args...); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	t.Logf("down took %v", time.Since(start).Round(time.Millisecond))
}

// firstApp types the README's first app as it stands.
func firstApp(k *kube) {
	k.t.Helper()
	lines := strings.Split(strings.TrimSpace(readmeBlock(k.t, "A first app")), "\n")
	if len(lines) != 5 {
		k.t.Errorf("the first app has %d lines", len(lines))
	}
	dir := checkout(k.t, k)
	for _, line := range lines {
		r, ok := k.shell(dir, line)
		if !ok {
			k.t.Fatalf("%s: exit code %d\n%s", line, r.code, r.all())
		}
		if strings.Contains(line, "wget") {
			k.contains(line, r.stdout, "Hello from demo v1 on web-")
		}
	}
	k.run("wait", "--for=delete", "pods", "-l", "app=web", "--timeout=60s")
}

// TestMakeUp types, on this machine's usual places but in a network namespace of its own, what the README begins with.
func TestMakeUp(t *testing.T) {
	usual := []string{"/var/lib/coracle", "/run/coracle", "/etc/coracle/admin.kubeconfig"}
	for _, path := range usual {
		if _, err := os.Lstat(path); err == nil {
			t.Skipf("skipped: this machine has a cluster of its own: %s", path)
		}
	}
	c := cluster.New(t)
	k := &kube{t: t, c: c}
	tools := filepath.Join(checkout(t, k), "tools")
	home := t.TempDir()
	types := func(script string) string {
		t.Helper()
		cmd := c.Command("sh", "-ec", strings.ReplaceAll(script, "~", home)) // HOME itself is where Go keeps what it built
		cmd.Dir = testenv.Repository()
		cmd.Env = append(environmentWithout("KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "PATH"), "PATH="+tools+":"+os.Getenv("PATH")+":"+filepath.Join(home, "bin"))
		r, ok := k.execute(cmd, "")
		if !ok {
			t.Fatalf("%s: exit code %d\n%s", script, r.code, r.all())
		}
		return r.all()
	}
	t.Cleanup(func() { types("bin/coracle down --purge") })
	before := takeTraces(t, c)
	start := strings.Split(strings.TrimSpace(readmeBlock(t, "Start")), "\n")
	if len(start) != 2 {
		t.Fatalf("the README's start has the lines %q", start)
	}
	k.contains(start[0], types(start[0]), "Your cluster is up")

	// Where the machine has no kubectl, ours under that name.
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(testenv.Repository(), "bin", "coracle"), filepath.Join(home, "bin", "kubectl")); err != nil {
		t.Fatal(err)
	}
	k.contains("your own kubectl", types(readmeBlock(t, "With your own kubectl")), " Ready ")
	k.contains("ours without a kubeconfig", types("sudo bin/coracle kubectl get nodes"), " Ready ")
	k.contains("status", types("sudo bin/coracle status"), "coracle up", "Ready")
	k.contains("images", types("sudo bin/coracle image list"), "docker.io/coracle/demo:v1", "docker.io/coracle/demo:v2")

	k.contains(start[1], types(start[1]), "Coracle is down.")
	types("make down PURGE=1")
	before.same(t, takeTraces(t, c))
	for _, path := range usual {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// readmeBlock is the first code of a section of the README.
func readmeBlock(t *testing.T, section string) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(testenv.Repository(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	blocks := codeBlocks(text, "sh")
	if len(blocks) == 0 {
		t.Fatalf("the README's section %q has no code", section)
	}
	return blocks[0]
}

func environmentWithout(names ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		keep := true
		for _, n := range names {
			keep = keep && n != name
		}
		if keep {
			env = append(env, v)
		}
	}
	return env
}

// TestRefusals: what cannot work is refused in one clear sentence, with exit code 1 or 2, and leaves nothing behind.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	before := takeTraces(t, c)
	binary := mustReal(t, cluster.Binary(t))
	taken, err := c.Listen("tcp", "127.0.0.1:7001")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Fatal(err)
	}
	for _, refused := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no kubeconfig", []string{"scheduler"}, 2, `name a kubeconfig with --kubeconfig`},
		{"status of nothing", []string{"status", "--kubeconfig=" + c.Kubeconfig}, 1, `the cluster is down`},
		{"unknown flag", []string{"up", "--colour=blue"}, 2, "coracle: unknown flag: --colour; see `coracle up --help`"},
		{"unknown command", []string{"sail"}, 2, "coracle: unknown command \"sail\" for \"coracle\"; see `coracle --help`"},
		{"surplus argument", []string{"up", "now"}, 2, "coracle: unknown command \"now\" for \"coracle up\"; see `coracle up --help`"},
		{"log level", []string{"up", "--log-level=loud"}, 2, `coracle: --log-level "loud": want debug, info, warn or error`},
		{"listen", []string{"up", "--listen=here"}, 2, `coracle: --listen "here": want ADDRESS:PORT, as 0.0.0.0:6443`},
		{"pod range", []string{"up", "--pod-cidr=10.244.0.0/30"}, 2, `coracle: --pod-cidr 10.244.0.0/30 is too small: want /24 or larger`},
		{"service range", []string{"up", "--service-cidr=everything"}, 2, `coracle: --service-cidr "everything": want an IPv4 range such as 10.96.0.0/16`},
		{"overlap", []string{"up", "--service-cidr=10.244.0.0/16"}, 2, `coracle: --pod-cidr 10.244.0.0/16 and --service-cidr 10.244.0.0/16 overlap`},
		{"dns", []string{"up", "--cluster-dns=8.8.8.8"}, 2, `coracle: --cluster-dns "8.8.8.8": want an address of --service-cidr 10.96.0.0/16`},
		{"node address", []string{"server", "--advertise-address=127.0.0.1"}, 2, `coracle: --advertise-address "127.0.0.1": want an IPv4 address of this machine other than loopback's`},
		{"node ports", []string{"server", "--service-node-port-range=1"}, 2, `coracle: --service-node-port-range "1": want FIRST-LAST, as 30000-32767`},
		{"node ports of up", []string{"up", "--service-node-port-range=9-1"}, 2, `coracle: --service-node-port-range "9-1": want FIRST-LAST, as 30000-32767`},
		{"load balancer pool", []string{"up", "--load-balancer-pools=fd00::/120"}, 2, `coracle: --load-balancer-pools: "fd00::/120": only IPv4 addresses can be announced`},
		{"load balancer pool of pods", []string{"up", "--load-balancer-pools=10.244.1.0/28"}, 2, `coracle: --load-balancer-pools: pool "default": 10.244.1.0-10.244.1.15 overlaps the cluster's own 10.244.0.0/16`},
		{"monitor grace", []string{"server", "--node-monitor-grace-period=10ms"}, 2, `coracle: --node-monitor-grace-period 10ms: want a second at least`},
		{"toleration seconds", []string{"server", "--default-unreachable-toleration-seconds=-1"}, 2, `coracle: --default-not-ready-toleration-seconds and --default-unreachable-toleration-seconds are not negative`},
		{"lease duration", []string{"up", "--node-lease-duration=1500ms"}, 2, `coracle: --node-lease-duration 1.5s: want whole seconds, one at least`},
		{"port taken", []string{"up", "--listen=127.0.0.1:7001"}, 2, `coracle: 127.0.0.1:7001 is taken by another program; choose another port with --listen`},
		{"config file", []string{"up", "--config=" + writeFile(t, "config", "colour: blue\n")}, 2, `there is no flag "colour"`},
		{"no config file", []string{"up", "--config=/nowhere"}, 2, `coracle: config file: open /nowhere: no such file or directory`},
	} {
		t.Run(refused.name, func(t *testing.T) {
			args := append([]string{}, refused.args...)
			if refused.args[0] != "sail" {
				args = append(args, c.Flags()...)
			}
			switch refused.args[0] {
			case "up", "server":
				args = append(args, "--kubeconfig-out", c.Kubeconfig)
			}
			if (refused.args[0] == "up" || refused.args[0] == "server") && !strings.Contains(strings.Join(args, " "), "--config=") {
				args = append(args, "--config=/dev/null")
			}
			refuse(t, c.Command(binary, args...), refused.code, refused.want)
		})
	}
	up := append(append([]string{"up", "--config=/dev/null"}, c.Flags()...), "--kubeconfig-out", c.Kubeconfig)
	t.Run("not root", func(t *testing.T) {
		program, err := os.Open(binary) // so that nobody need not reach its folder
		if err != nil {
			t.Fatal(err)
		}
		defer program.Close()
		cmd := exec.Command("/proc/self/fd/3", up...)
		cmd.ExtraFiles = []*os.File{program}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		refuse(t, cmd, 2, "coracle: coracle up needs root: it makes namespaces, cgroups and network links; try again with sudo")
	})
	t.Run("no runc", func(t *testing.T) {
		cmd := exec.Command(nsenter, append([]string{"--net=" + c.NetNS, "--", binary}, up...)...)
		cmd.Env = []string{"PATH=/nowhere"}
		refuse(t, cmd, 2, "coracle: runc is missing: install it, as with `apt-get install runc`")
	})
	t.Run("no cgroups", func(t *testing.T) {
		script := `umount -R /sys/fs/cgroup && exec "$@"`
		cmd := c.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", binary}, up...)...)
		refuse(t, cmd, 2, "below /sys/fs/cgroup")
	})
	if _, err := os.Lstat(c.Layout.Run); !os.IsNotExist(err) {
		down(t, c)
	}
	before.same(t, takeTraces(t, c))
}

// refuse runs a command that must fail with a code and one line that contains the text.
func refuse(t *testing.T, cmd *exec.Cmd, code int, want string) {
	t.Helper()
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		t.Fatalf("%v, want exit code %d\n%s%s", cmd.ProcessState, code, stdout.String(), stderr.String())
	}
	text := strings.TrimSpace(stderr.String())
	if !strings.Contains(text, want) || strings.Contains(text, "\n") {
		t.Errorf("standard error:\n%s\nwant one line with\n%s", text, want)
	}
}

// traces are what a cluster could leave behind in its network namespace and on the host, by name.
type traces map[string]string

func takeTraces(t *testing.T, c *cluster.Cluster) traces {
	t.Helper()
	run := func(cmd *exec.Cmd) string {
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return string(out)
	}
	tr := traces{}
	for what, command := range map[string]string{
		"links": "ip -o link | sed 's/^[0-9]*: //'", "addresses": "ip -o address | sed 's/^[0-9]*: //'", "routes": "ip route show table all", "rules": "ip rule",
		"tables": "nft list ruleset",
	} {
		tr[what] = run(c.Command("sh", "-c", command))
		tr[what+" of the host"] = run(exec.Command("sh", "-c", command))
	}
	maps.Copy(tr, sysctls(run(c.Command("sh", "-c", "grep -rs '' /proc/sys/net || true")), "in the namespace: "))
	maps.Copy(tr, sysctls(run(exec.Command("sh", "-c", "grep -rs '' /proc/sys/net /proc/sys/kernel /proc/sys/vm /proc/sys/fs || true")), ""))
	for _, place := range []string{"/run/containerd", "/run/runc", "/run/netns", "/var/lib/containerd", "/var/lib/cni", "/etc/cni", "/etc/containerd", "/var/log/pods", "/var/lib/kubelet", "/opt/cni",
		c.Layout.ShimSockets()} {
		_, err := os.Lstat(place)
		tr[place] = fmt.Sprint(err == nil)
	}
	return tr
}

// volatile are kernel parameters that change by themselves.
var volatile = []string{"/random/", "-nr:", "-state:", "ns_last_pid", "/pty/nr", "nf_conntrack_count", "inode-", "_stat", "/aio-nr", "/sched_", "perf_", "/stat", "dentry", "/keys/", "/quota/"}

func sysctls(text, prefix string) traces {
	tr := traces{}
	for line := range strings.Lines(text) {
		path, value, found := strings.Cut(line, ":")
		skip := !found
		for _, v := range volatile {
			skip = skip || strings.Contains(path+":", v)
		}
		if !skip {
			tr[prefix+path] += value
		}
	}
	return tr
}

// same compares. A kernel parameter that only one of them has came or went with a link or a module.
func (before traces) same(t *testing.T, after traces) {
	t.Helper()
	for what, was := range before {
		if is, found := after[what]; found && is != was {
			t.Errorf("%s changed from\n%s\nto\n%s", what, was, is)
		}
	}
}

// resources are the processes, mounts, cgroups and namespaces that a cluster has while it is up.
type resources struct {
	c       *cluster.Cluster
	pids    map[int]string // to when it started: ids are used again
	cgroups []string
	mounts  int
}

func takeResources(t *testing.T, c *cluster.Cluster) *resources {
	t.Helper()
	r := &resources{c: c, pids: map[int]string{}}
	cluster.Processes(func(pid int, dir string) {
		if c.Owns(dir) {
			r.pids[pid] = startTime(dir)
		}
	})
	roots := map[string]bool{}
	for pid := range r.pids {
		for _, group := range podCgroups(pid) {
			roots[group] = true
		}
	}
	for root := range roots {
		r.cgroups = append(r.cgroups, root)
	}
	r.mounts = len(c.Mounts())
	if len(r.pids) < 5 || len(r.cgroups) == 0 || r.mounts == 0 {
		t.Errorf("a cluster that runs pods has %d processes, %d cgroups, %d mounts", len(r.pids), len(r.cgroups), r.mounts)
	}
	return r
}

func (r *resources) processes() []int {
	var pids []int
	for pid := range r.pids {
		pids = append(pids, pid)
	}
	return pids
}

// gone checks that nothing of it is left, nor anything of its kind.
func (r *resources) gone(t *testing.T) {
	t.Helper()
	cluster.Processes(func(pid int, dir string) {
		started, was := r.pids[pid]
		if (!was || started != startTime(dir)) && !r.c.Owns(dir) {
			return
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		stat, _ := os.ReadFile(dir + "/stat")
		if strings.Contains(string(stat), ") Z 1 ") {
			return // ended; it is for process 1 to take note
		}
		t.Errorf("process %d is left: %q %s", pid, line, stat)
	})
	for _, group := range r.cgroups {
		if _, err := os.Lstat(group); !os.IsNotExist(err) {
			t.Errorf("cgroup %s is left", group)
		}
	}
	for _, mount := range r.c.Mounts() {
		t.Errorf("mount %s is left", mount)
	}
}

func startTime(dir string) string {
	stat, _ := os.ReadFile(dir + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ")
	if fields := strings.Fields(rest); len(fields) > 19 {
		return fields[19]
	}
	return ""
}

// podCgroups are the top folders of the cgroups that a process and its children are in, where those are pods'.
func podCgroups(pid int) []string {
	var found []string
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for _, file := range children {
		list, _ := os.ReadFile(file)
		for child := range strings.FieldsSeq(string(list)) {
			more, _ := os.ReadFile("/proc/" + child + "/cgroup")
			text = append(text, more...)
		}
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || !strings.Contains(parts[2], "kubepods") {
			continue
		}
		top, _, _ := strings.Cut(strings.TrimPrefix(parts[2], "/"), "/")
		controller, _, _ := strings.Cut(strings.TrimPrefix(parts[1], "name="), ",")
		found = append(found, filepath.Join("/sys/fs/cgroup", controller, top))
	}
	return found
}
