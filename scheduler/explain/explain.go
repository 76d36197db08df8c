// Package explain puts into upstream's words why a pod fits nowhere.
package explain

import (
	"fmt"
	"sort"
	"strings"
)

// NoNodes is the message where the cluster has no node at all.
const NoNodes = "no nodes available to schedule pods"

// Message tells of nodes nodes how many each reason keeps out: "0/3 nodes are available: 1 Insufficient
// cpu, 2 node(s) were unschedulable."
func Message(nodes int, counts map[string]int) string {
	if nodes == 0 {
		return NoNodes
	}
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}

// Whole tells of a pod that was kept off all nodes before any was looked at.
func Whole(nodes int, reasons []string) string {
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(reasons, ", "))
}
