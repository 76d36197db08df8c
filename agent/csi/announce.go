package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// nodeIDs is the annotation of the Node that has, as a JSON object, its name for each driver.
const nodeIDs = "csi.volume.kubernetes.io/nodeid"

// announce puts the driver into the node's CSINode, and what the driver says of the node's place into the Node's labels.
func (d *Drivers) announce(ctx context.Context, drv *driver) error {
	entry := storagev1.CSINodeDriver{Name: drv.name, NodeID: drv.info.NodeId}
	segments := drv.info.GetAccessibleTopology().GetSegments()
	entry.TopologyKeys = slices.Sorted(maps.Keys(segments))
	if limit := drv.info.MaxVolumesPerNode; limit > 0 {
		count := int32(min(limit, 1<<31-1))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	if err := d.label(ctx, segments, func(ids map[string]string) { ids[drv.name] = drv.info.NodeId }); err != nil {
		return err
	}
	return d.changeCSINode(ctx, func(list []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		i := slices.IndexFunc(list, func(have storagev1.CSINodeDriver) bool { return have.Name == drv.name })
		if i < 0 {
			return append(list, entry)
		}
		list[i] = entry
		return list
	})
}

// withdraw takes the driver out of both; labels stay, for volumes may rest on them.
func (d *Drivers) withdraw(ctx context.Context, name string) error {
	if err := d.label(ctx, nil, func(ids map[string]string) { delete(ids, name) }); err != nil {
		return err
	}
	return d.changeCSINode(ctx, func(list []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		return slices.DeleteFunc(list, func(have storagev1.CSINodeDriver) bool { return have.Name == name })
	})
}

func (d *Drivers) changeCSINode(ctx context.Context, change func([]storagev1.CSINodeDriver) []storagev1.CSINodeDriver) error {
	nodes := d.cfg.Client.StorageV1().CSINodes()
	return retry.OnError(retry.DefaultBackoff, raced, func() error {
		have, err := nodes.Get(ctx, d.cfg.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return d.createCSINode(ctx, change(nil))
		}
		if err != nil {
			return err
		}
		changed := have.DeepCopy()
		changed.Spec.Drivers = change(changed.Spec.Drivers)
		if sameDrivers(have.Spec.Drivers, changed.Spec.Drivers) {
			return nil
		}
		_, err = nodes.Update(ctx, changed, metav1.UpdateOptions{})
		return err
	})
}

// raced reports whether somebody else has written meanwhile.
func raced(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

func (d *Drivers) createCSINode(ctx context.Context, drivers []storagev1.CSINodeDriver) error {
	if len(drivers) == 0 {
		return nil
	}
	node, err := d.cfg.Client.CoreV1().Nodes().Get(ctx, d.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
	_, err = d.cfg.Client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{owner}},
		Spec: storagev1.CSINodeSpec{Drivers: drivers}}, metav1.CreateOptions{})
	return err
}

func sameDrivers(a, b []storagev1.CSINodeDriver) bool {
	return slices.EqualFunc(a, b, func(a, b storagev1.CSINodeDriver) bool {
		return a.Name == b.Name && a.NodeID == b.NodeID && slices.Equal(a.TopologyKeys, b.TopologyKeys) && limitOf(a) == limitOf(b)
	})
}

func limitOf(d storagev1.CSINodeDriver) int32 {
	if d.Allocatable == nil || d.Allocatable.Count == nil {
		return 0
	}
	return *d.Allocatable.Count
}

// label changes the annotation with the node's names, and adds labels.
func (d *Drivers) label(ctx context.Context, labels map[string]string, change func(ids map[string]string)) error {
	node, err := d.cfg.Client.CoreV1().Nodes().Get(ctx, d.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	ids := map[string]string{}
	if text := node.Annotations[nodeIDs]; text != "" {
		if err := json.Unmarshal([]byte(text), &ids); err != nil {
			ids = map[string]string{} // whoever wrote it did not follow the format
		}
	}
	change(ids)
	patch, err := nodePatch(node, labels, ids)
	if err != nil || patch == nil {
		return err
	}
	_, err = d.cfg.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// nodePatch is what of the Node is not as wanted; nil is nothing.
func nodePatch(node *v1.Node, labels, ids map[string]string) ([]byte, error) {
	var annotation any // null: removed
	text := ""
	if len(ids) > 0 {
		data, err := json.Marshal(ids)
		if err != nil {
			return nil, err
		}
		text = string(data)
		annotation = text
	}
	missing := map[string]string{}
	for k, v := range labels {
		switch have, ok := node.Labels[k]; {
		case !ok:
			missing[k] = v
		case have != v: // another driver's, or an administrator's: volumes may rest on it
			return nil, fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", k, v, k, have)
		}
	}
	if len(missing) == 0 && node.Annotations[nodeIDs] == text {
		return nil, nil
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing, "annotations": map[string]any{nodeIDs: annotation}}})
}
