package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// republishAfter is how often a driver that wants it is called for volumes that are in place.
const republishAfter = time.Minute

// Mounted is a volume in place.
type Mounted struct {
	// Path is the folder, or for a block volume the device.
	Path string
	// Own: the volume has come into place now, and is to be given to the pod's fsGroup; otherwise the driver has done that, or nobody is to.
	Own bool
	// Refresh is when Mount is to be called again; zero is never.
	Refresh time.Time
}

// Mount has the volume put in place for the pod. It is idempotent; what was under way when the agent ended is done again.
func (d *Drivers) Mount(ctx context.Context, pod *v1.Pod, v Volume) (Mounted, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	drv, err := d.driver(v.Driver)
	if err != nil {
		return Mounted{}, err
	}
	object, err := d.object(ctx, v)
	if err != nil {
		return Mounted{}, err
	}
	published, err := d.attached(ctx, v, object)
	if err != nil {
		return Mounted{}, err
	}
	defer d.busy.Lock(v.Driver + "/" + v.Handle)()
	target := d.target(pod.UID, v)
	if err := d.write(target, record{Driver: v.Driver, Handle: v.Handle, Name: v.Name, Pod: pod.UID, Block: v.Block, Ephemeral: v.Ephemeral}); err != nil {
		return Mounted{}, err
	}
	out, there := Mounted{Path: target}, mounted(target)
	if object.Spec.RequiresRepublish != nil && *object.Spec.RequiresRepublish {
		out.Refresh = time.Now().Add(republishAfter)
	} else if there {
		return out, nil
	}
	out.Own = !there && owns(object, drv, v)
	var group *int64
	if s := pod.Spec.SecurityContext; s != nil {
		group = s.FSGroup
	}
	capability := v.capability(drv, group)
	if drv.stages && !v.Ephemeral {
		if err := d.stage(ctx, drv, v, capability, published); err != nil {
			return Mounted{}, err
		}
	}
	return out, d.publish(ctx, drv, pod, v, object, capability, published)
}

// object is what the cluster says of the driver; without an object, what holds by default.
func (d *Drivers) object(ctx context.Context, v Volume) (*storagev1.CSIDriver, error) {
	object, err := d.cfg.Client.StorageV1().CSIDrivers().Get(ctx, v.Driver, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		object, err = &storagev1.CSIDriver{}, nil
	}
	if err != nil {
		return nil, err
	}
	mode, modes := storagev1.VolumeLifecyclePersistent, object.Spec.VolumeLifecycleModes
	if v.Ephemeral {
		mode = storagev1.VolumeLifecycleEphemeral
	}
	if len(modes) == 0 {
		modes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	if !slices.Contains(modes, mode) {
		return nil, fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", mode, v.Driver, modes)
	}
	return object, nil
}

// attached waits, by failing, for the volume to be attached to this node, and gives what the attacher tells the node.
func (d *Drivers) attached(ctx context.Context, v Volume, object *storagev1.CSIDriver) (map[string]string, error) {
	if v.Ephemeral || object.Spec.AttachRequired != nil && !*object.Spec.AttachRequired {
		return nil, nil
	}
	name := attachment(v.Handle, v.Driver, d.cfg.NodeName)
	va, err := d.cfg.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // a node may not even look at what does not concern it yet
		return nil, fmt.Errorf("volume %s is not attached to this node yet", v.Handle)
	case err != nil:
		return nil, err
	case !va.Status.Attached && va.Status.AttachError != nil:
		return nil, fmt.Errorf("volume %s is not attached to this node: %s", v.Handle, va.Status.AttachError.Message)
	case !va.Status.Attached:
		return nil, fmt.Errorf("volume %s is not attached to this node yet", v.Handle)
	}
	return va.Status.AttachmentMetadata, nil
}

// owns reports whether the agent is to give the volume's files to the pod's fsGroup.
func owns(object *storagev1.CSIDriver, drv *driver, v Volume) bool {
	if v.Block || drv.mountsGroup {
		return false
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if object.Spec.FSGroupPolicy != nil {
		policy = *object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	}
	once := slices.Contains(v.AccessModes, v1.ReadWriteOnce) || slices.Contains(v.AccessModes, v1.ReadWriteOncePod)
	return v.FSType != "" && once && !v.ReadOnly
}

// stage has the driver make the volume ready on this node, once for all pods.
func (d *Drivers) stage(ctx context.Context, drv *driver, v Volume, capability *spec.VolumeCapability, published map[string]string) error {
	secrets, err := d.secrets(ctx, v.StageSecret)
	if err != nil {
		return err
	}
	path := d.staging(v.Driver, v.Handle)
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	_, err = drv.node.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{VolumeId: v.Handle, PublishContext: published, StagingTargetPath: path,
		VolumeCapability: capability, Secrets: secrets, VolumeContext: v.Attributes})
	return err
}

// publish has the driver put the volume where the pod's containers get it from.
func (d *Drivers) publish(ctx context.Context, drv *driver, pod *v1.Pod, v Volume, object *storagev1.CSIDriver, capability *spec.VolumeCapability, published map[string]string) error {
	secrets, err := d.secrets(ctx, v.PublishSecret)
	if err != nil {
		return err
	}
	attributes, err := d.context(ctx, pod, v, object)
	if err != nil {
		return err
	}
	request := &spec.NodePublishVolumeRequest{VolumeId: v.Handle, PublishContext: published, TargetPath: d.target(pod.UID, v), VolumeCapability: capability,
		Readonly: v.ReadOnly, Secrets: secrets, VolumeContext: attributes}
	if drv.stages && !v.Ephemeral {
		request.StagingTargetPath = d.staging(v.Driver, v.Handle)
	}
	_, err = drv.node.NodePublishVolume(ctx, request)
	return err
}

// context is what the driver is told of the volume, and, where it wants that, of the pod and its account.
func (d *Drivers) context(ctx context.Context, pod *v1.Pod, v Volume, object *storagev1.CSIDriver) (map[string]string, error) {
	out := maps.Clone(v.Attributes)
	if out == nil {
		out = map[string]string{}
	}
	if object.Spec.PodInfoOnMount != nil && *object.Spec.PodInfoOnMount {
		out["csi.storage.k8s.io/pod.name"], out["csi.storage.k8s.io/pod.namespace"] = pod.Name, pod.Namespace
		out["csi.storage.k8s.io/pod.uid"], out["csi.storage.k8s.io/serviceAccount.name"] = string(pod.UID), pod.Spec.ServiceAccountName
		out["csi.storage.k8s.io/ephemeral"] = strconv.FormatBool(v.Ephemeral)
	}
	if len(object.Spec.TokenRequests) == 0 {
		return out, nil
	}
	tokens := map[string]authv1.TokenRequestStatus{}
	for _, want := range object.Spec.TokenRequests {
		request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: want.ExpirationSeconds,
			BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}}
		if want.Audience != "" {
			request.Spec.Audiences = []string{want.Audience}
		}
		answer, err := d.cfg.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		tokens[want.Audience] = answer.Status
	}
	data, err := json.Marshal(tokens)
	out["csi.storage.k8s.io/serviceAccount.tokens"] = string(data)
	return out, err
}

func (d *Drivers) secrets(ctx context.Context, ref *v1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := d.cfg.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for k, v := range secret.Data {
		out[k] = string(v)
	}
	return out, nil
}

// Unmount has everything taken away that is in place for the pod. It is idempotent.
func (d *Drivers) Unmount(ctx context.Context, pod types.UID) error {
	records, err := d.records(pod)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range records {
		if err := d.unmount(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("volume %q: %w", r.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return d.removePod(pod)
}

func (d *Drivers) unmount(ctx context.Context, r record) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	drv, err := d.driver(r.Driver)
	if err != nil {
		return err
	}
	defer d.busy.Lock(r.Driver + "/" + r.Handle)()
	if _, err := drv.node.NodeUnpublishVolume(ctx, &spec.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: r.path}); err != nil {
		return err
	}
	if err := d.erase(r); err != nil {
		return err
	}
	if !drv.stages || r.Ephemeral {
		return nil
	}
	if used, err := d.used(r); used || err != nil {
		return err
	}
	staging := d.staging(r.Driver, r.Handle)
	if _, err := drv.node.NodeUnstageVolume(ctx, &spec.NodeUnstageVolumeRequest{VolumeId: r.Handle, StagingTargetPath: staging}); err != nil {
		return err
	}
	return removeUnmounted(filepath.Dir(staging))
}
