package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// Update changes the limits of a running container in place; those that are zero stay as they are. The labels are added to the
// container's once the limits hold.
func (r *Runtime) Update(ctx context.Context, id string, res Resources, labels map[string]string) error {
	c, err := r.get(ctx, id)
	if err != nil {
		return err
	}
	limits := resources(specInput{cfg: ContainerConfig{Resources: res}, v2: unified()})
	limits.Devices, limits.Unified = nil, nil
	a, err := typeurl.MarshalAny(limits)
	if err != nil {
		return err
	}
	_, err = r.tasks.Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: typeurl.MarshalProto(a)})
	if err = errgrpc.ToNative(err); err != nil {
		return fmt.Errorf("failed to update container %q: %w", id, err)
	}
	r.mu.Lock()
	m := c.meta
	r.mu.Unlock()
	m.Labels = maps.Clone(m.Labels)
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	maps.Copy(m.Labels, labels)
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := r.client.ContainerService().Update(ctx, containers.Container{
		ID: id, Extensions: map[string]typeurl.Any{extMeta: jsonAny(extMeta, data)},
	}, "extensions."+extMeta); err != nil {
		return fmt.Errorf("failed to record the update of container %q: %w", id, err)
	}
	r.mu.Lock()
	c.meta.Labels = m.Labels // a new map: who holds the old one may go on reading it
	r.mu.Unlock()
	return nil
}
