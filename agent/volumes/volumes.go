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
)

// Objects is what volumes read from the cluster.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Token asks for a token of a service account.
	Token(ctx context.Context, namespace, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error)
}

// Error is the failure of one volume.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Mounted is where a pod's volumes lie on the host, by volume name.
type Mounted struct {
	Paths map[string]string
	// Refresh is when Setup has to be called again even if no object changes; zero is never.
	Refresh time.Time
}

// Manager sets volumes up. It is safe for concurrent use, one call a pod at a time.
type Manager struct {
	root    string // layout.Pods()
	objects Objects
	now     func() time.Time

	mu     sync.Mutex
	tokens map[tokenKey]token
}

// New makes a Manager that keeps pods' folders below root.
func New(root string, objects Objects) *Manager {
	return &Manager{root: root, objects: objects, now: time.Now, tokens: map[tokenKey]token{}}
}

// PodDir is the folder of the pod's files.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.root, string(uid)) }

// Setup brings every volume of the pod into place, or up to date where it is already. An error is an *Error.
func (m *Manager) Setup(ctx context.Context, pod *v1.Pod, facts fields.Facts) (Mounted, error) {
	out := Mounted{Paths: map[string]string{}}
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, refresh, err := m.setup(ctx, pod, v, facts)
		if err != nil {
			errs = append(errs, &Error{Volume: v.Name, Err: err})
			continue
		}
		out.Paths[v.Name] = path
		if !refresh.IsZero() && (out.Refresh.IsZero() || refresh.Before(out.Refresh)) {
			out.Refresh = refresh
		}
	}
	return out, errors.Join(errs...)
}

func (m *Manager) setup(ctx context.Context, pod *v1.Pod, v *v1.Volume, facts fields.Facts) (path string, refresh time.Time, err error) {
	switch {
	case v.EmptyDir != nil:
		path, err = m.emptyDir(pod, v)
		return path, refresh, err
	case v.HostPath != nil:
		return v.HostPath.Path, refresh, checkHostPath(v.HostPath)
	}
	files, refresh, err := m.payload(ctx, pod, v, facts)
	if err != nil {
		return "", refresh, err
	}
	if v.ConfigMap != nil {
		path = filepath.Join(m.PodDir(pod.UID), "volumes", v.Name)
	} else {
		base, err := m.memory(pod)
		if err != nil {
			return "", refresh, err
		}
		path = filepath.Join(base, v.Name)
	}
	return path, refresh, writeAtomically(path, files, fsGroup(pod))
}

// memory is the pod's one tmpfs, on which all that may be secret lies.
func (m *Manager) memory(pod *v1.Pod) (string, error) {
	dir := filepath.Join(m.PodDir(pod.UID), "secrets")
	return dir, mountTmpfs(dir, "mode=0755")
}

// Unsupported is the error of the first volume that this node cannot provide.
func Unsupported(pod *v1.Pod) error {
	for i := range pod.Spec.Volumes {
		if kind := unsupportedKind(&pod.Spec.Volumes[i]); kind != "" {
			return &Error{pod.Spec.Volumes[i].Name, fmt.Errorf("volumes of type %s are not supported on this node", kind)}
		}
	}
	return nil
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// Teardown unmounts and removes everything of the pod. It is idempotent.
func (m *Manager) Teardown(uid types.UID) error {
	dir := m.PodDir(uid)
	if uid == "" {
		return errors.New("volumes: no pod named")
	}
	m.mu.Lock()
	for k := range m.tokens {
		if k.pod == uid {
			delete(m.tokens, k)
		}
	}
	m.mu.Unlock()
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Unmount gives the pod's volumes back but keeps the folder, with the termination messages in it.
func (m *Manager) Unmount(uid types.UID) error {
	dir := m.PodDir(uid)
	if err := unmountBelow(dir); err != nil {
		return err
	}
	for _, sub := range []string{"volumes", "secrets", "subpaths"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	return nil
}

// Known lists the pods that have a folder.
func (m *Manager) Known() ([]types.UID, error) {
	entries, err := os.ReadDir(m.root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []types.UID
	for _, e := range entries {
		out = append(out, types.UID(e.Name()))
	}
	return out, err
}
