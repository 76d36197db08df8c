package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/paths"
)

const (
	// containerdNamespace is the agent's.
	containerdNamespace = "coracle"
	// overlayfs is the snapshotter whose layers can be shared: each is a folder that nobody writes to again. Where it does not work, each
	// node unpacks its own.
	overlayfs = "overlayfs"
)

// errUnshared tells that an image cannot be shared and has to be imported.
var errUnshared = errors.New("its layers are not of overlayfs")

// node is the image store of a node that is on.
type node struct {
	*client.Client
	name string
	root string // the node's root folder
}

// dial connects to a node's containerd, whose socket is reached through the root of the node's first process.
func (l *Lab) dial(name string) (*node, error) {
	pid, err := l.first(name)
	if err == nil && pid == 0 {
		err = l.off(name)
	}
	if err != nil {
		return nil, err
	}
	socket := paths.Layout{Run: paths.DefaultRun}.ContainerdSocket()
	conn, err := runtime.Dial(filepath.Join("/proc", strconv.Itoa(pid), "root", socket), containerdNamespace)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &node{Client: conn, name: name, root: l.NodeRoot(name)}, nil
}

// give makes an image of one node another's too: its content and its unpacked layers are linked, not copied. Each node's own collector
// removes but its link.
func (from *node) give(ctx context.Context, to *node, name string) error {
	image, err := from.ImageService().Get(ctx, name)
	if err != nil {
		return err
	}
	if _, err := to.ImageService().Get(ctx, name); err == nil {
		return nil
	}
	leased, done, err := to.WithLease(ctx) // keeps what is given until the image names it
	if err != nil {
		return err
	}
	defer done(context.WithoutCancel(leased))
	manifest, err := images.Manifest(ctx, from.ContentStore(), image.Target, platforms.Default())
	if err != nil {
		return err
	}
	blobs := append([]ocispec.Descriptor{image.Target}, manifest.Layers...)
	if image.Target.MediaType == ocispec.MediaTypeImageIndex || image.Target.MediaType == images.MediaTypeDockerSchema2ManifestList {
		chosen, err := from.manifestOf(ctx, image.Target, manifest.Config.Digest)
		if err != nil {
			return err
		}
		blobs = append(blobs, chosen)
	}
	for _, blob := range append(blobs, manifest.Config) {
		if err := from.giveBlob(ctx, leased, to, blob); err != nil {
			return fmt.Errorf("blob %s: %w", blob.Digest, err)
		}
	}
	if err := from.giveLayers(ctx, leased, to, manifest.Config); err != nil {
		return err
	}
	if _, err := to.ImageService().Create(leased, image); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// manifestOf finds in an index the manifest of a configuration.
func (from *node) manifestOf(ctx context.Context, index ocispec.Descriptor, config digest.Digest) (ocispec.Descriptor, error) {
	all, err := images.Children(ctx, from.ContentStore(), index)
	if err != nil {
		return index, err
	}
	for _, d := range all {
		if m, err := images.Manifest(ctx, from.ContentStore(), d, nil); err == nil && m.Config.Digest == config {
			return d, nil
		}
	}
	return index, fmt.Errorf("index %s: no manifest for this machine", index.Digest)
}

// blob is where a node's containerd keeps a blob.
func (n *node) blob(d digest.Digest) string {
	return filepath.Join(paths.Layout{Data: filepath.Join(n.root, paths.DefaultData)}.Containerd(), "io.containerd.content.v1.content", "blobs", d.Algorithm().String(), d.Encoded())
}

// giveBlob links the file, which the other store then finds and takes for its own.
func (from *node) giveBlob(ctx, leased context.Context, to *node, d ocispec.Descriptor) error {
	info, err := from.ContentStore().Info(ctx, d.Digest)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to.blob(d.Digest)), 0o755); err != nil { // a store that is still empty has no such folder
		return err
	}
	if err := os.Link(from.blob(d.Digest), to.blob(d.Digest)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	r, err := from.ContentStore().ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	// Nothing is read where the file is found.
	return content.WriteBlob(leased, to.ContentStore(), "lab-"+d.Digest.String(), io.NewSectionReader(r, 0, r.Size()), d, content.WithLabels(info.Labels))
}

// giveLayers links each layer's files into a snapshot of the other node.
func (from *node) giveLayers(ctx, leased context.Context, to *node, config ocispec.Descriptor) error {
	data, err := content.ReadBlob(ctx, from.ContentStore(), config)
	if err != nil {
		return err
	}
	var image ocispec.Image
	if err := json.Unmarshal(data, &image); err != nil {
		return err
	}
	parent := ""
	for i := range image.RootFS.DiffIDs {
		chain := identity.ChainID(image.RootFS.DiffIDs[:i+1]).String()
		if err := from.giveLayer(ctx, leased, to, chain, parent); err != nil {
			return fmt.Errorf("layer %s: %w", chain, err)
		}
		parent = chain
	}
	return nil
}

func (from *node) giveLayer(ctx, leased context.Context, to *node, chain, parent string) error {
	theirs := to.SnapshotService(overlayfs)
	if _, err := theirs.Stat(leased, chain); err == nil {
		return nil
	}
	info, err := from.SnapshotService(overlayfs).Stat(ctx, chain)
	if errdefs.IsNotFound(err) {
		return errUnshared
	}
	if err != nil {
		return err
	}
	files, err := from.layer(ctx, chain, to.name)
	if err != nil {
		return err
	}
	key := "lab-" + chain
	_ = theirs.Remove(leased, key) // of one who was interrupted
	mounts, err := theirs.Prepare(leased, key, parent)
	if err != nil {
		return err
	}
	upper := ""
	if len(mounts) == 1 {
		upper = upperDir(mounts[0])
	}
	if upper == "" {
		err = errUnshared
	} else {
		err = linkTree(files, filepath.Join(to.root, upper))
	}
	if err == nil {
		err = theirs.Commit(leased, chain, key, snapshots.WithLabels(info.Labels))
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return errors.Join(err, theirs.Remove(leased, key))
	}
	return nil
}

// layer is the folder of a node's layer, for the use of another node.
func (from *node) layer(ctx context.Context, chain, taker string) (string, error) {
	sn := from.SnapshotService(overlayfs)
	key := "lab-" + taker + "-" + chain
	_ = sn.Remove(ctx, key)
	mounts, err := sn.View(ctx, key, chain)
	if err != nil {
		return "", err
	}
	defer func() { _ = sn.Remove(context.WithoutCancel(ctx), key) }()
	if len(mounts) != 1 {
		return "", errUnshared
	}
	m := mounts[0]
	if m.Type == "bind" {
		return filepath.Join(from.root, m.Source), nil
	}
	for _, option := range m.Options {
		if lower, ok := strings.CutPrefix(option, "lowerdir="); ok {
			top, _, _ := strings.Cut(lower, ":")
			return filepath.Join(from.root, top), nil
		}
	}
	return "", errUnshared
}

// upperDir is the folder that a new snapshot's changes go to.
func upperDir(m mount.Mount) string {
	if m.Type == "bind" {
		return m.Source
	}
	for _, option := range m.Options {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return upper
		}
	}
	return ""
}

// linkTree makes a folder's twin: folders with the same attributes, all else as links to the same.
func linkTree(from, to string) error {
	var folders []string
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		twin := filepath.Join(to, rel)
		if !entry.IsDir() {
			return os.Link(path, twin)
		}
		if err := os.Mkdir(twin, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		folders = append(folders, rel)
		return copyAttributes(path, twin)
	})
	// Times last, from the innermost: what is linked into a folder changes its own.
	for i := len(folders) - 1; i >= 0 && err == nil; i-- {
		var st unix.Stat_t
		if err = unix.Lstat(filepath.Join(from, folders[i]), &st); err == nil {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(to, folders[i]), []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	return err
}

// copyAttributes gives a folder the owner, mode and extended attributes of another.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := errors.Join(os.Lchown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&0o7777)); err != nil {
		return err
	}
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(from, names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:size], 0)
		}
		if err != nil {
			return fmt.Errorf("attribute %s of %s: %w", name, from, err)
		}
	}
	return nil
}
