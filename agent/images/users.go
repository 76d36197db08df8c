package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Users are the image's /etc/passwd and /etc/group, empty where it has none.
type Users struct{ Passwd, Group []byte }

// maxUserFile bounds what is read of an image's passwd and group files, in bytes.
const maxUserFile = 1 << 20

// usersOf reads the user files of an unpacked image once. The root file system is mounted read-only for that,
// and os.Root keeps the image's links from leading out of it.
func (s *Store) usersOf(ctx context.Context, chainID digest.Digest) (Users, error) {
	if u, ok := s.knownUsers(chainID); ok {
		return u, nil
	}
	defer s.lock(chainID.String())() // many pods start at once, and one look is enough
	u, ok := s.knownUsers(chainID)
	if ok {
		return u, nil
	}
	sn := s.client.SnapshotService(s.snapshotter)
	key := fmt.Sprintf("users-%s-%d", chainID.Encoded()[:16], os.Getpid())
	mounts, err := sn.View(ctx, key, chainID.String())
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return u, err
	}
	if errdefs.IsAlreadyExists(err) {
		if mounts, err = sn.Mounts(ctx, key); err != nil {
			return u, err
		}
	}
	defer sn.Remove(ctx, key)
	err = s.mounted(mounts, func(dir string) error {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		var perr, gerr error
		u.Passwd, perr = readFile(root, "etc/passwd")
		u.Group, gerr = readFile(root, "etc/group")
		return errors.Join(perr, gerr)
	})
	if err != nil {
		return u, fmt.Errorf("read the image's users: %w", err)
	}
	s.mu.Lock()
	s.users[chainID] = u
	s.mu.Unlock()
	return u, nil
}

func (s *Store) knownUsers(chainID digest.Digest) (Users, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[chainID]
	return u, ok
}

func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, nil // no such file, or a link that leads out
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxUserFile))
}

// mounted shows fn a view of an image, below TempDir.
func (s *Store) mounted(mounts []mount.Mount, fn func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(s.tempDir, "image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(dir, 0)) }()
	return fn(dir)
}
