package volumes

import (
	"context"
	"errors"
	"os"

	"k8s.io/apimachinery/pkg/types"
)

// imageVolumes are the file systems of images, read-only.
type imageVolumes struct{ images Images }

func imageKey(uid types.UID, name string) string { return "volume-" + string(uid) + "-" + name }

func (k imageVolumes) setUp(ctx context.Context, r *request) (Volume, error) {
	v := Volume{Path: r.dir, ReadOnly: true, Options: []string{"noexec"}}
	if mountPoint(r.dir) {
		return v, nil
	}
	image := r.Images[r.volume.Name]
	if image == "" {
		return v, errors.New("its image has not been pulled")
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return v, err
	}
	return v, k.images.Mount(ctx, image, imageKey(r.UID, r.volume.Name), r.dir)
}

func (k imageVolumes) tearDown(ctx context.Context, uid types.UID, name string) error {
	return k.images.Release(ctx, imageKey(uid, name))
}
