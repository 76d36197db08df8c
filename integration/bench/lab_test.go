package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// BenchmarkLab measures how fast a lab is there and gone, and what each of its nodes costs when it has nothing to do.
func BenchmarkLab(b *testing.B) {
	const nodes = 10
	l := cluster.LabOf(begin(b))
	timed := func(what, goal, command string, args ...string) {
		started := time.Now()
		l.MustLab(command, args...)
		figure(b, what, time.Since(started).Seconds(), "s", goal)
	}
	timed("lab of 10 nodes up", "<= 20", "up", "--nodes", "10")
	timed("node killed", "", "kill", "node-10")
	timed("node started again", "", "start", "node-10")
	timed("lab of 10 nodes down", "", "down")

	timed("lab of 1 node up", "", "up", "--nodes", "1")
	time.Sleep(settle)
	one := labMemory(b, l, "server", "node-1")
	figure(b, "lab of 1 node PSS", one.pss/mb, "MB", "")
	timed("9 nodes added", "", "add", "--nodes", "9")
	machines := []string{"server"}
	for n := range nodes {
		machines = append(machines, fmt.Sprintf("node-%d", n+1))
	}
	time.Sleep(settle)
	all := labMemory(b, l, machines...)
	figure(b, "idle node beyond the first PSS", (all.pss-one.pss)/mb/(nodes-1), "MB", "<= 60")
}

// labMemory is that of all processes of machines.
func labMemory(b *testing.B, l *cluster.Lab, machines ...string) (sum memory) {
	b.Helper()
	for _, machine := range machines {
		for _, pid := range l.ProcessesOn(machine) {
			if m, err := memoryOf(pid); err == nil { // else it ended meanwhile
				sum.add(m)
			}
		}
	}
	return sum
}
