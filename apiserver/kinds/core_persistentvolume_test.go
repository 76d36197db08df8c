package kinds

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func storageOf(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

func volumeWith(change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v", ResourceVersion: "1"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: storageOf("1Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.example.com", VolumeHandle: "h"}},
	}}
	if change != nil {
		change(pv)
	}
	defaultPersistentVolume(pv)
	return pv
}

func TestPersistentVolume(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*corev1.PersistentVolume)
		want   []string
	}{
		{"plain", nil, nil},
		{"no source", func(v *corev1.PersistentVolume) { v.Spec.CSI = nil }, []string{"spec: Required value: must specify a volume type"}},
		{"two sources", func(v *corev1.PersistentVolume) { v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/a"} },
			[]string{"spec.csi: Forbidden: may not specify more than 1 volume type"}},
		{"no modes", func(v *corev1.PersistentVolume) { v.Spec.AccessModes = nil }, []string{"spec.accessModes: Required value"}},
		{"mode alone", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteOncePod)
		},
			[]string{"spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"}},
		{"nothing in it", func(v *corev1.PersistentVolume) { v.Spec.Capacity = storageOf("0") }, []string{`spec.capacity[storage]: Invalid value: "0": must be greater than zero`}},
		{"policy", func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = "Keep" },
			[]string{`spec.persistentVolumeReclaimPolicy: Unsupported value: "Keep": supported values: "Delete", "Recycle", "Retain"`}},
		{"recycled root", func(v *corev1.PersistentVolume) {
			v.Spec.CSI, v.Spec.HostPath, v.Spec.PersistentVolumeReclaimPolicy = nil, &corev1.HostPathVolumeSource{Path: "/./"}, "Recycle"
		}, []string{"spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"}},
		{"local", func(v *corev1.PersistentVolume) {
			v.Spec.CSI, v.Spec.Local = nil, &corev1.LocalVolumeSource{Path: "/a/../b"}
		},
			[]string{`spec.local.path: Invalid value: "/a/../b": must not contain '..'`, "spec.nodeAffinity: Required value: Local volume requires node affinity"}},
		{"secret", func(v *corev1.PersistentVolume) { v.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Name: "s"} },
			[]string{"spec.csi.nodePublishSecretRef.namespace: Required value"}},
		{"attributes class without a driver", func(v *corev1.PersistentVolume) {
			v.Spec.CSI, v.Spec.NFS, v.Spec.VolumeAttributesClassName = nil, &corev1.NFSVolumeSource{Server: "s", Path: "/"}, ptr("fast")
		}, []string{"spec.csi: Required value: has to be specified when using volumeAttributesClassName"}},
		{"affinity", func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{} },
			[]string{"spec.nodeAffinity.required: Required value: must specify required node constraints"}},
	} {
		t.Run(c.name, func(t *testing.T) { mustSay(t, validatePersistentVolume(volumeWith(c.change)), c.want...) })
	}
}

func onNode(key string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpExists}}}}}}
	}
}

func TestPersistentVolumeUpdate(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new func(*corev1.PersistentVolume)
		want     []string
	}{
		{"same", nil, nil, nil},
		{"source", nil, func(v *corev1.PersistentVolume) { v.Spec.CSI.VolumeHandle = "other" },
			[]string{"spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"}},
		{"secret once", nil, func(v *corev1.PersistentVolume) {
			v.Spec.CSI.ControllerExpandSecretRef = &corev1.SecretReference{Name: "s", Namespace: "n"}
		}, nil},
		{"grows", nil, func(v *corev1.PersistentVolume) { v.Spec.Capacity = storageOf("2Gi") }, nil},
		{"mode", nil, func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock) }, []string{`volumeMode: Invalid value: "Block": field is immutable`}},
		{"affinity set", nil, onNode("a"), nil},
		{"affinity renamed", onNode("failure-domain.beta.kubernetes.io/zone"), onNode("topology.kubernetes.io/zone"), nil},
		{"affinity changed", onNode("a"), onNode("b"), []string{"nodeAffinity: Invalid value"}},
		{"attributes class dropped", func(v *corev1.PersistentVolume) { v.Spec.VolumeAttributesClassName = ptr("a") }, nil,
			[]string{"spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mustSay(t, validatePersistentVolumeUpdate(volumeWith(c.new), volumeWith(c.old)), c.want...)
		})
	}
}

func boundClaim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: "v",
			StorageClassName: ptr("s"), Resources: corev1.VolumeResourceRequirements{Requests: storageOf("2Gi")}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storageOf("1Gi")},
	}
	if change != nil {
		change(c)
	}
	defaultClaim(c)
	return c
}

func TestClaimUpdate(t *testing.T) {
	const fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
	size := func(s string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = storageOf(s) }
	}
	pending := func(then func(*corev1.PersistentVolumeClaim)) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeName, c.Spec.StorageClassName, c.Status = "", nil, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			then(c)
		}
	}
	for _, c := range []struct {
		name     string
		old, new func(*corev1.PersistentVolumeClaim)
		want     []string
	}{
		{"grows", nil, size("3Gi"), nil},
		{"takes growth back", nil, size("1500Mi"), nil},
		{"shrinks", nil, size("1Gi"), []string{"spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"}},
		{"pending grows", pending(func(*corev1.PersistentVolumeClaim) {}), pending(size("3Gi")), []string{fixed}},
		{"gets a volume and a class", pending(func(*corev1.PersistentVolumeClaim) {}), pending(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeName, c.Spec.StorageClassName = "v", ptr("s")
		}), nil},
		{"another class", nil, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr("t") }, []string{fixed}},
		{"other modes", nil, func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteMany }, []string{fixed}},
		{"attributes", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr("a") },
			func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr("b") }, nil},
		{"no attributes", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr("a") }, nil,
			[]string{"spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"}},
		{"annotation", nil, func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{"volume.beta.kubernetes.io/storage-class": "x"}
		}, []string{`metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: "x": field is immutable`}},
	} {
		t.Run(c.name, func(t *testing.T) { mustSay(t, validateClaimUpdate(boundClaim(c.new), boundClaim(c.old)), c.want...) })
	}
}

func TestClaimDataSources(t *testing.T) {
	group := "snapshot.storage.k8s.io"
	c := boundClaim(func(c *corev1.PersistentVolumeClaim) {
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "s"}
	})
	prepareClaimCreate(c)
	if r := c.Spec.DataSourceRef; r == nil || *r.APIGroup != group || r.Kind != "VolumeSnapshot" || r.Name != "s" || c.Status.Phase != corev1.ClaimPending || c.Status.Capacity != nil {
		t.Errorf("the newer field: %+v, status %+v", r, c.Status)
	}
	c.Spec.DataSource, c.Spec.DataSourceRef = &corev1.TypedLocalObjectReference{APIGroup: ptr("example.com"), Kind: "Thing", Name: "s"}, nil
	prepareClaimCreate(c)
	if c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		t.Error("anything can be a source by the older field")
	}
	c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "s", Namespace: ptr("other")}
	prepareClaimCreate(c)
	if c.Spec.DataSourceRef != nil {
		t.Error("a source in another namespace, which is a feature that is off, is kept")
	}
}

func TestVolumeCells(t *testing.T) {
	pv := volumeWith(func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef, v.Spec.StorageClassName = &corev1.ObjectReference{Namespace: "n", Name: "c"}, "s"
		v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadWriteOnce}
	})
	want := []any{"v", "1Gi", "RWO,RWX", "Retain", "Pending", "n/c", "s", "<unset>", "", "<unknown>", "Filesystem"}
	if got := persistentVolumeCells(pv, now); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	want = []any{"c", "Bound", "v", "1Gi", "", "s", "<unset>", "<unknown>", "Filesystem"}
	if got := claimCells(boundClaim(nil), now); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestStorageObjects(t *testing.T) {
	class := func(change func(*storagev1.StorageClass)) *storagev1.StorageClass {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "s", ResourceVersion: "1"}, Provisioner: "p.example.com"}
		change(c)
		storageClasses().Default(c)
		return c
	}
	plain := class(func(*storagev1.StorageClass) {})
	mustSay(t, validateStorageClass(class(func(c *storagev1.StorageClass) {
		c.Provisioner, c.ReclaimPolicy, c.VolumeBindingMode = "", ptr(corev1.PersistentVolumeReclaimRecycle), ptr(storagev1.VolumeBindingMode("Now"))
	})), "provisioner: Required value", `reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"`,
		`volumeBindingMode: Unsupported value: "Now": supported values: "Immediate", "WaitForFirstConsumer"`)
	mustSay(t, validateStorageClassUpdate(class(func(c *storagev1.StorageClass) {
		c.Provisioner, c.Parameters, c.ReclaimPolicy = "q", map[string]string{"a": "b"}, ptr(corev1.PersistentVolumeReclaimRetain)
	}), plain), "parameters: Forbidden: updates to parameters are forbidden.", "provisioner: Forbidden: updates to provisioner are forbidden.",
		"reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.")
	row := storageClasses().Cells(class(func(c *storagev1.StorageClass) {
		c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	}), now)
	if row[0] != "s (default)" || row[4] != false {
		t.Errorf("row %v", row)
	}

	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{Attacher: "d.example.com", NodeName: "n"}}
	mustSay(t, validateVolumeAttachment(attachment), "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName")

	node := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
		{Name: "d.example.com", NodeID: strings.Repeat("x", 257)}, {Name: "d.example.com", NodeID: "x"}}}}
	mustSay(t, validateCSINode(node, nil), `spec.drivers[0].nodeID: Invalid value`, `spec.drivers[1].name: Duplicate value: "d.example.com"`)

	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{
		TokenRequests: []storagev1.TokenRequest{{Audience: "a", ExpirationSeconds: ptr(int64(10))}, {Audience: "a"}}}}
	defaultCSIDriver(driver)
	mustSay(t, validateCSIDriver(driver), "spec.tokenRequests[0].expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes",
		`spec.tokenRequests[1].audience: Duplicate value: "a"`)

	mustSay(t, validateVolumeAttributesClass(&storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "v"}, DriverName: "d"}),
		"parameters: Required value: must contain at least one key/value pair")
}
