package agent

import (
	"context"
	"errors"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/agent/imagegc"
)

// newCollector makes what removes unused images.
func (a *Agent) newCollector() *imagegc.Collector {
	policy := imagegc.Policy{High: 100, MinAge: imagegc.DefaultPolicy.MinAge}
	if a.cfg.ImageGC != nil {
		policy = *a.cfg.ImageGC
	}
	return imagegc.New(imagegc.Config{Policy: policy, Images: a.cfg.Images, InUse: a.imagesInUse, Disk: a.imageDisk, Log: a.cfg.Log,
		Warn: func(reason, message string) { a.nodeEvent(v1.EventTypeWarning, reason, message) }})
}

// imageDisk is what the file system of the images has.
func (a *Agent) imageDisk(ctx context.Context) (available, capacity int64, err error) {
	o, err := a.cfg.Observe(ctx)
	disk, ok := o[eviction.ImageFsAvailable]
	if !ok {
		return 0, 0, errors.Join(errors.New("the file system of the images could not be measured"), err)
	}
	return disk.Available, disk.Capacity, nil
}

// imagesInUse are those of which a container exists or is about to, and those that are volumes, by ID.
func (a *Agent) imagesInUse(ctx context.Context) map[string]bool {
	a.mu.Lock()
	workers := slices.Collect(maps.Values(a.workers))
	a.mu.Unlock()
	out := map[string]bool{}
	for _, w := range workers {
		for _, c := range a.cfg.Sandboxes.Pod(w.ref.UID).Containers {
			out[c.ImageID] = true
		}
		w.mu.Lock()
		for _, img := range w.images {
			out[img.ID] = true
		}
		for _, id := range w.state.Images {
			out[id] = true
		}
		volumes := w.state.Pod.Spec.Volumes
		w.mu.Unlock()
		for i := range volumes {
			if v := volumes[i].Image; v != nil {
				if img, err := a.cfg.Images.Get(ctx, v.Reference); err == nil {
					out[img.ID] = true
				}
			}
		}
	}
	return out
}
