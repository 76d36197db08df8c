package agent

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/volumes"
)

// mountVolumes brings the pod's volumes into place, or up to date.
func (w *worker) mountVolumes(ctx context.Context, pod *v1.Pod) (func(*lifecycle.State), error) {
	var ids map[string]string
	var mounted volumes.Mounted
	err := w.a.volumes.Unsupported(pod)
	if err == nil {
		ids, err = w.volumeImages(ctx, pod)
	}
	if err == nil {
		mounted, err = w.a.volumes.Setup(ctx, volumes.Pod{Pod: pod, Facts: w.facts(), Images: ids})
	}
	if err != nil {
		if ctx.Err() == nil {
			w.mountEvents(pod, err)
		}
		return nil, err
	}
	return func(s *lifecycle.State) { w.mounted, s.VolumesReady = mounted, true }, nil
}

// volumeImages makes sure that the images are here that are volumes of the pod, and gives their IDs by volume name. One that
// is in place already is not asked for again.
func (w *worker) volumeImages(ctx context.Context, pod *v1.Pod) (map[string]string, error) {
	ids := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image == nil || w.a.volumes.InPlace(pod.UID, v) {
			continue
		}
		img, err := w.image(ctx, pod, &v1.Container{Name: v.Name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy})
		if err != nil {
			return nil, err
		}
		ids[v.Name] = img.ID
	}
	return ids, nil
}

func (w *worker) mountEvents(pod *v1.Pod, err error) {
	var pull *reasonError
	if errors.As(err, &pull) {
		return // the pull has told of it
	}
	var list interface{ Unwrap() []error }
	all := []error{err}
	if errors.As(err, &list) {
		all = list.Unwrap()
	}
	for _, e := range all {
		w.a.event(pod, v1.EventTypeWarning, "FailedMount", e.Error())
	}
}

// keepVolumes keeps the data of the volumes that were provisioned here. Without it pods run on, so its failure is not the agent's.
func (a *Agent) keepVolumes(ctx context.Context) {
	if err := a.kept.Run(ctx); err != nil {
		a.cfg.Log.Error("local volumes are not kept", "error", err)
	}
}

// devices are the container's block volumes.
func (w *worker) devices(c *v1.Container) ([]runtime.Device, error) {
	w.mu.Lock()
	mounted := w.mounted
	w.mu.Unlock()
	list, err := w.a.volumes.ContainerDevices(c, mounted)
	var out []runtime.Device
	for _, d := range list {
		out = append(out, runtime.Device(d))
	}
	return out, err
}
