package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// figure prints one result, and gives it to the benchmark's own report.
func figure(b *testing.B, what string, value float64, unit, goal string) {
	if goal != "" {
		goal = "(goal " + goal + ")"
	}
	fmt.Printf("    %-52s %10.2f %-12s %s\n", what, value, unit, goal)
	b.ReportMetric(value, strings.ReplaceAll(what, " ", "-")+"-"+unit)
}

// begin makes a benchmark's cluster; the time a benchmark takes altogether says nothing.
func begin(b *testing.B) *cluster.Cluster {
	b.Helper()
	c := cluster.New(b)
	fmt.Printf("\n%s\n", b.Name())
	b.ReportMetric(0, "ns/op")
	return c
}

// process is one of a cluster's, by what it is: server, agent, containerd, supervise, simulator or shim.
type process struct {
	pid  int
	role string
}

// processes are all of the cluster's own: what its command lines name, containers' programs excepted.
func processes(b *testing.B, c *cluster.Cluster) []process {
	b.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.Fatal(err)
	}
	var found []process
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !bytes.Contains(line, []byte(c.Dir)) {
			continue
		}
		args := strings.Split(string(line), "\x00")
		role := filepath.Base(args[0])
		switch {
		case strings.HasPrefix(role, "containerd-shim"):
			role = "shim"
		case role == "coracle" && len(args) > 1 && args[1] == "containerd":
			role = "containerd"
		case role == "coracle" && len(args) > 1 && args[1] == "simulate":
			role = "simulator"
		case role == "coracle" && len(args) > 1 && args[1] == "agent":
			role = "agent"
		case role == "coracle":
			role = "server"
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		found = append(found, process{pid, role})
	}
	return found
}

// memory is what the kernel accounts to a process, in KiB.
type memory struct{ rss, pss, anon, private float64 }

func (m *memory) add(o memory) {
	m.rss, m.pss, m.anon, m.private = m.rss+o.rss, m.pss+o.pss, m.anon+o.anon, m.private+o.private
}

func memoryOf(pid int) (m memory, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, err
	}
	fields := map[string]*float64{"Rss:": &m.rss, "Pss:": &m.pss, "Anonymous:": &m.anon, "Private_Dirty:": &m.private}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 3 && fields[f[0]] != nil {
			*fields[f[0]], _ = strconv.ParseFloat(f[1], 64)
		}
	}
	return m, nil
}

// memories are the cluster's by role, and the sum under "all".
func memories(b *testing.B, c *cluster.Cluster) map[string]memory {
	b.Helper()
	by := map[string]memory{}
	for _, p := range processes(b, c) {
		m, err := memoryOf(p.pid)
		if err != nil {
			continue // it ended meanwhile
		}
		for _, role := range []string{p.role, "all"} {
			sum := by[role]
			sum.add(m)
			by[role] = sum
		}
	}
	return by
}

const mb = 1000.0 * 1000 / 1024 // KiB in an MB

// cpu is the time each of the cluster's processes has run, with the children it has waited for.
func cpu(b *testing.B, c *cluster.Cluster) map[process]time.Duration {
	b.Helper()
	used := map[process]time.Duration{}
	for _, p := range processes(b, c) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		var ticks time.Duration
		for _, field := range f[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(field, 10, 64)
			ticks += time.Duration(n)
		}
		used[p] = ticks * 10 * time.Millisecond // USER_HZ is 100 on every Linux
	}
	return used
}
