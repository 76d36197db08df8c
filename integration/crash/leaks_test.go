package crash

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// counters are what changes in a listing of rules without any change of the rules.
var counters = regexp.MustCompile(`packets \d+ bytes \d+| expires \S+`)

// traces are what pods could leave behind, by kind.
func (c *crash) traces() (map[string][]string, error) {
	tr := map[string][]string{}
	for what, command := range map[string]string{
		"links": "ip -o link | sed 's/^[0-9]*: //; s/@[^:]*//; s/ .*alias/ alias/' | cut -c1-80", "routes": "ip route", "rules": "nft list ruleset",
	} {
		out, err := c.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", command, err, out)
		}
		tr[what] = strings.Split(counters.ReplaceAllString(string(out), ""), "\n")
	}
	tr["mounts"] = c.Mounts()
	tr["processes"] = c.processes()
	tr["cgroups"] = folders("/sys/fs/cgroup", func(path string) bool {
		return c.cgroup != "" && strings.Contains(path, c.cgroup+"/") && isPod.MatchString(path)
	})
	tr["network namespaces"] = c.namespaces()
	l := c.Layout
	for what, dir := range map[string]string{
		"sandboxes": l.Sandboxes(), "pod folders": l.Pods(), "pod logs": l.PodLogs(), "shim sockets": l.ShimSockets(),
		"runc states": filepath.Join(l.Run, "runc", "coracle"), "shim bundles": filepath.Join(l.ContainerdState(), "io.containerd.runtime.v2.task", "coracle"),
		"shim work folders": filepath.Join(l.Containerd(), "io.containerd.runtime.v2.task", "coracle"), "temporary files": filepath.Join(l.Run, "tmp"),
	} {
		tr[what] = names(dir)
	}
	return tr, c.containerdTraces(tr)
}

var isPod = regexp.MustCompile(`/pod[0-9a-f-]{36}`)

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func folders(root string, ok func(path string) bool) []string {
	var list []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && ok(path) {
			list = append(list, path)
		}
		return nil
	})
	return list
}

// processes are the cluster's, and those of its containers, without the two that the test started.
func (c *crash) processes() []string {
	var list []string
	cluster.Processes(func(pid int, dir string) {
		stat, _ := os.ReadFile(dir + "/stat")
		if pid == c.parts.server.cmd.Process.Pid || pid == c.parts.agent.cmd.Process.Pid || len(stat) == 0 {
			return
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		if groups, _ := os.ReadFile(dir + "/cgroup"); c.Owns(dir) || c.cgroup != "" && strings.Contains(string(groups), c.cgroup+"/") {
			list = append(list, strings.ReplaceAll(string(line), "\x00", " ")+" "+string(stat[slices.Index(stat, ')')+2]))
		}
	})
	return list
}

// namespaces lists the network namespaces that some mount of the cluster's keeps.
func (c *crash) namespaces() []string {
	out, _ := exec.Command("lsns", "-t", "net", "-n", "-o", "NSFS").Output()
	var list []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, c.Layout.Run) {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// containerdTraces adds what containerd has of containers: all but the layers of images.
func (c *crash) containerdTraces(tr map[string][]string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := containerd.New(c.Layout.ContainerdSocket(), containerd.WithDefaultNamespace("coracle"))
	if err != nil {
		return err
	}
	defer client.Close()
	containers, err := client.ContainerService().List(ctx)
	if err != nil {
		return err
	}
	for _, found := range containers {
		tr["containers"] = append(tr["containers"], found.ID)
	}
	running, err := client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return err
	}
	for _, task := range running.Tasks {
		tr["tasks"] = append(tr["tasks"], task.ID)
	}
	leases, err := client.LeasesService().List(ctx)
	if err != nil {
		return err
	}
	for _, lease := range leases {
		tr["leases"] = append(tr["leases"], lease.ID)
	}
	return client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			tr["snapshots"] = append(tr["snapshots"], info.Name)
		}
		return nil
	})
}

// left waits until nothing is there that was not there before, and names what stays.
func (c *crash) left(before map[string][]string, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		after, err := c.traces()
		var left []string
		for what, list := range after {
			have := slices.Clone(before[what])
			for _, one := range list {
				if i := slices.Index(have, one); i >= 0 {
					have = slices.Delete(have, i, i+1)
				} else {
					left = append(left, what+": "+one)
				}
			}
			for _, one := range have {
				left = append(left, what+", which are no more: "+one)
			}
		}
		if err == nil && len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			slices.Sort(left)
			return fmt.Errorf("left behind (%v):\n%s", err, strings.Join(left, "\n"))
		}
		time.Sleep(500 * time.Millisecond)
	}
}
