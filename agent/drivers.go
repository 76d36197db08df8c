package agent

import (
	"context"

	v1 "k8s.io/api/core/v1"
)

// runDrivers lets volume drivers register. Without them pods run on, so a failure is not the agent's.
func (a *Agent) runDrivers(ctx context.Context) {
	if err := a.drivers.Run(ctx); err != nil {
		a.cfg.Log.Error("no volume driver can register", "error", err)
	}
}

func (a *Agent) volumesInUse() []v1.UniqueVolumeName {
	list, err := a.drivers.InUse()
	if err != nil {
		a.cfg.Log.Error("volumes in use are not all known", "error", err)
	}
	return list
}
