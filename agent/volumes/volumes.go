// Package volumes puts a pod's volumes in place below the node's folder of pods, keeps those that mirror API objects
// up to date, and removes them.
//
// Invariant: everything a pod's volumes need on this node lies below POD/volumes, POD/secrets and POD/subpaths; nothing
// is removed while something is still mounted below it; and files made from API objects change all at once, by one rename.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/podspec/fields"
	storage "github.com/coracle-dev/coracle/internal/volumes"
)

// Objects is what volumes read from the cluster.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*v1.PersistentVolume, error)
	// Token asks for a token of a service account.
	Token(ctx context.Context, namespace, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error)
}

// Images are mounted as volumes.
type Images interface {
	// Mount mounts the file system of an image, by its ID, read-only at dir. What it keeps for that is called key.
	Mount(ctx context.Context, image, key, dir string) error
	// Release gives back what Mount keeps under key, once it is mounted nowhere; it is idempotent.
	Release(ctx context.Context, key string) error
}

// Provisioned are the persistent volumes that this node has made itself.
type Provisioned interface {
	// Ensure makes the folder of such a volume unless it is there; others it leaves alone.
	Ensure(pv *v1.PersistentVolume) error
}

// Config of a Manager.
type Config struct {
	// Root is the folder of the pods' folders: layout.Pods().
	Root    string
	Objects Objects
	// Images may be nil: then there are no volumes of images. Provisioned may be nil, too.
	Images      Images
	Provisioned Provisioned
	// Drivers may be nil: then there are no volumes of CSI drivers.
	Drivers Drivers
	// Node tells the node as the API server has it, for the node affinity of volumes; nil is not known yet.
	Node func() *v1.Node
}

// Error is the failure of one volume.
type Error struct {
	// Operation is what failed, in the kubelet's words; empty is MountVolume.SetUp.
	Operation string
	// Volume is the pod's name of it or, for a persistent volume, that one's name.
	Volume string
	Err    error
}

func (e *Error) Error() string {
	op := e.Operation
	if op == "" {
		op = "MountVolume.SetUp failed"
	}
	return fmt.Sprintf("%s for volume %q : %v", op, e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Volume is where a volume lies on the host.
type Volume struct {
	// Path is the folder, or the file, that containers mount; of a block volume it is the device.
	Path string
	// Block: the volume is a device and no file system.
	Block bool
	// ReadOnly: nobody can write to it, whatever a container asks for.
	ReadOnly bool
	// Options are further options of containers' mounts of it, such as noexec.
	Options []string
	// Persistent is the name of the persistent volume and Claim that of its claim; empty where it is none.
	Persistent, Claim string
	// Refresh is when Setup has to be called again even if no object changes; zero is never.
	Refresh time.Time
}

// Mounted are a pod's volumes by name.
type Mounted struct {
	Volumes map[string]Volume
	// Refresh is the earliest of the volumes'.
	Refresh time.Time
}

// Pod is a pod whose volumes are to be set up.
type Pod struct {
	*v1.Pod
	Facts fields.Facts
	// Images has the IDs of the images that are volumes, by volume name: they have been pulled.
	Images map[string]string
}

// Manager sets volumes up. It is safe for concurrent use, one call a pod at a time.
type Manager struct {
	cfg   Config
	kinds map[string]kind
	now   func() time.Time

	mu     sync.Mutex
	tokens map[tokenKey]token
	// users are the pods that have a persistent volume in place, by its name.
	users map[string]map[types.UID]bool
}

// New makes a Manager.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, now: time.Now, tokens: map[tokenKey]token{}, users: map[string]map[types.UID]bool{}}
	m.kinds = kinds(m)
	return m
}

// PodDir is the folder of the pod's files.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.cfg.Root, string(uid)) }

// volumeDir is where the pod's volume of that name and kind lies.
func (m *Manager) volumeDir(uid types.UID, kind, name string) string {
	return filepath.Join(m.PodDir(uid), "volumes", kind, name)
}

// Setup brings every volume of the pod into place, or up to date where it is already. It joins the errors of the volumes.
func (m *Manager) Setup(ctx context.Context, pod Pod) (Mounted, error) {
	out := Mounted{Volumes: map[string]Volume{}}
	var errs []error
	for i := range pod.Spec.Volumes {
		name := pod.Spec.Volumes[i].Name
		v, err := m.setUp(ctx, pod, &pod.Spec.Volumes[i])
		if err != nil {
			var known *Error
			if !errors.As(err, &known) && !errors.As(err, new(*claimError)) {
				err = &Error{Volume: name, Err: err}
			}
			errs = append(errs, err)
			continue
		}
		out.Volumes[name] = v
		if !v.Refresh.IsZero() && (out.Refresh.IsZero() || v.Refresh.Before(out.Refresh)) {
			out.Refresh = v.Refresh
		}
	}
	return out, errors.Join(errs...)
}

// setUp finds out what kind of volume it is, and has that set it up.
func (m *Manager) setUp(ctx context.Context, pod Pod, v *v1.Volume) (Volume, error) {
	r := &request{Pod: pod, volume: v, kind: kindOf(v)}
	if claim := storage.ClaimName(pod.Pod, v); claim != "" {
		if err := m.resolve(ctx, r, claim); err != nil {
			return Volume{}, err
		}
	}
	k := m.kinds[r.kind]
	if k == nil {
		return Volume{}, fmt.Errorf("volumes of type %s are not supported on this node", r.kind)
	}
	r.dir = m.volumeDir(pod.UID, r.kind, v.Name)
	if r.pv == nil {
		return k.setUp(ctx, r)
	}
	return m.setUpPersistent(ctx, k, r)
}

// memory is the pod's one tmpfs, on which all that may be secret lies.
func (m *Manager) memory(pod *v1.Pod) (string, error) {
	dir := filepath.Join(m.PodDir(pod.UID), "secrets")
	return dir, mountTmpfs(dir, "mode=0755")
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// Teardown unmounts and removes everything of the pod. It is idempotent, and needs to know nothing of the pod but its UID.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error {
	if uid == "" {
		return errors.New("volumes: no pod named")
	}
	if err := m.Unmount(ctx, uid); err != nil {
		return err
	}
	return os.RemoveAll(m.PodDir(uid))
}

// Unmount gives the pod's volumes back but keeps the folder, with the termination messages in it.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	m.forget(uid)
	dir := m.PodDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := m.tearDown(ctx, uid); err != nil {
		return err
	}
	for _, sub := range []string{"volumes", "secrets", "subpaths"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	return nil
}

// forget drops what is kept of the pod in memory.
func (m *Manager) forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.tokens {
		if k.pod == uid {
			delete(m.tokens, k)
		}
	}
	for name, pods := range m.users {
		if delete(pods, uid); len(pods) == 0 {
			delete(m.users, name)
		}
	}
}

// Known lists the pods that have a folder.
func (m *Manager) Known() ([]types.UID, error) {
	entries, err := os.ReadDir(m.cfg.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []types.UID
	for _, e := range entries {
		out = append(out, types.UID(e.Name()))
	}
	return out, err
}
