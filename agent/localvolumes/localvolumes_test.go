package localvolumes

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/volumes"
)

func itoa(n int) string { return strconv.Itoa(n) }

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func testKeeper(t *testing.T, folder string) (*Keeper, *record.FakeRecorder) {
	events := record.NewFakeRecorder(10)
	return New(Config{Client: fake.NewClientset(), Node: "n", Folder: folder, Event: func(o runtime.Object, kind, reason, message string) { events.Event(o, kind, reason, message) }, Log: slog.New(slog.DiscardHandler)}), events
}

func provisioned(folder, name string) *v1.PersistentVolume {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{volumes.LocalFinalizer}, Labels: map[string]string{volumes.LocalNode: "n"},
			Annotations: map[string]string{volumes.ProvisionedBy: volumes.LocalProvisioner}},
		Spec: v1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete, ClaimRef: &v1.ObjectReference{Name: "c"},
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: filepath.Join(folder, name)}}},
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestVolumeComesAndGoes shows a volume from its making to the end of its data and of its object.
func TestVolumeComesAndGoes(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "volumes")
	k, events := testKeeper(t, folder)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.Run(t.Context())
	}()
	api := k.cfg.Client.CoreV1().PersistentVolumes()
	v, err := api.Create(t.Context(), provisioned(folder, "pvc-1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return exists(v.Spec.Local.Path) })
	if info, err := os.Stat(v.Spec.Local.Path); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("%v, %v", info, err)
	}
	if len(events.Events) == 1 { // only where the test's file system keeps no quotas
		if text := <-events.Events; text != "Normal CapacityNotEnforced The file system of "+folder+" on node n keeps no project quotas: volume pvc-1 may grow beyond 1Mi" {
			t.Error(text)
		}
	}
	if err := os.WriteFile(filepath.Join(v.Spec.Local.Path, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// While something else holds it, its data stays.
	v.DeletionTimestamp, v.Finalizers = new(metav1.Now()), []string{"kubernetes.io/pv-protection", volumes.LocalFinalizer}
	if err := k.sync(t.Context(), v); err != nil || !exists(filepath.Join(v.Spec.Local.Path, "f")) {
		t.Fatal("removed while it is protected:", err)
	}
	v.Finalizers = []string{volumes.LocalFinalizer}
	if _, err := api.Update(t.Context(), v, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		now, err := api.Get(t.Context(), v.Name, metav1.GetOptions{})
		return !exists(v.Spec.Local.Path) && (apierrors.IsNotFound(err) || err == nil && len(now.Finalizers) == 0)
	})
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}

func TestOthersDataStays(t *testing.T) {
	base := t.TempDir()
	folder := filepath.Join(base, "volumes")
	k, _ := testKeeper(t, folder)
	leave := func(v *v1.PersistentVolume) {
		t.Helper()
		v.DeletionTimestamp = new(metav1.Now())
		if err := k.sync(t.Context(), v); err != nil {
			t.Error(err)
		}
	}
	for what, change := range map[string]func(*v1.PersistentVolume){
		"another node's":              func(v *v1.PersistentVolume) { v.Labels[volumes.LocalNode] = "m" },
		"made by hand":                func(v *v1.PersistentVolume) { v.Annotations = nil },
		"of another place":            func(v *v1.PersistentVolume) { v.Spec.Local.Path = base },
		"to be retained":              func(v *v1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimRetain },
		"of a name that leads astray": func(v *v1.PersistentVolume) { v.Name, v.Spec.Local.Path = "../other", filepath.Join(base, "other") },
	} {
		for _, dir := range []string{filepath.Join(folder, "pvc-2"), filepath.Join(base, "other")} {
			if err := os.MkdirAll(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		v := provisioned(folder, "pvc-2")
		change(v)
		leave(v)
		if !exists(filepath.Join(folder, "pvc-2")) || !exists(filepath.Join(base, "other")) {
			t.Errorf("a volume %s was removed", what)
		}
	}
}

func TestRemovalStaysInFolder(t *testing.T) {
	base := t.TempDir()
	folder, outside := filepath.Join(base, "volumes"), filepath.Join(base, "outside")
	k, _ := testKeeper(t, folder)
	if err := errors.Join(os.MkdirAll(filepath.Join(folder, "pvc-3"), 0o777), os.MkdirAll(filepath.Join(outside, "d"), 0o777),
		os.Symlink(outside, filepath.Join(folder, "pvc-3", "out")), os.Symlink(outside, filepath.Join(folder, "pvc-4")),
		os.MkdirAll(filepath.Join(folder, leaving+"pvc-5"), 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.remove("pvc-3"), k.remove("pvc-4"), k.remove("none")); err != nil {
		t.Error(err)
	}
	k.sweep()
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if !exists(filepath.Join(outside, "d")) {
		t.Error("removed through a link")
	}
}
