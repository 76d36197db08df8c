package agent

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// target is the ID of the container whose processes an ephemeral container is to see; empty is none. What ephemeral
// containers ask for is checked here too: the pod was taken before they were added to it.
func (w *worker) target(pod *v1.Pod, c *v1.Container) (string, error) {
	name, found := "", false
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == c.Name {
			name, found = e.TargetContainerName, true
		}
	}
	if !found {
		return "", nil
	}
	if r := podspec.UnsupportedContainer(c, w.a.cfg.Support); r != nil {
		return "", errors.New(r.Message)
	}
	if name == "" {
		return "", nil
	}
	for _, rc := range w.a.cfg.Sandboxes.Pod(w.ref.UID).Containers {
		if rc.Name == name && rc.State == runtime.StateRunning {
			return rc.ID, nil
		}
	}
	return "", fmt.Errorf("unable to find target container %s", name)
}
