package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/podspec/fields"
)

// cluster has the objects by name.
type cluster struct {
	maps    map[string]*v1.ConfigMap
	secrets map[string]*v1.Secret
	claims  map[string]*v1.PersistentVolumeClaim
	volumes map[string]*v1.PersistentVolume
	node    *v1.Node
	tokens  int
	refuse  bool
}

func (c *cluster) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if m := c.maps[name]; m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (c *cluster) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if s := c.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func (c *cluster) Claim(_ context.Context, _, name string) (*v1.PersistentVolumeClaim, error) {
	if claim := c.claims[name]; claim != nil {
		return claim, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("persistentvolumeclaims"), name)
}

func (c *cluster) PersistentVolume(_ context.Context, name string) (*v1.PersistentVolume, error) {
	if v := c.volumes[name]; v != nil {
		return v, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("persistentvolumes"), name)
}

func (c *cluster) Token(_ context.Context, ns, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if c.refuse {
		return nil, errors.New("refused")
	}
	c.tokens++
	r = r.DeepCopy()
	r.Status = authv1.TokenRequestStatus{Token: fmt.Sprintf("%s/%s/%s/%d", ns, account, r.Spec.BoundObjectRef.UID, c.tokens),
		ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second))}
	return r, nil
}

func testManager(t *testing.T, c *cluster) *Manager {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	m := New(Config{Root: t.TempDir(), Objects: c, Node: func() *v1.Node { return c.node }})
	t.Cleanup(func() {
		if err := m.Teardown(t.Context(), "u1"); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(m.PodDir("u1")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("folder left: %v", err)
		}
	})
	return m
}

func podWith(vols ...v1.Volume) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1", Labels: map[string]string{"a": "1"}},
		Spec: v1.PodSpec{Volumes: vols, Containers: []v1.Container{{Name: "app"}}}}
}

func volume(name string, s v1.VolumeSource) v1.Volume { return v1.Volume{Name: name, VolumeSource: s} }

func local(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }

func read(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func TestConfigMapChangesAtOnce(t *testing.T) {
	c := &cluster{maps: map[string]*v1.ConfigMap{"cm": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {0}}}}}
	m := testManager(t, c)
	pod := podWith(volume("v", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("cm"), DefaultMode: new(int32(0o640))}}))
	setup := func() string {
		out, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Volumes["v"].Path
	}
	dir := setup()
	if read(t, dir, "a")+read(t, dir, "b")+read(t, dir, "c") != "12\x00" {
		t.Error("wrong content")
	}
	if info, _ := os.Stat(filepath.Join(dir, "a")); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	first, _ := os.Readlink(filepath.Join(dir, "..data"))
	setup()
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != first {
		t.Error("rewritten though nothing changed")
	}
	c.maps["cm"] = &v1.ConfigMap{Data: map[string]string{"a": "new", "d": "4"}}
	setup()
	if read(t, dir, "a")+read(t, dir, "d") != "new4" {
		t.Error("not updated")
	}
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..2006_") {
			names = append(names, e.Name())
		}
	}
	if strings.Join(names, " ") != "..data a d" || len(entries) != 4 {
		t.Errorf("entries %v", entries)
	}
}

func TestProjectedAndTokens(t *testing.T) {
	c := &cluster{maps: map[string]*v1.ConfigMap{"ca": {Data: map[string]string{"ca.crt": "CA"}}}, secrets: map[string]*v1.Secret{"s": {Data: map[string][]byte{"k": []byte("v")}}}}
	m := testManager(t, c)
	pod := podWith(volume("v", v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: local("ca"), Items: []v1.KeyToPath{{Key: "ca.crt", Path: "tls/ca.crt"}}}},
		{Secret: &v1.SecretProjection{LocalObjectReference: local("none"), Optional: new(true)}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "ns", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(1000))}},
	}}}))
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: new(int64(1234)), FSGroup: new(int64(55))}
	began := time.Now()
	out, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}})
	if err != nil {
		t.Fatal(err)
	}
	dir := out.Volumes["v"].Path
	if got := read(t, dir, "tls/ca.crt") + read(t, dir, "ns") + read(t, dir, "token"); got != "CAdefaultdefault/default/u1/1" {
		t.Errorf("content %q", got)
	}
	if d := out.Refresh.Sub(began).Round(10 * time.Second); d != 800*time.Second {
		t.Errorf("refresh after %s, want 80%% of 1000 s", d)
	}
	var st fileOwner
	if st.read(t, filepath.Join(dir, "token")); st != (fileOwner{1234, 55, 0o640}) {
		t.Errorf("token file %+v", st)
	}
	m.now = func() time.Time { return time.Now().Add(900 * time.Second) }
	c.refuse = true
	if _, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}}); err != nil || read(t, dir, "token") != "default/default/u1/1" {
		t.Errorf("an old token is kept while there is no new one: %v", err)
	}
	c.refuse = false
	m.now = func() time.Time { return time.Now().Add(2000 * time.Second) }
	if _, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}}); err != nil || read(t, dir, "token") != "default/default/u1/2" {
		t.Errorf("token not renewed: %v", err)
	}
	m.RenewTokens()
	if _, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}}); err != nil || read(t, dir, "token") != "default/default/u1/3" {
		t.Errorf("token not renewed when the clock was set: %v", err)
	}
}

func TestErrors(t *testing.T) {
	c := &cluster{maps: map[string]*v1.ConfigMap{"cm": {}}}
	m := testManager(t, c)
	dir := t.TempDir()
	for want, s := range map[string]v1.VolumeSource{
		`configmap "no" not found`:                               {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("no")}},
		`secret "no" not found`:                                  {Secret: &v1.SecretVolumeSource{SecretName: "no"}},
		"configmap references non-existent config key: k":        {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local("cm"), Items: []v1.KeyToPath{{Key: "k", Path: "k"}}}},
		"hostPath type check failed: " + dir + " is not a file":  {HostPath: &v1.HostPathVolumeSource{Path: dir, Type: new(v1.HostPathFile)}},
		"hostPath type check failed: /no/x is not a directory":   {HostPath: &v1.HostPathVolumeSource{Path: "/no/x", Type: new(v1.HostPathDirectory)}},
		"hostPath type check failed: /no/x is not a socket file": {HostPath: &v1.HostPathVolumeSource{Path: "/no/x", Type: new(v1.HostPathSocket)}},
		"volumes of type iscsi are not supported on this node":   {ISCSI: &v1.ISCSIVolumeSource{}},
	} {
		pod := podWith(volume("v", s))
		_, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}})
		if err == nil || err.Error() != `MountVolume.SetUp failed for volume "v" : `+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	projected := func(p v1.VolumeProjection) v1.VolumeSource {
		return v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{p}}}
	}
	for kind, s := range map[string]v1.VolumeSource{
		"rbd":                          {RBD: &v1.RBDVolumeSource{}},
		"gitRepo":                      {GitRepo: &v1.GitRepoVolumeSource{}},
		"gcePersistentDisk":            {GCEPersistentDisk: &v1.GCEPersistentDiskVolumeSource{}},
		"projected clusterTrustBundle": projected(v1.VolumeProjection{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{}}),
		"projected podCertificate":     projected(v1.VolumeProjection{PodCertificate: &v1.PodCertificateProjection{}}),
	} {
		if err := m.Unsupported(podWith(volume("v", s))); err == nil || !strings.Contains(err.Error(), "volumes of type "+kind+" are not supported") {
			t.Error(kind, err)
		}
	}
	t.Setenv("PATH", t.TempDir()) // where there is no mount.nfs
	if _, err := m.Setup(t.Context(), Pod{Pod: podWith(volume("v", v1.VolumeSource{NFS: &v1.NFSVolumeSource{Server: "s", Path: "/"}}))}); err == nil ||
		!strings.Contains(err.Error(), "the node has no mount.nfs") {
		t.Error(err)
	}
}

func TestHostPathMakes(t *testing.T) {
	base := t.TempDir()
	for kind, check := range map[v1.HostPathType]func(os.FileInfo) bool{
		v1.HostPathUnset: os.FileInfo.IsDir, v1.HostPathDirectoryOrCreate: os.FileInfo.IsDir,
		v1.HostPathFileOrCreate: func(i os.FileInfo) bool { return i.Mode().IsRegular() },
	} {
		path := filepath.Join(base, "x"+string(kind))
		h := &v1.HostPathVolumeSource{Path: path, Type: &kind}
		for range 2 {
			if err := checkHostPath(h); err != nil {
				t.Errorf("%q: %v", kind, err)
			}
		}
		if info, err := os.Stat(path); err != nil || !check(info) {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if err := checkHostPath(&v1.HostPathVolumeSource{Path: "/dev/null", Type: new(v1.HostPathCharDev)}); err != nil {
		t.Error(err)
	}
}

func TestEmptyDirs(t *testing.T) {
	m := testManager(t, &cluster{})
	limit := resource.MustParse("1Mi")
	pod := podWith(volume("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}),
		volume("mem", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}))
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: new(int64(55))}
	out, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}})
	if err != nil {
		t.Fatal(err)
	}
	var st fileOwner
	if st.read(t, out.Volumes["disk"].Path); st != (fileOwner{0, 55, 0o777}) {
		t.Errorf("%+v", st)
	}
	if err := os.WriteFile(filepath.Join(out.Volumes["mem"].Path, "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("sizeLimit of a memory volume is not held")
	}
	if err := os.WriteFile(filepath.Join(out.Volumes["disk"].Path, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}}); err != nil || read(t, out.Volumes["disk"].Path, "f") != "kept" {
		t.Error(err)
	}
	if err := m.Unmount(t.Context(), "u1"); err != nil || mountPoint(out.Volumes["mem"].Path) {
		t.Errorf("still mounted: %v", err)
	}
}

func TestSubPaths(t *testing.T) {
	m := testManager(t, &cluster{})
	pod := podWith(volume("v", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}))
	out, err := m.Setup(t.Context(), Pod{Pod: pod, Facts: fields.Facts{}})
	if err != nil {
		t.Fatal(err)
	}
	dir := out.Volumes["v"].Path
	for link, target := range map[string]string{"out": "/etc", "up": "../../..", "in": "real"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(sub string) (string, error) {
		c := &v1.Container{Name: "app", VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "data", SubPathExpr: sub, ReadOnly: true}}}
		list, err := m.ContainerMounts(pod, c, out, func(s string) (string, error) { return s, nil })
		if err != nil {
			return "", err
		}
		if list[0].Destination != "/data" || !list[0].ReadOnly || list[0].Propagation != "rprivate" {
			t.Errorf("mount %+v", list[0])
		}
		return list[0].Source, nil
	}
	for _, sub := range []string{"out", "out/passwd", "up", "../x", "/etc", "out/new/dir", "real/../../x"} {
		if source, err := mount(sub); err == nil {
			t.Errorf("subPath %q leads out of the volume: %s", sub, source)
		}
	}
	for sub, where := range map[string]string{"a/b": "a/b", "in/c": "real/c", "real": "real"} {
		source, err := mount(sub)
		if err != nil {
			t.Errorf("%s: %v", sub, err)
			continue
		}
		if err := os.WriteFile(filepath.Join(source, "f"), []byte(sub), 0o600); err != nil {
			t.Error(err)
		}
		if read(t, dir, where, "f") != sub {
			t.Errorf("%s leads elsewhere", sub)
		}
	}
}

type fileOwner struct {
	uid, gid uint32
	mode     os.FileMode
}
