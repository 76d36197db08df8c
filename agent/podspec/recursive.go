package podspec

import (
	"fmt"
	"path"

	v1 "k8s.io/api/core/v1"
)

// RecursiveReadOnly tells by their paths which of a container's volumes are mounted read-only with all that is mounted below them.
func RecursiveReadOnly(c *v1.Container, node Support) (map[string]bool, error) {
	out := map[string]bool{}
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
			continue
		}
		why := ""
		switch {
		case !m.ReadOnly:
			why = "it is not read-only"
		case m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone:
			why = fmt.Sprintf("it is not compatible with propagation %q", *m.MountPropagation)
		case !node.RecursiveReadOnly && *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled:
			why = "it is not supported by the runtime"
		}
		if why != "" {
			return nil, fmt.Errorf("failed to resolve recursive read-only mode: volume %q requested recursive read-only mode, but %s", m.Name, why)
		}
		out[path.Clean("/"+m.MountPath)] = node.RecursiveReadOnly
	}
	return out, nil
}
