package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func testPlan(name string) Plan {
	return Plan{Root: Root{Data: DefaultData, Run: DefaultRun}, Name: name, Subnet: netip.MustParsePrefix("10.213.7.0/24")}
}

func TestPlan(t *testing.T) {
	p := testPlan("lab")
	for _, c := range []struct{ what, got, want string }{
		{"bridge", p.Bridge(), "corlab-lab"},
		{"table", p.Table(), "coracle-lab-lab"},
		{"cgroup", p.NodeCgroup("node-1"), "coracle-lab-lab/node-1"},
		{"host", p.Host().String(), "10.213.7.1"},
		{"server", p.Address(Server).String(), "10.213.7.2"},
		{"first node", p.Address("node-1").String(), "10.213.7.11"},
		{"last node", p.Address(NodeName(MaxNodes)).String(), "10.213.7.190"},
		{"root", p.NodeRoot("node-1"), "/var/lib/coracle/labs/lab/nodes/node-1/root"},
		{"log", p.NodeLog("node-1"), "/var/lib/coracle/labs/lab/nodes/node-1/root/var/lib/coracle/log/coracle.log"},
		{"hosts", p.hostsFile([]string{Server, "node-1"}), "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n10.213.7.1 host.lab\n10.213.7.2 server\n10.213.7.11 node-1\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
	elsewhere := p
	elsewhere.Root.Run = "/tmp/run"
	if elsewhere.Cgroup() == p.Cgroup() {
		t.Error("labs of one name at two places share a cgroup")
	}
}

func TestLinkNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range []string{"a", "lab", "class-of-2026-group-1", "class-of-2026-group-2", strings.Repeat("x", 32)} {
		p := testPlan(name)
		links := []string{p.Bridge(), p.Port(Server)}
		for n := range MaxNodes {
			links = append(links, p.Port(NodeName(n+1)))
		}
		for _, link := range links {
			if len(link) > 15 {
				t.Errorf("%s is longer than a link's name can be", link)
			}
			if seen[link] {
				t.Errorf("two links are called %s", link)
			}
			seen[link] = true
		}
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{"lab": true, "a": true, "my-lab-2": true, "": false, "-a": false, "a-": false, "A": false, "a/b": false, "..": false, strings.Repeat("a", 33): false} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]int{"node-1": 1, "node-180": 180, "node-181": 0, "node-0": 0, "node-01": 0, "node-x": 0, "server": 0, "node-+1": 0} {
		if n, ok := NodeNumber(name); n != want || ok != (want > 0) {
			t.Errorf("%s: %d %v", name, n, ok)
		}
	}
	names := []string{"node-10", "node-2", "server", "node-1"}
	slices.SortFunc(names, CompareNodes)
	if got := strings.Join(names, " "); got != "server node-1 node-2 node-10" {
		t.Errorf("order: %s", got)
	}
	next, err := nextNodes([]string{"server", "node-1", "node-3"}, 3)
	if got := strings.Join(next, " "); err != nil || got != "node-2 node-4 node-5" {
		t.Errorf("next: %s %v", got, err)
	}
	if _, err := nextNodes(nil, MaxNodes+1); err == nil {
		t.Error("more nodes than there are addresses")
	}
}

func TestSubnets(t *testing.T) {
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	for _, c := range []struct {
		taken []netip.Prefix
		want  string
	}{
		{nil, "10.213.0.0/24"},
		{prefixes("10.213.0.0/24", "10.213.1.64/26", "192.168.1.0/24"), "10.213.2.0/24"},
		{prefixes("10.213.0.0/17"), "10.213.128.0/24"},
		{prefixes("10.0.0.0/8"), ""},
	} {
		got, err := freeSubnet(c.taken)
		if c.want == "" && err == nil || c.want != "" && got.String() != c.want {
			t.Errorf("%v: %v %v, want %q", c.taken, got, err, c.want)
		}
	}
	for text, good := range map[string]bool{
		"10.1.2.0/24": true, "192.168.7.0/24": true, "10.1.2.0/23": false, "10.1.2.1/24": false, "8.8.8.0/24": false, "fd00::/24": false, "10.213.0.0/24": false,
	} {
		if err := checkSubnet(netip.MustParsePrefix(text), prefixes("10.213.0.0/16")); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	const stub = "# stub\nnameserver 127.0.0.53\noptions edns0\nsearch home\n"
	const real = "nameserver 192.168.1.1\nsearch home\n"
	for _, c := range []struct {
		what  string
		out   bool
		files []string
		want  string
	}{
		{"usual", true, []string{real, ""}, real},
		{"systemd-resolved", true, []string{stub, real}, real},
		{"mixed", true, []string{"nameserver 127.0.0.1\nnameserver 9.9.9.9\n", ""}, "nameserver 9.9.9.9\n"},
		{"none that can be reached", true, []string{stub, ""}, "# The machine below has no name server that can be reached from here.\n"},
		{"no way out", false, []string{real, ""}, "# This machine has no way out.\n"},
	} {
		if got := resolvConf(c.out, c.files...); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestPercent(t *testing.T) {
	for text, want := range map[string]int{"10%": 1000, "0%": 0, "100%": 10000, "0.5%": 50, "12.34%": 1234, "10": -1, "101%": -1, "-1%": -1, "%": -1, "NaN%": -1, "": -1} {
		got, err := parsePercent(text)
		if want < 0 && err == nil || want >= 0 && (got != want || err != nil) {
			t.Errorf("%q: %d %v, want %d", text, got, err, want)
		}
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		fault fault
		text  string
		node  string
		words string
		rules int
	}{
		{fault{kind: partition, a: "node-1"}, "partition node-1", "node-1", "cut off", 4},
		{fault{kind: partition, a: "server", b: "node-2"}, "partition server node-2", "node-2", "cut off from server", 2},
		{fault{kind: partition, a: "server", b: "node-2"}, "partition server node-2", "server", "cut off from node-2", 2},
		{fault{kind: partition, a: "server", b: "node-2"}, "partition server node-2", "node-1", "", 2},
		{fault{kind: loss, a: "node-3", share: 1050}, "loss node-3 1050", "node-3", "loses 10.5%", 4},
	} {
		if got := c.fault.String(); got != c.text {
			t.Errorf("%+v: %q, want %q", c.fault, got, c.text)
		}
		if got, ok := parseFault(c.text); !ok || got != c.fault {
			t.Errorf("%q: %+v %v", c.text, got, ok)
		}
		if got := c.fault.words(c.node); got != c.words {
			t.Errorf("%q for %s: %q, want %q", c.text, c.node, got, c.words)
		}
		if got := len(testPlan("lab").matches(c.fault)); got != c.rules {
			t.Errorf("%q: %d rules, want %d", c.text, got, c.rules)
		}
	}
	for _, text := range []string{"", "partition", "loss node-1", "loss node-1 x", "other node-1"} {
		if f, ok := parseFault(text); ok {
			t.Errorf("%q: %+v", text, f)
		}
	}
}

func TestFlags(t *testing.T) {
	for flag, good := range map[string]bool{"--log-level=debug": true, "--etcd-cafile=/x": true, "log-level": false, "--data-dir=/x": false, "--node-ip=1.2.3.4": false, "--token": false} {
		if err := checkFlags("--agent-flag", []string{flag}, "token"); (err == nil) != good {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

// TestLinkTree makes the twin of a folder: the same files, with folders of their own that look alike.
func TestLinkTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, step := range []error{
		os.MkdirAll(filepath.Join(from, "a", "b"), 0o755), os.Chmod(filepath.Join(from, "a"), 0o751|os.ModeSetgid),
		os.WriteFile(filepath.Join(from, "a", "b", "file"), []byte("x"), 0o600), os.Symlink("nowhere", filepath.Join(from, "a", "link")),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := linkTree(from, to); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a/b/file", "a/link", "a", "a/b"} {
		x, err := os.Lstat(filepath.Join(from, path))
		y, yerr := os.Lstat(filepath.Join(to, path))
		if err != nil || yerr != nil {
			t.Fatal(err, yerr)
		}
		if os.SameFile(x, y) == x.IsDir() || x.Mode() != y.Mode() || !x.ModTime().Equal(y.ModTime()) {
			t.Errorf("%s: %v %v, %v %v", path, x.Mode(), x.ModTime(), y.Mode(), y.ModTime())
		}
	}
}

func TestAvailableMemory(t *testing.T) {
	if got, ok := availableMemory("MemTotal:       24684100 kB\nMemFree:          100 kB\nMemAvailable:   2048 kB\n"); !ok || got != 2<<20 {
		t.Errorf("%d %v", got, ok)
	}
	if _, ok := availableMemory("MemTotal: 1 kB\n"); ok {
		t.Error("read what is not there")
	}
	if err := checkMemory(1 << 50); err == nil || !strings.Contains(err.Error(), "not enough memory") {
		t.Errorf("a petabyte: %v", err)
	}
	if err := checkWatches(1 << 40); err == nil || !strings.Contains(err.Error(), "fs.inotify.max_user_instances=") {
		t.Errorf("a trillion instances: %v", err)
	}
}
