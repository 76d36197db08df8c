package bench

import (
	"os"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// settle is how long after its start a cluster counts as idle.
const settle = 20 * time.Second

// BenchmarkIdle measures a whole one-node cluster that has nothing to do: memory by process, and a minute's CPU time.
func BenchmarkIdle(b *testing.B) {
	c := begin(b)
	c.Up()
	time.Sleep(settle)
	goals := map[string]string{"all": "<= 200, in the end 150"}
	by := memories(b, c)
	for _, role := range []string{"server", "containerd", "supervise", "all"} {
		m := by[role]
		figure(b, role+" RSS", m.rss/mb, "MB", goals[role])
		figure(b, role+" PSS", m.pss/mb, "MB", "")
		figure(b, role+" anonymous", m.anon/mb, "MB", "")
	}
	idleCPU(b, c, time.Minute)
	if st, err := os.Stat(cluster.Binary(b)); err == nil {
		figure(b, "binary", float64(st.Size())/1e6, "MB", "")
	}
}

func idleCPU(b *testing.B, c *cluster.Cluster, during time.Duration) {
	before := cpu(b, c)
	time.Sleep(during)
	used := map[string]time.Duration{}
	for p, after := range cpu(b, c) {
		used[p.role] += after - before[p]
		used["all"] += after - before[p]
	}
	for _, role := range []string{"server", "containerd", "all"} {
		goal := ""
		if role == "all" {
			goal = "<= 1"
		}
		figure(b, role+" CPU", 100*used[role].Seconds()/during.Seconds(), "%_of_a_core", goal)
	}
}

// BenchmarkIdleControlPlane measures API server, scheduler, controllers and etcd without a node.
func BenchmarkIdleControlPlane(b *testing.B) {
	c := begin(b)
	startServer(b, c)
	time.Sleep(settle)
	m := memories(b, c)["all"]
	figure(b, "control plane RSS", m.rss/mb, "MB", "<= 100")
	figure(b, "control plane anonymous", m.anon/mb, "MB", "")
}

// startServer runs the control plane alone and waits until it is ready.
func startServer(b *testing.B, c *cluster.Cluster) {
	b.Helper()
	c.Start(append([]string{"server"}, c.ServerFlags()...)...)
	cluster.Eventually(b, 20*time.Second, func() error {
		config, err := c.REST()
		if err != nil {
			return err
		}
		return ready(config)
	})
}
