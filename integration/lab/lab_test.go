// Package lab tests `coracle lab` as a user would: labs on a machine of the test's own, which is a network namespace without a way out.
package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestLab brings a lab up and does to it what can be done.
func TestLab(t *testing.T) {
	t.Parallel()
	l := &lab{cluster.NewLab(t, 2), t}
	t.Run("status", l.status)
	t.Run("exec", l.exec)
	t.Run("pods", l.pods)
	t.Run("images", l.images)
	t.Run("partition", l.partition)
	t.Run("loss", l.loss)
	t.Run("kill", l.kill)
	t.Run("server", l.server)
	t.Run("refusals", l.refusals)
}

type lab struct {
	*cluster.Lab
	t *testing.T
}

// contains reports what a text lacks.
func contains(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
}

// machine is the line of the status about a machine, with single blanks.
func (l *lab) machine(t *testing.T, name string) string {
	t.Helper()
	out, _ := l.Lab.Lab("status") // fails where a machine is not well
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == name {
			return strings.Join(fields, " ")
		}
	}
	t.Fatalf("status without %s:\n%s", name, out)
	return ""
}

func (l *lab) status(t *testing.T) {
	contains(t, "server", l.machine(t, "server"), "10.213.0.2 on Ready ")
	for i, node := range l.Nodes {
		line := l.machine(t, node)
		if ok, _ := regexp.MatchString(fmt.Sprintf(`10\.213\.0\.%d on Ready \d+ MB -$`, 11+i), line); !ok {
			t.Errorf("status: %s", line)
		}
	}
	contains(t, "list", l.MustLab("list"), "10.213.0.0/24   2       3 of 3   "+l.Kubeconfig)
	if got := strings.TrimSpace(l.MustLab("kubeconfig")); got != l.Kubeconfig {
		t.Errorf("kubeconfig: %s", got)
	}
	if st, err := os.Stat(l.Kubeconfig); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v %v", st.Mode(), err)
	}
}

func (l *lab) exec(t *testing.T) {
	out, err := l.Exec("node-2", "sh", "-c", "hostname; cat /etc/hostname; ip -4 -o address show eth0; cat /proc/self/cgroup; ls /sys/class/net; echo; touch /usr/x; echo $$ >/tmp/x")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, "node-2", out, "node-2\nnode-2\n", "inet 10.213.0.12/24", ":/system\n", "eth0\nlo\n", "Read-only file system")
	if out, err := l.Exec("node-1", "cat", "/tmp/x"); err == nil {
		t.Errorf("node-1 has node-2's file: %s", out)
	}
	out, err = l.Exec("node-1", "sh", "-c", "exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || out != "" {
		t.Errorf("exit code: %v, %s", err, out)
	}
	if out, err := l.Exec("node-1", "sh", "-c", "kill -9 $$"); !errors.As(err, &exit) || exit.ExitCode() != 137 {
		t.Errorf("killed: %v, %s", err, out)
	}
	if out, err := l.Exec("node-1", "no-such-program"); err == nil || !strings.Contains(out, `there is no program "no-such-program"`) {
		t.Errorf("no program: %v, %s", err, out)
	}
	contains(t, "kubectl on the server", l.on(t, "server", "kubectl", "get", "nodes"), "node-1", "node-2")
	contains(t, "names", l.on(t, "node-1", "getent", "hosts", "node-2"), "10.213.0.12")
	cmd := l.LabCommand("exec", "node-1", "--", "cat")
	cmd.Stdin = strings.NewReader("through and through")
	if out, err := cmd.Output(); err != nil || string(out) != "through and through" {
		t.Errorf("standard input: %v %s", err, out)
	}
	if a, b := l.on(t, "node-1", "cat", "/etc/machine-id"), l.on(t, "node-2", "cat", "/etc/machine-id"); a == b {
		t.Errorf("two machines have the id %s", a)
	}
}

// on runs a command that must not fail.
func (l *lab) on(t *testing.T, machine string, argv ...string) string {
	t.Helper()
	out, err := l.Exec(machine, argv...)
	if err != nil {
		t.Fatalf("%s: %v: %v\n%s", machine, argv, err, out)
	}
	return out
}

func (l *lab) pods(t *testing.T) {
	c := l.For(t)
	c.Kubectl("create", "deployment", "web", "--image=coracle/demo:v1", "--replicas=4")
	c.Kubectl("rollout", "status", "deployment", "web", "--timeout=60s")
	nodes := c.Kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {end}`)
	contains(t, "the pods' nodes", nodes, l.Nodes...)
	c.Kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080", "--type=NodePort")
	port := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
	client := l.HTTP(5*time.Second, false)
	cluster.Eventually(t, 60*time.Second, func() error {
		resp, err := client.Get("http://10.213.0.11:" + port + "/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// blobs are the large files of a node's image store, by their name.
func (l *lab) blobs(t *testing.T, node string) map[string]uint64 {
	t.Helper()
	found := map[string]uint64{}
	dir := filepath.Join(l.NodeDir(node), "var", "lib", "coracle", "agent", "containerd")
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil && entry.Type().IsRegular() && st.Size > 500_000 {
			found[entry.Name()] = st.Ino
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// images checks that nodes share what they have, that one can remove its own, and that a node that comes later gets it too.
func (l *lab) images(t *testing.T) {
	l.For(t).ImportBusybox()
	one, two := l.blobs(t, "node-1"), l.blobs(t, "node-2")
	if len(one) < 4 || one["busybox"] == 0 || one["demo"] == 0 {
		t.Errorf("node-1 has %v", one)
	}
	for name, inode := range one {
		if two[name] != inode {
			t.Errorf("%s is two files: %d and %d", name, inode, two[name])
		}
	}
	l.on(t, "node-1", "coracle", "image", "remove", cluster.Busybox)
	contains(t, "node-2's images", l.on(t, "node-2", "coracle", "image", "list"), cluster.Busybox)
	contains(t, "add", l.MustLab("add"), "node-3 Ready")
	l.Nodes = append(l.Nodes, "node-3")
	contains(t, "node-3's images", l.on(t, "node-3", "coracle", "image", "list"), cluster.Busybox, "coracle/demo:v1", "coracle/demo:v2")
	c := l.For(t)
	c.Kubectl("run", "sh", "--image=busybox:1", `--overrides={"spec":{"nodeName":"node-3"}}`, "--", "sh", "-c", "cp /bin/busybox /bin/mine && sleep 1000")
	c.Kubectl("wait", "--for=condition=Ready", "pod", "sh", "--timeout=60s")
	c.Kubectl("exec", "sh", "--", "cmp", "/bin/busybox", "/bin/mine")
	c.Kubectl("delete", "pod", "sh", "--grace-period=0", "--force")
}

// reaches tells whether a machine reaches an address.
func (l *lab) reaches(from, to string) bool {
	_, err := l.Exec(from, "busybox", "ping", "-q", "-c", "1", "-W", "1", to)
	return err == nil
}

// hostReaches tells whether the machine below does.
func (l *lab) hostReaches(to string) bool {
	return l.Command("busybox", "ping", "-q", "-c", "1", "-W", "1", to).Run() == nil
}

func (l *lab) partition(t *testing.T) {
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: reached %v, want %v", what, got, want)
		}
	}
	l.MustLab("partition", "node-2", "node-1")
	check("between two that are cut off", l.reaches("node-1", "node-2"), false)
	check("to a third", l.reaches("node-1", "server"), true)
	contains(t, "status", l.machine(t, "node-1"), "cut off from node-2")
	l.MustLab("partition", "node-3")
	check("from all", l.reaches("node-3", "server"), false)
	check("from the host", l.hostReaches("10.213.0.13"), false)
	contains(t, "status", l.machine(t, "node-3"), "cut off")
	l.MustLab("heal", "node-1", "node-2")
	check("healed", l.reaches("node-1", "node-2"), true)
	check("the other is not", l.reaches("node-3", "node-2"), false)
	l.MustLab("heal")
	check("all healed", l.reaches("node-3", "node-2"), true)
	check("from the host", l.hostReaches("10.213.0.13"), true)
	cluster.Eventually(t, 60*time.Second, func() error { return cluster.Want("status", lastField(l.machine(t, "node-3")), "-") })
}

func lastField(line string) string {
	fields := strings.Fields(line)
	return fields[len(fields)-1]
}

func (l *lab) loss(t *testing.T) {
	l.MustLab("loss", "node-2", "50%")
	contains(t, "status", l.machine(t, "node-2"), "loses 50%")
	l.MustLab("loss", "node-2", "30%") // in place of that
	out, _ := l.Exec("node-1", "busybox", "ping", "-q", "-c", "300", "-i", "0.01", "-W", "1", "10.213.0.12")
	got := regexp.MustCompile(`(\d+) packets received`).FindStringSubmatch(out)
	if len(got) != 2 {
		t.Fatalf("ping: %s", out)
	}
	// 30% each way: half come back.
	if n, _ := strconv.Atoi(got[1]); n < 80 || n > 220 {
		t.Errorf("of 300 came back %d", n)
	}
	l.MustLab("loss", "node-2", "0%")
	if line := l.machine(t, "node-2"); lastField(line) != "-" {
		t.Errorf("status: %s", line)
	}
	if out, err := l.Exec("node-1", "busybox", "ping", "-q", "-c", "20", "-i", "0.01", "-W", "1", "10.213.0.12"); err != nil || !strings.Contains(out, "20 packets received") {
		t.Errorf("ping: %v %s", err, out)
	}
}

// kill cuts a node's power and boots it again: what was in memory is gone, what was on its disk is there.
func (l *lab) kill(t *testing.T) {
	c := l.For(t)
	pod := c.Kubectl("get", "pods", "-l", "app=web", "--field-selector", "spec.nodeName=node-1", "-o", "jsonpath={.items[0].metadata.name}")
	if pod == "" {
		t.Fatal("no pod on node-1")
	}
	before := l.on(t, "node-1", "sh", "-c", "cat /proc/sys/kernel/random/boot_id; echo kept >/var/kept; echo lost >/run/lost")
	if pids := l.ProcessesOn("node-1"); len(pids) < 4 {
		t.Errorf("node-1 has only the processes %v", pids)
	}
	sleeps := l.LabCommand("exec", "node-1", "--", "sleep", "1000")
	if err := sleeps.Start(); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, 30*time.Second, func() error {
		return cluster.Want("sleep", l.on(t, "node-1", "sh", "-c", "pgrep -x sleep >/dev/null && echo runs || true"), "runs")
	})
	l.MustLab("kill", "node-1")
	var exit *exec.ExitError
	if err := sleeps.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 137 {
		t.Errorf("what ran on it: %v", err)
	}
	if pids := l.ProcessesOn("node-1"); len(pids) > 0 {
		t.Errorf("the processes %v of node-1 survive", pids)
	}
	contains(t, "status", l.machine(t, "node-1"), "off")
	if l.hostReaches("10.213.0.11") {
		t.Error("a machine without power answers")
	}
	if out, err := l.Exec("node-1", "true"); err == nil || !strings.Contains(out, "it is off; start it with `coracle lab start node-1`") {
		t.Errorf("exec: %v %s", err, out)
	}
	if out, err := l.Lab.Lab("kill", "node-1"); err == nil || !strings.Contains(out, "node-1: it is off already") {
		t.Errorf("killed twice: %v %s", err, out)
	}
	contains(t, "start", l.MustLab("start", "node-1"), "node-1 Ready")
	after := l.on(t, "node-1", "sh", "-c", "cat /proc/sys/kernel/random/boot_id /var/kept; ls /run/lost || true")
	if strings.HasPrefix(after, strings.TrimSpace(before)) || !strings.Contains(after, "kept") || !strings.Contains(after, "No such file") {
		t.Errorf("before the boot %s, after it %s", before, after)
	}
	cluster.Eventually(t, 60*time.Second, func() error {
		out := c.Kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}")
		return cluster.Want("the pod's state", out, "true 1")
	})
	if out, err := l.Lab.Lab("start", "node-1"); err == nil || !strings.Contains(out, "node-1: it is on already") {
		t.Errorf("started twice: %v %s", err, out)
	}
}

// server cuts the power of everything, and boots it with one command.
func (l *lab) server(t *testing.T) {
	c := l.For(t)
	l.MustLab("kill", "server", "node-2")
	if out, err := l.Lab.Lab("start", "node-2"); err == nil || !strings.Contains(out, "the control plane is off: start it too, with `coracle lab start server`") {
		t.Errorf("a node without the control plane: %v %s", err, out)
	}
	if out, err := l.Lab.Lab("add"); err == nil || !strings.Contains(out, "the control plane is off") {
		t.Errorf("add: %v %s", err, out)
	}
	// A reboot of the host takes the rest.
	l.MustLab("kill", "node-1", "node-3")
	for _, argv := range [][]string{{"ip", "link", "delete", "corlab-lab"}, {"nft", "flush", "ruleset"}, {"rm", "-r", filepath.Join(l.Dir, "labs-run")}} {
		if out, err := l.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", argv, err, out)
		}
	}
	contains(t, "start", l.MustLab("start"), "control plane ready", "node-1 Ready", "node-2 Ready", "node-3 Ready")
	cluster.Eventually(t, 60*time.Second, func() error {
		out, err := l.Lab.Lab("status")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	c.Kubectl("get", "deployment", "web")
}

func (l *lab) refusals(t *testing.T) {
	for _, c := range []struct{ command, want string }{
		{"up", "there is a lab lab already: see `coracle lab status`, remove it with `coracle lab down`, or give this one another --name"},
		{"kill node-9", `the lab lab has no machine "node-9": it has [server node-1 node-2 node-3]`},
		{"exec node-9 true", `has no machine "node-9"`},
		{"partition node-1 node-1", "node-1 cannot be cut off from itself"},
		{"loss node-1 10", `"10": want a share of packets from 0% to 100%, as 10%`},
		{"status --name other", "there is no such lab: other; make it with `coracle lab up --name other`, or see `coracle lab list`"},
		{"up --name UP", `the lab's name "UP"`},
		{"up --name other --nodes 0", "--nodes 0: a lab has 1 to 180 nodes"},
		{"up --name other --subnet 10.213.0.0/24", "overlaps 10.213.0.0/24, which this machine uses already"},
		{"up --name other --agent-flag=--node-ip=1.2.3.4", "the lab gives --node-ip itself"},
		{"up --name other --server-flag=listen", "want a whole flag"},
		{"image import /no/such/file", "no such file"},
	} {
		fields := strings.Fields(c.command)
		n := 1
		if fields[0] == "image" {
			n = 2
		}
		if out, err := l.Lab.Lab(strings.Join(fields[:n], " "), fields[n:]...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v %s\nwant %s", c.command, err, out, c.want)
		}
	}
	if names, err := os.ReadDir(filepath.Join(l.Dir, "labs")); err != nil || len(names) != 1 {
		t.Errorf("what was refused has left %v %v", names, err)
	}
	bin := filepath.Join(t.TempDir(), "coracle")
	if err := os.Link(l.Binary(), bin); err != nil { // where the user can read it
		data, rerr := os.ReadFile(l.Binary())
		if rerr != nil || os.WriteFile(bin, data, 0o755) != nil {
			t.Fatal(err, rerr)
		}
	}
	for dir := filepath.Dir(bin); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := l.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", bin, "lab", "up")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "needs root") {
		t.Errorf("as nobody: %v %s", err, out)
	}
}

// names of links, tables, cgroups and mounts that a lab could leave.
func (l *lab) traces(t *testing.T) []string {
	t.Helper()
	var found []string
	links, err := l.Command("ip", "-o", "link").CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, links)
	}
	for line := range strings.Lines(string(links)) {
		found = append(found, "link "+strings.Fields(line)[1])
	}
	tables, err := l.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, tables)
	}
	for line := range strings.Lines(string(tables)) {
		if strings.HasPrefix(line, "table") {
			found = append(found, line)
		}
	}
	for _, mount := range l.Mounts() {
		found = append(found, "mount "+mount)
	}
	cluster.Processes(func(pid int, dir string) {
		line, _ := os.ReadFile(dir + "/environ")
		if l.Owns(dir) || strings.Contains(string(line), l.Dir) {
			name, _ := os.ReadFile(dir + "/comm")
			found = append(found, "process "+strings.TrimSpace(string(name)))
		}
	})
	files, _ := filepath.Glob(filepath.Join(l.Dir, "*"))
	for _, f := range files {
		found = append(found, "file "+filepath.Base(f))
	}
	forward, _ := l.Command("cat", "/proc/sys/net/ipv4/ip_forward").CombinedOutput()
	found = append(found, "forward "+string(forward))
	slices.Sort(found)
	return found
}

// cgroups of this test's labs.
func (l *lab) cgroups() []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/coracle-lab-*" + fnvOf(filepath.Join(l.Dir, "labs-run")))
	more, _ := filepath.Glob("/sys/fs/cgroup/coracle-lab-*" + fnvOf(filepath.Join(l.Dir, "labs-run")))
	return append(found, more...)
}
