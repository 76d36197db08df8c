// Package images keeps the node's container images in containerd: it pulls them from registries, imports and
// exports archives, unpacks them once, and answers what an image is. A name in the store is always complete
// (docker.io/library/nginx:1.29); an image's ID is the digest of its configuration.
//
// Its invariant: an image that Get returns is unpacked for this node's platform, so that a container's root
// file system is one snapshot away.
package images

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	ctrdimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// The label that keeps an image from being collected; it is the one that crictl and kubelet show as pinned.
const (
	pinnedLabel = "io.cri-containerd.pinned"
	pinnedValue = "pinned"
)

// ErrNotFound is returned (wrapped) for an image that the node does not have.
var ErrNotFound = errdefs.ErrNotFound

// Config of a Store.
type Config struct {
	Client *client.Client
	// Snapshotter unpacks and mounts images; empty chooses overlayfs, or native where overlayfs does not work.
	Snapshotter string
	// CertsDir, if set, holds HOST/hosts.toml files as containerd reads them (mirrors, CAs).
	CertsDir string
	// TempDir is where an image is mounted to look into it, so that a crash leaves the mount at a known place; empty
	// is /tmp.
	TempDir string
	Log     *slog.Logger
}

// Store is the node's images. It is safe for concurrent use.
type Store struct {
	client      *client.Client
	snapshotter string
	certsDir    string
	tempDir     string
	platform    platforms.MatchComparer
	log         *slog.Logger

	mu    sync.Mutex
	known map[digest.Digest]*resolved // by target (manifest or index) digest; content never changes
	users map[digest.Digest]Users     // by chain ID
	pulls map[string]*keyLock
}

// resolved is what is derived from an image's content once.
type resolved struct {
	id      digest.Digest // of the configuration
	chainID digest.Digest // the snapshot of the topmost layer
	config  ocispec.Image
	size    int64
}

// New opens the store over a containerd connection.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Store{
		client: cfg.Client, snapshotter: cfg.Snapshotter, certsDir: cfg.CertsDir, tempDir: cfg.TempDir, platform: platforms.Default(),
		log:   cfg.Log.With("component", "images"),
		known: map[digest.Digest]*resolved{}, users: map[digest.Digest]Users{}, pulls: map[string]*keyLock{},
	}
	if cfg.TempDir != "" {
		if err := os.MkdirAll(cfg.TempDir, 0o700); err != nil {
			return nil, err
		}
	}
	if s.snapshotter == "" {
		var err error
		if s.snapshotter, err = s.chooseSnapshotter(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Snapshotter is the name of the snapshotter that holds the images' file systems.
func (s *Store) Snapshotter() string { return s.snapshotter }

// Root is the folder in which containerd keeps the images' file systems.
func (s *Store) Root(ctx context.Context) (string, error) {
	resp, err := s.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+s.snapshotter)
	if err != nil {
		return "", err
	}
	for _, p := range resp.Plugins {
		if root := p.Exports["root"]; root != "" {
			return root, nil
		}
	}
	return "", fmt.Errorf("snapshotter %s does not tell its root", s.snapshotter)
}

// chooseSnapshotter mounts an empty snapshot to see whether overlayfs works here: it does not on top of some
// file systems, such as another overlay.
func (s *Store) chooseSnapshotter(ctx context.Context) (string, error) {
	// Another process may be looking at the same moment.
	key := fmt.Sprintf("coracle-probe-%d", os.Getpid())
	overlay := s.client.SnapshotService("overlayfs")
	err := tryMount(ctx, overlay, key)
	if err == nil {
		return "overlayfs", nil
	}
	native := s.client.SnapshotService("native")
	if nerr := tryMount(ctx, native, key); nerr != nil {
		return "", fmt.Errorf("no snapshotter works: overlayfs: %w; native: %w", err, nerr)
	}
	s.log.Info("overlayfs does not work here; images are copied", "reason", err)
	return "native", nil
}

func tryMount(ctx context.Context, sn snapshots.Snapshotter, key string) error {
	remove := func() { _ = sn.Remove(ctx, key+"-top"); _ = sn.Remove(ctx, key) }
	remove()
	defer remove()
	if _, err := sn.Prepare(ctx, key+"-base", ""); err != nil {
		return err
	}
	if err := sn.Commit(ctx, key, key+"-base"); err != nil {
		return errors.Join(err, sn.Remove(ctx, key+"-base"))
	}
	mounts, err := sn.Prepare(ctx, key+"-top", key)
	if err != nil {
		return err
	}
	return mount.WithTempMount(ctx, mounts, func(string) error { return nil })
}

// Normalize completes an image name as docker does: nginx is docker.io/library/nginx:latest.
func Normalize(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", name, err)
	}
	return ref.String(), nil
}

// isID says whether a string is an image ID and not a name.
func isID(s string) bool { return strings.HasPrefix(s, "sha256:") && len(s) == len("sha256:")+64 }

// Get finds an image by name or ID; the error is ErrNotFound where the node lacks it.
func (s *Store) Get(ctx context.Context, ref string) (runtime.Image, error) {
	if isID(ref) {
		all, err := s.List(ctx)
		if err != nil {
			return runtime.Image{}, err
		}
		for _, img := range all {
			if img.ID == ref {
				return img, nil
			}
		}
		return runtime.Image{}, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	img, err := s.byName(ctx, ref)
	if err != nil {
		return runtime.Image{}, err
	}
	r, err := s.resolve(ctx, img)
	if err != nil {
		return runtime.Image{}, err
	}
	out := describe(r)
	addName(&out, img)
	return out, nil
}

// byName finds the record of a name; one with both tag and digest is found by its digest.
func (s *Store) byName(ctx context.Context, name string) (ctrdimages.Image, error) {
	full, err := Normalize(name)
	if err != nil {
		return ctrdimages.Image{}, err
	}
	img, err := s.client.ImageService().Get(ctx, full)
	if err != nil {
		return ctrdimages.Image{}, fmt.Errorf("image %q: %w", full, err)
	}
	return img, nil
}

// List returns every image once, with all its names, ordered by first name.
func (s *Store) List(ctx context.Context) ([]runtime.Image, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[digest.Digest]*runtime.Image{}
	for _, rec := range records {
		r, err := s.resolve(ctx, rec)
		if err != nil {
			s.log.Debug("image without usable content", "name", rec.Name, "error", err)
			continue
		}
		img := byID[r.id]
		if img == nil {
			d := describe(r)
			img = &d
			byID[r.id] = img
		}
		addName(img, rec)
	}
	out := make([]runtime.Image, 0, len(byID))
	for _, img := range byID {
		slices.Sort(img.Names)
		slices.Sort(img.Digests)
		img.Digests = slices.Compact(img.Digests)
		out = append(out, *img)
	}
	slices.SortFunc(out, func(a, b runtime.Image) int {
		return cmp.Or(cmp.Compare(first(a.Names), first(b.Names)), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

func describe(r *resolved) runtime.Image {
	img := runtime.Image{ID: r.id.String(), Size: r.size, User: r.config.Config.User}
	user, _, _ := strings.Cut(img.User, ":")
	if user == "" {
		user = "0"
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		img.UID = &uid
	}
	return img
}

func addName(img *runtime.Image, rec ctrdimages.Image) {
	switch with := pulledWith(rec); {
	case len(img.Names)+len(img.Digests) == 0:
		img.PulledWith = with
	case with == nil || img.PulledWith == nil: // one of its names is free
		img.PulledWith = nil
	default:
		img.PulledWith = append(slices.Clone(img.PulledWith), with...)
	}
	if img.CreatedAt.IsZero() || rec.CreatedAt.Before(img.CreatedAt) {
		img.CreatedAt = rec.CreatedAt
	}
	img.Pinned = img.Pinned || rec.Labels[pinnedLabel] == pinnedValue
	named, err := reference.ParseNormalizedNamed(rec.Name)
	if err != nil {
		return
	}
	if _, ok := named.(reference.Digested); !ok {
		img.Names = append(img.Names, rec.Name)
	}
	img.Digests = append(img.Digests, reference.TrimNamed(named).Name()+"@"+rec.Target.Digest.String())
}

// resolve reads manifest and configuration once for each content digest.
func (s *Store) resolve(ctx context.Context, rec ctrdimages.Image) (*resolved, error) {
	s.mu.Lock()
	r := s.known[rec.Target.Digest]
	s.mu.Unlock()
	if r != nil {
		return r, nil
	}
	cs := s.client.ContentStore()
	manifest, err := ctrdimages.Manifest(ctx, cs, rec.Target, s.platform)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", rec.Name, err)
	}
	blob, err := content.ReadBlob(ctx, cs, manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("image %q: read configuration: %w", rec.Name, err)
	}
	r = &resolved{id: manifest.Config.Digest, size: manifest.Config.Size}
	if err := json.Unmarshal(blob, &r.config); err != nil {
		return nil, fmt.Errorf("image %q: read configuration: %w", rec.Name, err)
	}
	for _, layer := range manifest.Layers {
		r.size += layer.Size
	}
	r.chainID = identity.ChainID(r.config.RootFS.DiffIDs)
	if _, err := s.client.SnapshotService(s.snapshotter).Stat(ctx, r.chainID.String()); err != nil {
		if !errdefs.IsNotFound(err) {
			return nil, err
		}
		img := client.NewImageWithPlatform(s.client, rec, s.platform)
		if err := img.Unpack(ctx, s.snapshotter); err != nil {
			return nil, fmt.Errorf("failed to unpack image %q: %w", rec.Name, err)
		}
	}
	s.mu.Lock()
	s.known[rec.Target.Digest] = r
	s.mu.Unlock()
	return r, nil
}

// Rootfs is what a container needs of its image.
func (s *Store) Rootfs(ctx context.Context, ref string) (runtime.Rootfs, error) {
	r, names, err := s.find(ctx, ref)
	if err != nil {
		return runtime.Rootfs{}, err
	}
	users, err := s.usersOf(ctx, r.chainID)
	if err != nil {
		return runtime.Rootfs{}, err
	}
	return runtime.Rootfs{
		ImageID: r.id.String(), Names: names, Snapshotter: s.snapshotter, Parent: r.chainID.String(), Config: r.config.Config,
		Passwd: users.Passwd, Group: users.Group,
	}, nil
}

// find looks in the cache first: a container's image is most often named by ID.
func (s *Store) find(ctx context.Context, ref string) (*resolved, []string, error) {
	if isID(ref) {
		s.mu.Lock()
		for _, r := range s.known {
			if r.id.String() == ref {
				s.mu.Unlock()
				return r, nil, nil
			}
		}
		s.mu.Unlock()
		if _, err := s.List(ctx); err != nil {
			return nil, nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.known {
			if r.id.String() == ref {
				return r, nil, nil
			}
		}
		return nil, nil, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	rec, err := s.byName(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.resolve(ctx, rec)
	return r, []string{rec.Name}, err
}

// InUse has the IDs of the images of which containers exist, running or not.
func (s *Store) InUse(ctx context.Context) (map[string]bool, error) {
	list, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, c := range list {
		if isID(c.Image) {
			out[c.Image] = true
		} else if img, err := s.Get(ctx, c.Image); err == nil {
			out[img.ID] = true
		}
	}
	return out, nil
}

// Remove drops a name, or with an ID all names of the image; content that nothing refers to any more is
// collected before it returns. Running containers keep what they use.
func (s *Store) Remove(ctx context.Context, ref string) error {
	var names []string
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return err
	}
	if isID(ref) {
		for _, rec := range records {
			if r, err := s.resolve(ctx, rec); err == nil && r.id.String() == ref {
				names = append(names, rec.Name)
			}
		}
	} else {
		full, err := Normalize(ref)
		if err != nil {
			return err
		}
		names = namesOf(records, full)
	}
	if len(names) == 0 {
		return fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	for i, name := range names {
		var opts []ctrdimages.DeleteOpt
		if i == len(names)-1 {
			opts = append(opts, ctrdimages.SynchronousDelete())
		}
		if err := s.client.ImageService().Delete(ctx, name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	s.forget()
	return nil
}

// namesOf is the record of a name and, where it was the last tag of its content in the repository, the
// record by digest that came with it.
func namesOf(records []ctrdimages.Image, full string) []string {
	i := slices.IndexFunc(records, func(r ctrdimages.Image) bool { return r.Name == full })
	if i < 0 {
		return nil
	}
	repo := func(name string) string {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return name
		}
		return reference.TrimNamed(named).Name()
	}
	names := []string{full}
	for _, r := range records {
		if r.Name == full || r.Target.Digest != records[i].Target.Digest || repo(r.Name) != repo(full) {
			continue
		}
		if !strings.Contains(r.Name, "@") {
			return []string{full}
		}
		names = append(names, r.Name)
	}
	return names
}

// forget empties the cache after a removal, as snapshots may be gone.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.known)
	clear(s.users)
}

// Pin keeps an image from being collected, or gives it free.
func (s *Store) Pin(ctx context.Context, ref string, pinned bool) error {
	rec, err := s.byName(ctx, ref)
	if err != nil {
		return err
	}
	if rec.Labels == nil {
		rec.Labels = map[string]string{}
	}
	rec.Labels[pinnedLabel] = ""
	if pinned {
		rec.Labels[pinnedLabel] = pinnedValue
	}
	_, err = s.client.ImageService().Update(ctx, rec, "labels."+pinnedLabel)
	return err
}
