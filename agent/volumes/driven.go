package volumes

import (
	"context"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/csi"
)

// Drivers put volumes in place that this package knows nothing of.
type Drivers interface {
	Mount(ctx context.Context, pod *v1.Pod, v csi.Volume) (csi.Mounted, error)
	// Unmount takes away what is in place for the pod; it is idempotent.
	Unmount(ctx context.Context, uid types.UID) error
}

// driven are the volumes of CSI drivers. They lie where the drivers expect to put them; the folder in the pod's own place says that there are some.
type driven struct{ drivers Drivers }

func (d driven) setUp(ctx context.Context, r *request) (Volume, error) {
	if err := os.MkdirAll(r.dir, 0o750); err != nil {
		return Volume{}, err
	}
	var want csi.Volume
	if r.pv != nil {
		want = csi.OfPersistentVolume(r.pv, r.readOnly)
	} else {
		want = csi.OfPod(r.Pod.Pod, r.volume)
	}
	have, err := d.drivers.Mount(ctx, r.Pod.Pod, want)
	if err != nil {
		return Volume{}, err
	}
	v := Volume{Path: have.Path, Refresh: have.Refresh}
	if have.Own && !r.readOnly {
		return v, takeGroup(have.Path, r.Pod.Pod)
	}
	return v, nil
}

func (d driven) tearDown(ctx context.Context, uid types.UID, _ string) error {
	return d.drivers.Unmount(ctx, uid)
}
