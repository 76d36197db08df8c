package runtime

import "context"

// Written is what a container has written to its root file system, in bytes on disk and files. It costs a walk through them.
func (r *Runtime) Written(ctx context.Context, id string) (bytes, inodes int64, err error) {
	rec, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	u, err := r.client.SnapshotService(rec.Snapshotter).Usage(ctx, rec.SnapshotKey)
	return u.Size, u.Inodes, err
}
