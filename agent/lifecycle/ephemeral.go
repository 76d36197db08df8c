package lifecycle

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Ephemeral is a debugging container as a container like any other: the fields it has are the same.
func Ephemeral(e *v1.EphemeralContainer) *v1.Container {
	return (*v1.Container)(&e.EphemeralContainerCommon)
}

func (d *decision) isEphemeral(name string) bool {
	return slices.ContainsFunc(d.Pod.Spec.EphemeralContainers, func(e v1.EphemeralContainer) bool { return e.Name == name })
}

// ephemeralContainers starts each of them once, beside whatever else the pod does: they wait for no other container, and
// none waits for them. One that has ended, or was lost, is not started again.
func (d *decision) ephemeralContainers() {
	for i := range d.Pod.Spec.EphemeralContainers {
		c := Ephemeral(&d.Pod.Spec.EphemeralContainers[i])
		start := Action{Kind: StartContainer, Container: c.Name}
		if n := d.newest(c.Name); n != nil {
			if n.State != Created {
				continue
			}
			start.ID, start.Attempt = n.ID, n.Attempt
		} else if st := find(d.Last.EphemeralContainerStatuses, c.Name); st != nil && st.ContainerID != "" {
			continue
		}
		d.startWhenReady(c, start)
		d.blocked = false
	}
}

// ephemeralStatuses: nobody asks whether they are ready or have started.
func (d *decision) ephemeralStatuses() []v1.ContainerStatus {
	if d.rejectedUnstarted() {
		return nil
	}
	var out []v1.ContainerStatus
	for i := range d.Pod.Spec.EphemeralContainers {
		c := Ephemeral(&d.Pod.Spec.EphemeralContainers[i])
		st := d.containerStatus(c, find(d.Last.EphemeralContainerStatuses, c.Name))
		st.Ready, st.Started = false, nil
		out = append(out, st)
	}
	return out
}
