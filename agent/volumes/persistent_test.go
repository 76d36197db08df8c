package volumes

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claimed is a cluster where claim c is bound to a volume of the source.
func claimed(source v1.PersistentVolumeSource, change ...func(*v1.PersistentVolume, *v1.PersistentVolumeClaim)) *cluster {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: v1.PersistentVolumeSpec{PersistentVolumeSource: source, ClaimRef: &v1.ObjectReference{UID: "claim"}}}
	claim := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", UID: "claim"},
		Spec: v1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound}}
	for _, f := range change {
		f(pv, claim)
	}
	return &cluster{claims: map[string]*v1.PersistentVolumeClaim{"c": claim}, volumes: map[string]*v1.PersistentVolume{"pv": pv},
		node: &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{v1.LabelHostname: "n"}}}}
}

func ofClaim(name string) v1.Volume {
	return volume("v", v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}})
}

func onHost(name string) *v1.VolumeNodeAffinity {
	return &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{
		{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{name}}}}}}}
}

func localAt(path string) v1.PersistentVolumeSource {
	return v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}}
}

func TestClaimsThatLeadNowhere(t *testing.T) {
	const unable = `Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC default/c: `
	dir := localAt(t.TempDir())
	for want, c := range map[string]*cluster{
		unable + `failed to fetch PVC from API server: persistentvolumeclaims "c" not found`: {},
		unable + `PVC is not bound`: claimed(dir, func(_ *v1.PersistentVolume, c *v1.PersistentVolumeClaim) {
			c.Status.Phase = v1.ClaimPending
		}),
		unable + `PVC is being deleted`: claimed(dir, func(_ *v1.PersistentVolume, c *v1.PersistentVolumeClaim) { c.DeletionTimestamp = new(metav1.Now()) }),
		unable + `failed to fetch PV other from API server: persistentvolumes "other" not found`: claimed(dir, func(_ *v1.PersistentVolume, c *v1.PersistentVolumeClaim) {
			c.Spec.VolumeName = "other"
		}),
		unable + `found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim`: claimed(dir, func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
			pv.Spec.ClaimRef = nil
		}),
		unable + `found PV object pv but its pv.Spec.ClaimRef.UID other does not point to claim.UID claim`: claimed(dir, func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
			pv.Spec.ClaimRef.UID = "other"
		}),
		`MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`: claimed(dir, func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
			pv.Spec.NodeAffinity = onHost("elsewhere")
		}),
		`MountVolume.NewMounter initialization failed for volume "pv" : path "/no/such" does not exist`: claimed(localAt("/no/such")),
		`MountVolume.SetUp failed for volume "pv" : mount option "sync" cannot be given to a folder`: claimed(dir, func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
			pv.Spec.MountOptions = []string{"noexec", "sync"}
		}),
		`MountVolume.SetUp failed for volume "v" : volumes of type iscsi are not supported on this node`: claimed(v1.PersistentVolumeSource{ISCSI: &v1.ISCSIPersistentVolumeSource{}}),
		`MountVolume.SetUp failed for volume "pv" : hostPath type check failed: /dev/null is not a directory`: claimed(v1.PersistentVolumeSource{
			HostPath: &v1.HostPathVolumeSource{Path: "/dev/null", Type: new(v1.HostPathDirectory)}}),
	} {
		m := testManager(t, c)
		_, err := m.Setup(t.Context(), Pod{Pod: podWith(ofClaim("c"))})
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestModeOfClaimMustBeThatOfUse(t *testing.T) {
	block := func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
		pv.Spec.VolumeMode = new(v1.PersistentVolumeBlock)
	}
	mounting, asDevice := podWith(ofClaim("c")), podWith(ofClaim("c"))
	mounting.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v"}}
	asDevice.Spec.Containers[0].VolumeDevices = []v1.VolumeDevice{{Name: "v"}}
	_, err := testManager(t, claimed(localAt("/dev/loop0"), block)).Setup(t.Context(), Pod{Pod: mounting})
	if err == nil || !strings.HasSuffix(err.Error(), "volume v has volumeMode Block, but is specified in volumeMounts") {
		t.Error(err)
	}
	_, err = testManager(t, claimed(localAt("/dev"))).Setup(t.Context(), Pod{Pod: asDevice})
	if err == nil || !strings.HasSuffix(err.Error(), "volume v has volumeMode Filesystem, but is specified in volumeDevices") {
		t.Error(err)
	}
	_, err = testManager(t, claimed(localAt("/dev/null"), block)).Setup(t.Context(), Pod{Pod: asDevice})
	if err == nil || !strings.HasSuffix(err.Error(), `path "/dev/null" is not a block device`) {
		t.Error(err)
	}
}

func TestEphemeralClaimIsThePods(t *testing.T) {
	dir := t.TempDir()
	own := func(uid types.UID) *cluster {
		c := claimed(localAt(dir), func(_ *v1.PersistentVolume, c *v1.PersistentVolumeClaim) {
			c.OwnerReferences = []metav1.OwnerReference{{UID: uid, Controller: new(true)}}
		})
		c.claims["web-v"] = c.claims["c"]
		return c
	}
	pod := podWith(volume("v", v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}))
	out, err := testManager(t, own("u1")).Setup(t.Context(), Pod{Pod: pod})
	if err != nil || out.Volumes["v"].Path != dir {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err = testManager(t, own("other")).Setup(t.Context(), Pod{Pod: pod}); err == nil || !strings.HasSuffix(err.Error(), "was not created for pod default/web (pod is not owner)") {
		t.Error(err)
	}
}

func TestLocalFolder(t *testing.T) {
	dir := t.TempDir()
	c := claimed(localAt(dir), func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
		pv.Spec.NodeAffinity, pv.Spec.MountOptions = onHost("n"), []string{"noexec", "ro"}
		pv.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	})
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := testManager(t, c)
	pod := podWith(ofClaim("c"))
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(77))}
	out, err := m.Setup(t.Context(), Pod{Pod: pod})
	if err != nil {
		t.Fatal(err)
	}
	v := out.Volumes["v"]
	if v.Path != dir || v.Persistent != "pv" || v.Claim != "c" || len(v.Options) != 2 || v.ReadOnly {
		t.Errorf("%+v", v)
	}
	var st fileOwner
	if st.read(t, filepath.Join(dir, "f")); st.gid != 77 || st.mode != 0o660 {
		t.Errorf("fsGroup does not own the file: %+v", st)
	}
	other := podWith(ofClaim("c"))
	other.UID = "u2"
	if _, err := m.Setup(t.Context(), Pod{Pod: other}); err == nil || !strings.HasSuffix(err.Error(), "volume uses the ReadWriteOncePod access mode and is already in use by another pod") {
		t.Error(err)
	}
	if err := m.Unmount(t.Context(), "u1"); err != nil {
		t.Fatal(err)
	}
	readOnly := other.DeepCopy()
	readOnly.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	if out, err = m.Setup(t.Context(), Pod{Pod: readOnly}); err != nil || !out.Volumes["v"].ReadOnly {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
		t.Error("the volume's data went with the pod:", err)
	}
}

func TestGroupChangesOnRootMismatch(t *testing.T) {
	dir := t.TempDir()
	pod := podWith(ofClaim("c"))
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(78)), FSGroupChangePolicy: new(v1.FSGroupChangeOnRootMismatch)}
	m := testManager(t, claimed(localAt(dir)))
	setUp := func() (st fileOwner) {
		t.Helper()
		if _, err := m.Setup(t.Context(), Pod{Pod: pod}); err != nil {
			t.Fatal(err)
		}
		st.read(t, filepath.Join(dir, "f"))
		if err := m.Unmount(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := setUp(); st.gid != 78 {
		t.Errorf("the root's group differs, and the file keeps its own: %+v", st)
	}
	if err := os.Chown(filepath.Join(dir, "f"), 0, 5); err != nil {
		t.Fatal(err)
	}
	if st := setUp(); st.gid != 5 {
		t.Errorf("the root has its group, and the file was changed: %+v", st)
	}
	pod.Spec.SecurityContext.FSGroupChangePolicy = nil
	if st := setUp(); st.gid != 78 {
		t.Errorf("always means always: %+v", st)
	}
}

func TestGroupStaysWithinVolume(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := ownByGroup(dir, 79, false); err != nil {
		t.Fatal(err)
	}
	var st fileOwner
	if st.read(t, outside); st.gid == 79 || st.mode != 0o600 {
		t.Errorf("changed through a link: %+v", st)
	}
}

// loopDevice is a block device of 32 MiB.
func loopDevice(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 32<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("skipped: no loop devices: %v: %s", err, out)
	}
	device := string(bytes.TrimSpace(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return device
}

func TestBlockDeviceIsFormattedOnceAndMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	device := loopDevice(t)
	m := testManager(t, claimed(localAt(device)))
	for i, pod := range []*v1.Pod{podWith(ofClaim("c")), podWith(ofClaim("c"))} {
		out, err := m.Setup(t.Context(), Pod{Pod: pod})
		if err != nil {
			t.Fatal(err)
		}
		path := out.Volumes["v"].Path
		if !mountPoint(path) {
			t.Fatalf("%s is not mounted", path)
		}
		if i == 1 && read(t, path, "f") != "kept" {
			t.Error("formatted again")
		}
		if err := os.WriteFile(filepath.Join(path, "f"), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Teardown(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
	}
	xfs := claimed(v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: device, FSType: new("xfs")}})
	if _, err := testManager(t, xfs).Setup(t.Context(), Pod{Pod: podWith(ofClaim("c"))}); err == nil || !strings.HasSuffix(err.Error(), `failed to mount the volume as "xfs", it already contains ext4`) {
		t.Error(err)
	}
	block := claimed(localAt(device), func(pv *v1.PersistentVolume, _ *v1.PersistentVolumeClaim) {
		pv.Spec.VolumeMode = new(v1.PersistentVolumeBlock)
	})
	out, err := testManager(t, block).Setup(t.Context(), Pod{Pod: podWith(ofClaim("c"))})
	if v := out.Volumes["v"]; err != nil || !v.Block || v.Path != device {
		t.Errorf("%+v, %v", v, err)
	}
}
