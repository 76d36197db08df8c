package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	storage "github.com/coracle-dev/coracle/internal/volumes"
)

// kind provides the volumes of one type. A further one is written as a type of its own and named in kinds.
type kind interface {
	// setUp brings the volume into place, or up to date where it is already. What it mounts it mounts at r.dir or below: that
	// is unmounted, and removed, without it.
	setUp(ctx context.Context, r *request) (Volume, error)
	// tearDown gives back what beyond mounts and files is held for the volume. Nothing of it is mounted in the pod's folder any
	// more. It is idempotent, and knows the volume by its name alone: the pod may be long gone.
	tearDown(ctx context.Context, uid types.UID, name string) error
}

// request is one volume of one pod.
type request struct {
	Pod
	volume *v1.Volume
	kind   string
	// dir is the volume's own place in the pod's folder; its parent may not exist yet.
	dir string
	// pv is what a claim of the pod is bound to; it and claim are nil for the pod's own volumes.
	pv    *v1.PersistentVolume
	claim *v1.PersistentVolumeClaim
	// readOnly is what volume and claim say of a persistent volume.
	readOnly bool
	// first: no other pod of the node has the persistent volume in place.
	first bool
}

func (r *request) block() bool {
	return r.pv != nil && r.pv.Spec.VolumeMode != nil && *r.pv.Spec.VolumeMode == v1.PersistentVolumeBlock
}

// kinds are the types of volumes that this node provides, by their name in the API.
func kinds(m *Manager) map[string]kind {
	all := map[string]kind{
		"emptyDir": emptyDirs{}, "hostPath": hostPaths{}, "local": locals{provisioned: m.cfg.Provisioned}, "nfs": nfs{},
		"configMap": m.plainFiles(), "secret": m.secretFiles(), "downwardAPI": m.secretFiles(), "projected": m.secretFiles(),
	}
	if m.cfg.Images != nil {
		all["image"] = imageVolumes{m.cfg.Images}
	}
	if m.cfg.Drivers != nil {
		all["csi"] = driven{m.cfg.Drivers}
	}
	return all
}

// mountsOnly is embedded by kinds that hold nothing but mounts and files.
type mountsOnly struct{}

func (mountsOnly) tearDown(context.Context, types.UID, string) error { return nil }

// kindOf is the name of the volume's type in the API.
func kindOf(v *v1.Volume) string { return setField(reflect.ValueOf(v.VolumeSource)) }

// setField is the JSON name of the pointer that is set in a union.
func setField(v reflect.Value) string {
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "none"
}

// Unsupported is the error of the first volume that this node cannot provide, as far as the pod alone tells.
func (m *Manager) Unsupported(pod *v1.Pod) error {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if what := m.unsupported(pod, v); what != "" {
			return &Error{Volume: v.Name, Err: fmt.Errorf("volumes of type %s are not supported on this node", what)}
		}
	}
	return nil
}

func (m *Manager) unsupported(pod *v1.Pod, v *v1.Volume) string {
	name := kindOf(v)
	switch {
	case storage.ClaimName(pod, v) != "":
		return ""
	case m.kinds[name] == nil:
		return name
	case v.Projected == nil:
		return ""
	}
	for _, src := range v.Projected.Sources {
		if src.ConfigMap == nil && src.Secret == nil && src.DownwardAPI == nil && src.ServiceAccountToken == nil {
			return "projected " + setField(reflect.ValueOf(src))
		}
	}
	return ""
}

// tearDown has the kinds give back what they hold for the pod's volumes, which its folder names.
func (m *Manager) tearDown(ctx context.Context, uid types.UID) error {
	dir := filepath.Join(m.PodDir(uid), "volumes")
	for name, k := range m.kinds {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := k.tearDown(ctx, uid, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// InPlace tells whether the pod's volume, one that is mounted below its folder, is there.
func (m *Manager) InPlace(uid types.UID, v *v1.Volume) bool {
	return mountPoint(m.volumeDir(uid, kindOf(v), v.Name))
}
