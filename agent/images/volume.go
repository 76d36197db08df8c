package images

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// gcRoot keeps a snapshot that no container refers to from being collected, with all that it rests on.
const gcRoot = "containerd.io/gc.root"

// Mount mounts the root file system of an image, by its ID or name, read-only at dir. The view of it that is called key stays until
// Release, also where the image is removed meanwhile. A view that an interrupted call has made is used.
func (s *Store) Mount(ctx context.Context, image, key, dir string) error {
	r, _, err := s.find(ctx, image)
	if err != nil {
		return err
	}
	sn := s.client.SnapshotService(s.snapshotter)
	mounts, err := sn.View(ctx, key, r.chainID.String(), snapshots.WithLabels(map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339)}))
	if errdefs.IsAlreadyExists(err) {
		mounts, err = sn.Mounts(ctx, key)
	}
	if err != nil {
		return err
	}
	return mount.All(mounts, dir)
}

// Release removes the view called key, which must not be mounted any more. It is idempotent.
func (s *Store) Release(ctx context.Context, key string) error {
	if err := s.client.SnapshotService(s.snapshotter).Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
