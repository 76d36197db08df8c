package main

import (
	"maps"
	"os/exec"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	nodestatus "github.com/coracle-dev/coracle/agent/node"
)

// reservations are what of the machine pods do not get, as the flags give it.
type reservations struct{ system, cluster map[string]string }

// list adds the two up.
func (r reservations) list() (corev1.ResourceList, error) {
	known := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, nodestatus.ResourcePids}
	out := corev1.ResourceList{}
	for flag, values := range map[string]map[string]string{"--system-reserved": r.system, "--kube-reserved": r.cluster} {
		for name, text := range values {
			if !slices.Contains(known, corev1.ResourceName(name)) {
				return nil, usage("%s: cannot reserve %q", flag, name)
			}
			q, err := resource.ParseQuantity(text)
			if err != nil || q.Sign() < 0 {
				return nil, usage("%s: %s=%s is no amount", flag, name, text)
			}
			sum := out[corev1.ResourceName(name)]
			sum.Add(q)
			out[corev1.ResourceName(name)] = sum
		}
	}
	return out, nil
}

// handlers are the OCI runtimes that RuntimeClasses can name: those of the flag, and a crun that is installed.
func (o *options) handlers() map[string]string {
	out := map[string]string{}
	if path, err := exec.LookPath("crun"); err == nil {
		out["crun"] = path
	}
	maps.Copy(out, o.runtimes)
	return out
}
