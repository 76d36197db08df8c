package csi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/coracle-dev/coracle/agent/csi"
	"github.com/coracle-dev/coracle/agent/csi/csitest"
	"github.com/coracle-dev/coracle/internal/testenv"
)

const name = "disks.example.com"

// bench is a node with one driver.
type bench struct {
	t      *testing.T
	kube   *fake.Clientset
	dir    string
	driver *csitest.Driver
	*csi.Drivers
}

func newBench(t *testing.T, object *storagev1.CSIDriver) *bench {
	t.Helper()
	testenv.NeedsRoot(t)
	dir, err := os.MkdirTemp("", "csi") // short: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, kube: fake.NewClientset(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u"}})}
	if object != nil {
		object.Name = name
		if err := b.kube.Tracker().Add(object); err != nil {
			t.Fatal(err)
		}
	}
	b.Drivers = b.agent()
	b.driver = csitest.Start(t, dir, name)
	b.eventually("the driver is registered", func() error {
		if s := b.driver.Registered(); s == nil || !s.PluginRegistered {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	return b
}

// agent starts another one on the same folders.
func (b *bench) agent() *csi.Drivers {
	b.t.Helper()
	d := csi.New(csi.Config{Client: b.kube, NodeName: "n", Dir: b.dir, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	b.eventually("the agent watches", func() error {
		_, err := os.Stat(filepath.Join(b.dir, "pods"))
		return err
	})
	return d
}

func (b *bench) eventually(what string, ok func() error) {
	b.t.Helper()
	var err error
	for range 600 {
		if err = ok(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.t.Fatalf("%s: %v", what, err)
}

func pod(uid types.UID) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-" + string(uid), UID: uid}, Spec: v1.PodSpec{ServiceAccountName: "default"}}
}

var disk = csi.Volume{Name: "pv", Driver: name, Handle: "disk-1", AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteMany}}

// TestDriverIsAnnounced: the CSINode, the annotation and the labels come with the driver, and go, but for the labels, with it.
func TestDriverIsAnnounced(t *testing.T) {
	b := newBench(t, nil)
	announced := func() []storagev1.CSINodeDriver {
		node, err := b.kube.StorageV1().CSINodes().Get(t.Context(), "n", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return node.Spec.Drivers
	}
	if have := announced(); len(have) != 1 || have[0].NodeID != "id-of-this-node" || !slices.Equal(have[0].TopologyKeys, []string{"topology." + name + "/rack"}) {
		t.Errorf("announced %+v", have)
	}
	node, err := b.kube.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if node.Labels["topology."+name+"/rack"] != "r1" || node.Annotations["csi.volume.kubernetes.io/nodeid"] != `{"`+name+`":"id-of-this-node"}` {
		t.Errorf("labels %v, annotations %v", node.Labels, node.Annotations)
	}
	b.driver.Stop()
	b.eventually("the driver is withdrawn", func() error {
		if have := announced(); len(have) > 0 {
			return fmt.Errorf("%+v", have)
		}
		return nil
	})
	if _, err := b.Mount(t.Context(), pod("a"), disk); err == nil || err.Error() != "driver name "+name+" not found in the list of registered CSI drivers" {
		t.Error(err)
	}
}

// TestVolumeIsStagedOnce: for two pods a volume is staged once and published twice, and unstaged with the last of them.
func TestVolumeIsStagedOnce(t *testing.T) {
	b := newBench(t, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{AttachRequired: new(bool), PodInfoOnMount: new(true)}})
	for _, uid := range []types.UID{"a", "b"} {
		m, err := b.Mount(t.Context(), pod(uid), disk)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.Path, string(uid)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Mount(t.Context(), pod(uid), disk); err != nil { // nothing more happens
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(b.driver.Data, "disk-1")); err != nil || len(entries) != 2 {
		t.Errorf("the volume holds %v, %v", entries, err)
	}
	if told := b.driver.Told("/a/"); told["csi.storage.k8s.io/pod.name"] != "p-a" || told["csi.storage.k8s.io/ephemeral"] != "false" {
		t.Errorf("told %v", told)
	}
	if used, err := b.InUse(); err != nil || !slices.Equal(used, []v1.UniqueVolumeName{"kubernetes.io/csi/" + name + "^disk-1"}) {
		t.Errorf("in use: %v, %v", used, err)
	}
	again := b.agent() // which knows nothing but what lies on disk
	b.eventually("the driver is registered anew", func() error { return again.Unmount(t.Context(), "a") })
	b.must(again.Unmount(t.Context(), "b"))
	b.must(again.Unmount(t.Context(), "b"))
	want := "stage disk-1,publish disk-1,stage disk-1,publish disk-1,unpublish disk-1,unpublish disk-1,unstage disk-1"
	if have := strings.Join(b.driver.Calls(), ","); have != want {
		t.Errorf("called %s", have)
	}
	if entries, err := os.ReadDir(filepath.Join(b.dir, "pods")); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestAttachmentIsWaitedFor: a driver without an object, as by default, has its volumes attached first.
func TestAttachmentIsWaitedFor(t *testing.T) {
	b := newBench(t, nil)
	if _, err := b.Mount(t.Context(), pod("a"), disk); err == nil || !strings.Contains(err.Error(), "not attached to this node yet") {
		t.Error(err)
	}
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: attachmentName(t, b)}, Status: storagev1.VolumeAttachmentStatus{
		Attached: true, AttachmentMetadata: map[string]string{"device": "/dev/disk1"}}}
	b.must(b.kube.Tracker().Add(attachment))
	if _, err := b.Mount(t.Context(), pod("a"), disk); err != nil {
		t.Fatal(err)
	}
	if told := b.driver.PublishContext("disk-1"); told["device"] != "/dev/disk1" {
		t.Errorf("told %v", told)
	}
	b.must(b.Unmount(t.Context(), "a"))
}

// attachmentName is the name that was asked for last.
func attachmentName(t *testing.T, b *bench) string {
	t.Helper()
	for _, a := range slices.Backward(b.kube.Actions()) {
		if get, ok := a.(interface{ GetName() string }); ok && a.GetResource().Resource == "volumeattachments" {
			return get.GetName()
		}
	}
	t.Fatal(errors.New("no attachment was asked for"))
	return ""
}

// TestEphemeral: a volume of a pod's own needs a driver that says it can do that, and is never staged.
func TestEphemeral(t *testing.T) {
	b := newBench(t, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}, PodInfoOnMount: new(true)}})
	p := pod("a")
	v := csi.OfPod(p, &v1.Volume{Name: "scratch", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: name, VolumeAttributes: map[string]string{"size": "1"}}}})
	if _, err := b.Mount(t.Context(), p, v); err != nil {
		t.Fatal(err)
	}
	if told := b.driver.Told("/a/"); told["size"] != "1" || told["csi.storage.k8s.io/ephemeral"] != "true" {
		t.Errorf("told %v", told)
	}
	if _, err := b.Mount(t.Context(), p, disk); err == nil || err.Error() != `volume mode "Persistent" not supported by driver `+name+` (only supports ["Ephemeral"])` {
		t.Error(err)
	}
	b.must(b.Unmount(t.Context(), "a"))
	if have := strings.Join(b.driver.Calls(), ","); have != "publish "+v.Handle+",unpublish "+v.Handle {
		t.Errorf("called %s", have)
	}
}

// TestFullFolderIsNotRemoved: what a driver has left mounted is its data; it is told again, and nothing is removed.
func TestFullFolderIsNotRemoved(t *testing.T) {
	b := newBench(t, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{AttachRequired: new(bool)}})
	m, err := b.Mount(t.Context(), pod("a"), disk)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(m.Path, "data"), []byte("x"), 0o600))
	busy, err := os.Open(m.Path)
	b.must(err)
	if err := b.Unmount(t.Context(), "a"); err == nil {
		t.Error("taken away while it was in use")
	}
	b.must(busy.Close())
	b.must(b.Unmount(t.Context(), "a"))
	if _, err := os.Stat(filepath.Join(b.driver.Data, "disk-1", "data")); err != nil {
		t.Error(err)
	}
}

// TestAbandon: what is in place goes without the driver, and nothing of the volume.
func TestAbandon(t *testing.T) {
	b := newBench(t, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{AttachRequired: new(bool)}})
	m, err := b.Mount(t.Context(), pod("a"), disk)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(m.Path, "data"), []byte("x"), 0o600))
	b.must(csi.Abandon(b.dir, []types.UID{"a", "b"}))
	if entries, err := os.ReadDir(filepath.Join(b.dir, "pods")); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(b.driver.Data, "disk-1", "data")); err != nil {
		t.Error(err)
	}
}
