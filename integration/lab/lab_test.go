// Package lab tests `coracle lab` as a user would: labs on a machine of the test's own, which is a network namespace without a way out.
package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestLab brings a lab up and looks at its machines from the outside and the inside.
func TestLab(t *testing.T) {
	t.Parallel()
	l := cluster.NewLab(t, 2)
	status := l.MustLab("status")
	for _, want := range []string{"server    10.213.0.2    on      Ready", "node-1    10.213.0.11   on      Ready", "node-2    10.213.0.12   on      Ready"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	l.Kubectl("create", "deployment", "web", "--image=coracle/demo:v1", "--replicas=4")
	l.Kubectl("rollout", "status", "deployment", "web", "--timeout=60s")
	cluster.Eventually(t, 60*time.Second, func() error {
		nodes := l.Kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {end}`)
		for _, node := range l.Nodes {
			if !strings.Contains(nodes, node) {
				return cluster.Want("the pods' nodes", nodes, "all")
			}
		}
		return nil
	})
}
