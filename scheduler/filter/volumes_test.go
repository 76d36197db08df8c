package filter

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/volumes"
	"github.com/coracle-dev/coracle/scheduler/model"
	"github.com/coracle-dev/coracle/scheduler/schedulertest"
)

func gibibytes(n string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(n + "Gi")}
}

// claim is of 1 GiB, class "later", and not bound.
func claim(name string, changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("later"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: gibibytes("1")},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func boundTo(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Status.Phase = volume, corev1.ClaimBound
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.BindCompleted, "yes")
	}
}

func selected(node string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumes.SelectedNode, node)
	}
}

func sized(n string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = gibibytes(n) }
}

func ofClass(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func withMode(mode corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{mode} }
}

// volume is of class "later", and of 1 GiB.
func volume(name string, changes ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: "later", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: gibibytes("1"),
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, change := range changes {
		change(v)
	}
	return v
}

func reachable(key string, values ...string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}},
		}}}}
	}
}

func reservedFor(claim string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: claim}
	}
}

func csi(driver, handle string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}
	}
}

func labelled(key, value string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { v.Labels = map[string]string{key: value} }
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode, changes ...func(*storagev1.StorageClass)) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
	for _, change := range changes {
		change(c)
	}
	return c
}

func onlyIn(zones ...string) func(*storagev1.StorageClass) {
	return func(c *storagev1.StorageClass) {
		c.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: zones}}}}
	}
}

func tracked(name string) *storagev1.CSIDriver {
	return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(true)}}
}

func capacity(name, class, zone, have, most string) *storagev1.CSIStorageCapacity {
	c := &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, StorageClassName: class, Capacity: ptr.To(resource.MustParse(have + "Gi")),
		NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: zone}},
	}
	if most != "" {
		c.MaximumVolumeSize = ptr.To(resource.MustParse(most + "Gi"))
	}
	return c
}

func limits(node, driver string, count int32) *storagev1.CSINode {
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
		Name: driver, Allocatable: &storagev1.VolumeNodeResources{Count: &count}}}}}
}

// using makes a pod that uses claims.
func using(name string, claims ...string) *corev1.Pod {
	return schedulertest.Pod(name, "", "", func(p *corev1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
		}
	})
}

// having makes a pod with a volume of its own.
func having(name string, source corev1.VolumeSource) *corev1.Pod {
	return schedulertest.Pod(name, "", "", func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}} })
}

// placed puts a pod on a node.
type placed struct {
	pod  *corev1.Pod
	node string
}

// cluster has the nodes a in zone one and b in zone two, and the objects.
func cluster(objects ...any) *model.Cluster {
	c := model.New()
	for name, zone := range map[string]string{"a": "one", "b": "two"} {
		c.SetNode(schedulertest.Node(name, "4", "4Gi", func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = zone }))
	}
	c.SetStorageClass(class("later", volumes.NoProvisioner, storagev1.VolumeBindingWaitForFirstConsumer))
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.PersistentVolumeClaim:
			c.SetClaim(o)
		case *corev1.PersistentVolume:
			c.SetVolume(o)
		case *storagev1.StorageClass:
			c.SetStorageClass(o)
		case *storagev1.CSIDriver:
			c.SetCSIDriver(o)
		case *storagev1.CSINode:
			c.SetCSINode(o)
		case *storagev1.CSIStorageCapacity:
			c.SetStorageCapacity(o)
		case *storagev1.VolumeAttachment:
			c.SetAttachment(o)
		case placed:
			c.SetPod(model.NewPod(o.pod), o.node)
		}
	}
	return c
}

// ask gives what the filter says: "skip", what it has against the pod, or what it has against each node.
func ask(t *testing.T, name string, pod *corev1.Pod, c *model.Cluster) string {
	t.Helper()
	f, err := New(name, Args{})
	if err != nil {
		t.Fatal(err)
	}
	show := func(r *Rejection) string {
		if r.Final {
			return strings.Join(r.Reasons, ", ") + "!"
		}
		return strings.Join(r.Reasons, ", ")
	}
	scope := f.Prepare(model.NewPod(pod), c)
	switch {
	case scope.Skip:
		return "skip"
	case scope.Rejected != nil:
		return show(scope.Rejected)
	}
	var said []string
	for _, node := range []string{"a", "b"} {
		if r := f.Check(c.Node(node)); r != nil {
			said = append(said, node+": "+show(r))
		}
	}
	return strings.Join(said, "; ")
}

const (
	none    = "node(s) didn't find available persistent volumes to bind!"
	outside = "node(s) didn't match PersistentVolume's node affinity!"
	full    = "node(s) did not have enough free storage!"
)

func TestVolumeBinding(t *testing.T) {
	hostname := corev1.LabelHostname
	immediate := class("now", "d.io", storagev1.VolumeBindingImmediate)
	dynamic := class("dynamic", "d.io", storagev1.VolumeBindingWaitForFirstConsumer)
	ephemeral := having("p", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}})
	deleting := claim("c", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) })
	lost := claim("c", boundTo("v"), func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })
	tests := []struct {
		name string
		pod  *corev1.Pod
		c    *model.Cluster
		want string
	}{
		{"no claims", using("p"), cluster(), "skip"},
		{"no such claim", using("p", "c"), cluster(), `persistentvolumeclaim "c" not found!`},
		{"not made yet", ephemeral, cluster(), `waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v"!`},
		{"made for another", ephemeral, cluster(claim("p-v")), "PVC default/p-v was not created for pod default/p (pod is not owner)!"},
		{"being deleted", using("p", "c"), cluster(deleting), `persistentvolumeclaim "c" is being deleted!`},
		{"lost", using("p", "c"), cluster(lost), `persistentvolumeclaim "c" bound to non-existent persistentvolume "v"!`},
		{"must be bound first", using("p", "c"), cluster(claim("c", ofClass("now")), immediate), "pod has unbound immediate PersistentVolumeClaims!"},
		{"of no class", using("p", "c"), cluster(claim("c", ofClass(""))), "pod has unbound immediate PersistentVolumeClaims!"},
		{"names its volume", using("p", "c"), cluster(claim("c", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" })), "pod has unbound immediate PersistentVolumeClaims!"},
		{"bound", using("p", "c"), cluster(claim("c", boundTo("v")), volume("v")), ""},
		{"bound to one node's", using("p", "c"), cluster(claim("c", boundTo("v")), volume("v", reachable(hostname, "b"))), "a: " + outside},
		{"bound to nothing", using("p", "c"), cluster(claim("c", boundTo("v"))), "a: node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)!; b: node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)!"},
		{"no volume", using("p", "c"), cluster(claim("c")), "a: " + none + "; b: " + none},
		{"a volume anywhere", using("p", "c"), cluster(claim("c"), volume("v")), ""},
		{"a volume in one zone", using("p", "c"), cluster(claim("c"), volume("v", reachable(corev1.LabelTopologyZone, "two"))), "a: " + none},
		{"a volume on one node", using("p", "c"), cluster(claim("c"), volume("v", reachable(hostname, "a"))), "b: " + none},
		{"a volume of another", using("p", "c"), cluster(claim("c"), volume("v", reservedFor("other"))), "a: " + none + "; b: " + none},
		{"its own volume on one node", using("p", "c"), cluster(claim("c"), volume("v", reservedFor("c"), reachable(hostname, "a")), volume("w")), "b: " + none},
		{"two claims, one volume each", using("p", "c", "d"), cluster(claim("c"), claim("d"), volume("v", reachable(hostname, "a")), volume("w")), "b: " + none},
		{"the smaller takes the smaller", using("p", "big", "small"), cluster(claim("small"), claim("big", sized("2")), volume("v"), volume("w", func(v *corev1.PersistentVolume) { v.Spec.Capacity = gibibytes("2") })), ""},
		{"provisioned", using("p", "c"), cluster(claim("c", ofClass("dynamic")), dynamic), ""},
		{"provisioned in one zone", using("p", "c"), cluster(claim("c", ofClass("zonal")), class("zonal", "d.io", storagev1.VolumeBindingWaitForFirstConsumer, onlyIn("two", "three"))), "a: " + none},
		{"being provisioned", using("p", "c"), cluster(claim("c", ofClass("dynamic"), selected("a")), dynamic, volume("v")), "b: " + none},
		{"capacity is told", using("p", "c"), cluster(claim("c", ofClass("dynamic"), sized("5")), dynamic, tracked("d.io"), capacity("x", "dynamic", "one", "9", ""), capacity("y", "dynamic", "two", "4", ""), capacity("z", "other", "two", "9", "")), "b: " + full},
		{"capacity, but no volume as large", using("p", "c"), cluster(claim("c", ofClass("dynamic"), sized("5")), dynamic, tracked("d.io"), capacity("x", "dynamic", "one", "9", "4"), capacity("y", "dynamic", "two", "3", "7")), "a: " + full},
		{"capacity is not told", using("p", "c"), cluster(claim("c", ofClass("dynamic")), dynamic, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d.io"}}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ask(t, "VolumeBinding", tt.pod, tt.c); got != tt.want {
				t.Fatalf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestVolumeZone(t *testing.T) {
	zone, old := corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone
	const other = "node(s) had no available volume zone!"
	bare := cluster(claim("c", boundTo("v")), volume("v", labelled(zone, "one")))
	bare.SetNode(schedulertest.Node("b", "4", "4Gi"))
	for name, tt := range map[string]struct {
		c    *model.Cluster
		want string
	}{
		"no label":            {cluster(claim("c", boundTo("v")), volume("v", labelled("k", "one"))), "skip"},
		"not bound":           {cluster(claim("c")), "skip"},
		"one zone":            {cluster(claim("c", boundTo("v")), volume("v", labelled(zone, "one"))), "b: " + other},
		"several":             {cluster(claim("c", boundTo("v")), volume("v", labelled(zone, "two__three"))), "a: " + other},
		"by its old name":     {cluster(claim("c", boundTo("v")), volume("v", labelled(old, "one"))), "b: " + other},
		"a node without zone": {bare, ""},
	} {
		if got := ask(t, "VolumeZone", using("p", "c"), tt.c); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestVolumeRestrictions(t *testing.T) {
	const taken = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
	const disk = "a: node(s) had no available disk"
	gce := func(name string, readOnly bool) corev1.VolumeSource {
		return corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: name, ReadOnly: readOnly}}
	}
	ebs := corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "x", ReadOnly: true}}
	rbd := func(image string, monitors ...string) corev1.VolumeSource {
		return corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{CephMonitors: monitors, RBDImage: image}}
	}
	iscsi := func(iqn string) corev1.VolumeSource {
		return corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{IQN: iqn}}
	}
	once := claim("c", boundTo("v"), withMode(corev1.ReadWriteOncePod))
	for name, tt := range map[string]struct {
		pod  *corev1.Pod
		c    *model.Cluster
		want string
	}{
		"no volumes":                  {using("p"), cluster(), "skip"},
		"shared":                      {using("p", "c"), cluster(claim("c", boundTo("v")), placed{using("q", "c"), "a"}), "skip"},
		"for one pod":                 {using("p", "c"), cluster(once), ""},
		"for one pod, taken":          {using("p", "c"), cluster(once, placed{using("q", "c"), "a"}), "a: " + taken + "; b: " + taken},
		"another's":                   {using("p", "c"), cluster(once, placed{using("q", "d"), "a"}), ""},
		"a disk twice":                {having("p", gce("x", true)), cluster(placed{having("q", gce("x", false)), "a"}), disk},
		"a disk twice, only read":     {having("p", gce("x", true)), cluster(placed{having("q", gce("x", true)), "a"}), ""},
		"two disks":                   {having("p", gce("x", false)), cluster(placed{having("q", gce("y", false)), "a"}), ""},
		"a disk twice, even read":     {having("p", ebs), cluster(placed{having("q", ebs), "a"}), disk},
		"an image twice":              {having("p", rbd("i", "m", "n")), cluster(placed{having("q", rbd("i", "n", "o")), "a"}), disk},
		"images of two clusters":      {having("p", rbd("i", "m")), cluster(placed{having("q", rbd("i", "o")), "a"}), ""},
		"a target twice":              {having("p", iscsi("i")), cluster(placed{having("q", iscsi("i")), "a"}), disk},
		"disks of two kinds together": {having("p", iscsi("i")), cluster(placed{having("q", ebs), "a"}), ""},
	} {
		if got := ask(t, "VolumeRestrictions", tt.pod, tt.c); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestNodeVolumeLimits(t *testing.T) {
	const limit = "a: node(s) exceed max volume count"
	base := []any{
		limits("a", "d.io", 2), class("dynamic", "d.io", storagev1.VolumeBindingWaitForFirstConsumer),
		claim("c1", boundTo("v1")), volume("v1", csi("d.io", "1")), claim("c2", boundTo("v2")), volume("v2", csi("d.io", "2")),
		claim("c3", boundTo("v3")), volume("v3", csi("d.io", "3")), claim("same", boundTo("v4")), volume("v4", csi("d.io", "2")),
		claim("else", boundTo("v5")), volume("v5", csi("e.io", "2")), claim("new", ofClass("dynamic")), claim("plain", boundTo("v6")), volume("v6"),
	}
	for name, tt := range map[string]struct {
		pod  *corev1.Pod
		on   *corev1.Pod
		want string
	}{
		"no CSI volume":         {using("p", "plain"), using("q", "c1", "c2"), "skip"},
		"there is room":         {using("p", "c2"), using("q", "c1"), ""},
		"there is none":         {using("p", "c3"), using("q", "c1", "c2"), limit},
		"it is there already":   {using("p", "same"), using("q", "c1", "c2"), ""},
		"of another driver":     {using("p", "else"), using("q", "c1", "c2"), ""},
		"two at once":           {using("p", "c2", "c3"), using("q", "c1"), limit},
		"yet to be made":        {using("p", "new"), using("q", "c1", "c2"), limit},
		"both yet to be made":   {using("p", "c3"), using("q", "c1", "new"), limit},
		"others do not count":   {using("p", "c3"), using("q", "c1", "else", "plain"), ""},
		"shared and to be made": {using("p", "new"), using("q", "c1", "new"), ""},
	} {
		if got := ask(t, "NodeVolumeLimits", tt.pod, cluster(append(base, placed{tt.on, "a"})...)); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func attachment(volume, node string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: volume + node}, Spec: storagev1.VolumeAttachmentSpec{
		NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume}}}
}

func TestAttachedVolumesCount(t *testing.T) {
	left := attachment("v2", "a") // its pod is gone
	c := cluster(limits("a", "d.io", 2), claim("c1", boundTo("v1")), volume("v1", csi("d.io", "1")), volume("v2", csi("d.io", "2")),
		claim("c3", boundTo("v3")), volume("v3", csi("d.io", "3")), attachment("v1", "a"), left, placed{using("q", "c1"), "a"})
	if got := ask(t, "NodeVolumeLimits", using("p", "c3"), c); got != "a: node(s) exceed max volume count" {
		t.Fatal(got)
	}
	c.RemoveAttachment(left)
	if got := ask(t, "NodeVolumeLimits", using("p", "c3"), c); got != "" {
		t.Fatal(got)
	}
}

func TestVolumesHelp(t *testing.T) {
	pod, other := model.NewPod(using("p", "c")), model.NewPod(using("q", "d"))
	sharing := model.NewPod(using("r", "c"))
	stored := func(object any) *Event { return &Event{Kind: StorageChanged, Object: object} }
	node := schedulertest.Node("a", "1", "1Gi")
	moved := schedulertest.Node("a", "1", "1Gi", func(n *corev1.Node) { n.Labels["k"] = "v" })
	for _, tt := range []struct {
		filter string
		event  *Event
		want   bool
	}{
		{"VolumeBinding", stored(claim("c")), true},
		{"VolumeBinding", stored(claim("d")), false},
		{"VolumeBinding", stored(volume("v")), true},
		{"VolumeBinding", &Event{Kind: PodGone, Pod: sharing}, false},
		{"VolumeBinding", &Event{Kind: NodeChanged, OldNode: node, Node: moved}, true},
		{"VolumeBinding", &Event{Kind: NodeChanged, OldNode: node, Node: node}, false},
		{"VolumeZone", stored(claim("d")), false},
		{"VolumeZone", stored(volume("v")), true},
		{"VolumeZone", stored(tracked("d")), false},
		{"VolumeRestrictions", &Event{Kind: PodGone, Pod: sharing}, true},
		{"VolumeRestrictions", &Event{Kind: PodGone, Pod: other}, false},
		{"NodeVolumeLimits", &Event{Kind: PodGone, Pod: other}, true},
		{"NodeVolumeLimits", &Event{Kind: PodGone, Pod: model.NewPod(using("s"))}, false},
		{"NodeVolumeLimits", stored(limits("a", "d", 1)), true},
		{"NodeVolumeLimits", stored(volume("v")), false},
		{"NodeVolumeLimits", stored(attachment("v", "a")), true},
		{"VolumeBinding", stored(attachment("v", "a")), false},
		{"NodeVolumeLimits", &Event{Kind: NodeAdded, Node: node}, true},
	} {
		f, err := New(tt.filter, Args{})
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Helps(pod, tt.event); got != tt.want {
			t.Errorf("%s: %+v: %v", tt.filter, tt.event, got)
		}
	}
}
