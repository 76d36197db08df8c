package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// claimError: the claim does not lead to a volume that the pod may use, or not yet. It is told in the kubelet's words.
type claimError struct {
	volume, namespace, claim string
	err                      error
}

func (e *claimError) Error() string {
	return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: error processing PVC %s/%s: %v",
		e.volume, e.volume, e.namespace, e.claim, e.err)
}

func (e *claimError) Unwrap() error { return e.err }

// resolve finds the volume that the claim is bound to.
func (m *Manager) resolve(ctx context.Context, r *request, name string) error {
	fail := func(err error) error { return &claimError{r.volume.Name, r.Namespace, name, err} }
	claim, err := m.cfg.Objects.Claim(ctx, r.Namespace, name)
	if err != nil {
		return fail(fmt.Errorf("failed to fetch PVC from API server: %w", err))
	}
	if r.volume.Ephemeral != nil && !metav1.IsControlledBy(claim, r.Pod.Pod) {
		return fail(fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, r.Namespace, r.Name))
	}
	if claim.Status.Phase != v1.ClaimBound || claim.Spec.VolumeName == "" {
		return fail(errors.New("PVC is not bound"))
	}
	pv, err := m.cfg.Objects.PersistentVolume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return fail(fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err))
	}
	switch ref := pv.Spec.ClaimRef; {
	case ref == nil:
		return fail(fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name))
	case ref.UID != claim.UID:
		return fail(fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, ref.UID, claim.UID))
	case claim.DeletionTimestamp != nil && !m.uses(pv.Name, r):
		return fail(errors.New("PVC is being deleted"))
	}
	r.pv, r.claim, r.kind = pv, claim, setField(reflect.ValueOf(pv.Spec.PersistentVolumeSource))
	if err := checkMode(r); err != nil {
		return fail(err)
	}
	if source := r.volume.PersistentVolumeClaim; source != nil {
		r.readOnly = source.ReadOnly
	}
	return nil
}

// uses tells whether the pod has the volume in place, or runs already: an agent that starts anew takes over what is there.
func (m *Manager) uses(pv string, r *request) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.users[pv][r.UID] || r.Status.Phase == v1.PodRunning
}

// checkMode holds that a file system is mounted and a block volume is a device.
func checkMode(r *request) error {
	mounted, device := false, false
	for _, list := range [][]v1.Container{r.Spec.InitContainers, r.Spec.Containers} {
		for i := range list {
			mounted = mounted || slices.ContainsFunc(list[i].VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == r.volume.Name })
			device = device || slices.ContainsFunc(list[i].VolumeDevices, func(d v1.VolumeDevice) bool { return d.Name == r.volume.Name })
		}
	}
	switch {
	case r.block() && mounted:
		return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", r.volume.Name)
	case !r.block() && device:
		return fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", r.volume.Name)
	}
	return nil
}

// setUpPersistent has the kind set the volume up that a claim led to, if this node and this pod may have it.
func (m *Manager) setUpPersistent(ctx context.Context, k kind, r *request) (Volume, error) {
	fail := func(op string, err error) (Volume, error) {
		return Volume{}, &Error{Operation: op, Volume: r.pv.Name, Err: err}
	}
	if err := m.reaches(r.pv); err != nil {
		return fail("MountVolume.NodeAffinity check failed", err)
	}
	if err := m.use(r); err != nil {
		return fail("", err)
	}
	v, err := k.setUp(ctx, r)
	if err != nil {
		m.disuse(r)
		var known *Error
		if errors.As(err, &known) {
			known.Volume = r.pv.Name
			return v, known
		}
		return fail("", err)
	}
	v.Persistent, v.Claim, v.Block = r.pv.Name, r.claim.Name, r.block()
	v.ReadOnly = v.ReadOnly || r.readOnly
	return v, nil
}

// reaches checks the volume's node affinity.
func (m *Manager) reaches(pv *v1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	var node *v1.Node
	if m.cfg.Node != nil {
		node = m.cfg.Node()
	}
	if node == nil {
		return errors.New("the node is not registered yet")
	}
	if ok, err := nodeaffinity.NewLazyErrorNodeSelector(pv.Spec.NodeAffinity.Required).Match(node); err != nil {
		return err
	} else if !ok {
		return errors.New("no matching NodeSelectorTerms")
	}
	return nil
}

// use notes that the pod has the volume, which ReadWriteOncePod allows to one pod only.
func (m *Manager) use(r *request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	users := m.users[r.pv.Name]
	others := len(users) > 1 || len(users) == 1 && !users[r.UID]
	if slices.Contains(r.pv.Spec.AccessModes, v1.ReadWriteOncePod) && others {
		return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
	}
	r.first = !others && !users[r.UID] && r.Status.Phase != v1.PodRunning
	if users == nil {
		users = map[types.UID]bool{}
		m.users[r.pv.Name] = users
	}
	users[r.UID] = true
	return nil
}

// disuse takes back what use noted for a pod that did not get the volume.
func (m *Manager) disuse(r *request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.first {
		delete(m.users, r.pv.Name)
	}
}

// locals are folders and block devices of this node.
type locals struct {
	mountsOnly
	provisioned Provisioned
}

func (l locals) setUp(ctx context.Context, r *request) (Volume, error) {
	path := r.pv.Spec.Local.Path
	if l.provisioned != nil {
		if err := l.provisioned.Ensure(r.pv); err != nil {
			return Volume{}, err
		}
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return Volume{}, &Error{Operation: "MountVolume.NewMounter initialization failed", Err: fmt.Errorf("path %q does not exist", path)}
	}
	if err != nil {
		return Volume{}, err
	}
	device := info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	switch {
	case r.block() && !device:
		return Volume{}, fmt.Errorf("path %q is not a block device", path)
	case r.block():
		return Volume{Path: path}, nil
	case device:
		return mountDevice(ctx, r, path)
	case !info.IsDir():
		return Volume{}, fmt.Errorf("path %q is neither a directory nor a block device", path)
	}
	v := Volume{Path: path}
	if v.Options, err = bindOptions(r.pv.Spec.MountOptions); err != nil {
		return v, err
	}
	if r.first && !r.readOnly {
		return v, takeGroup(path, r.Pod.Pod)
	}
	return v, nil
}

// bindOptions are mount options that a folder can have where it is mounted. Others are of a file system, and are refused.
func bindOptions(options []string) ([]string, error) {
	known := []string{"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "nodiratime", "diratime", "relatime",
		"norelatime", "strictatime", "nostrictatime"}
	var out []string
	for _, o := range options {
		switch {
		case o == "bind" || o == "rbind" || o == "defaults":
		case slices.Contains(known, o):
			out = append(out, o)
		default:
			return nil, fmt.Errorf("mount option %q cannot be given to a folder", o)
		}
	}
	return out, nil
}
