package attachdetach

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/volumes"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func name(handle, node string) string { return volumes.AttachmentName("d", handle, node) }

func volume(handle string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + handle}, Spec: corev1.PersistentVolumeSpec{
		AccessModes:            modes,
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: handle}},
	}}
}

func attachment(handle, node string, attached bool) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name(handle, node)}, Spec: storagev1.VolumeAttachmentSpec{NodeName: node},
		Status: storagev1.VolumeAttachmentStatus{Attached: attached},
	}
}

func node(ready bool, inUse ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if ready {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	}
	for _, handle := range inUse {
		n.Status.VolumesInUse = append(n.Status.VolumesInUse, volumes.UniqueName("d", handle))
	}
	return n
}

func outOfService(n *corev1.Node) *corev1.Node {
	n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	return n
}

func reporting(n *corev1.Node, handles ...string) *corev1.Node {
	for _, handle := range handles {
		n.Status.VolumesAttached = append(n.Status.VolumesAttached, corev1.AttachedVolume{Name: volumes.UniqueName("d", handle)})
	}
	return n
}

// show writes a plan with volumes' handles for names.
func (p plan) show(handles ...string) string {
	short := func(attachment string) string {
		for _, h := range handles {
			if name(h, "n") == attachment {
				return h
			}
		}
		return attachment
	}
	var parts []string
	for _, a := range p.detach {
		parts = append(parts, "detach "+short(a.Name))
	}
	for _, a := range p.attach {
		parts = append(parts, "attach "+short(a))
	}
	for _, a := range p.blocked {
		parts = append(parts, "blocked "+short(a))
	}
	if p.tell {
		parts = append(parts, "tell")
		for _, v := range p.report {
			_, handle, _ := volumes.ParseUniqueName(v.Name)
			parts = append(parts, handle)
		}
	}
	if p.again > 0 {
		parts = append(parts, fmt.Sprint("again in ", p.again))
	}
	return strings.Join(parts, " ")
}

func TestDecide(t *testing.T) {
	once, many := corev1.ReadWriteOnce, corev1.ReadWriteMany
	going := attachment("a", "n", true)
	going.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	type vas = []*storagev1.VolumeAttachment
	tests := []struct {
		name     string
		node     *corev1.Node
		wants    []*corev1.PersistentVolume
		attached vas
		others   vas
		unwanted time.Duration
		want     string
	}{
		{"nothing", node(true), nil, nil, nil, 0, ""},
		{"attach", node(true), []*corev1.PersistentVolume{volume("a", once)}, nil, nil, 0, "attach a"},
		{"no node", nil, []*corev1.PersistentVolume{volume("a", once)}, nil, nil, 0, ""},
		{"being attached", node(true), []*corev1.PersistentVolume{volume("a", once)}, vas{attachment("a", "n", false)}, nil, 0, ""},
		{"attached", node(true), []*corev1.PersistentVolume{volume("a", once)}, vas{attachment("a", "n", true)}, nil, 0, "tell a"},
		{"attached and told", reporting(node(true), "a"), []*corev1.PersistentVolume{volume("a", once)}, vas{attachment("a", "n", true)}, nil, 0, ""},
		{"attached elsewhere", node(true), []*corev1.PersistentVolume{volume("a", once)}, nil, vas{attachment("a", "m", true)}, 0, "blocked a"},
		{"attached elsewhere, shared", node(true), []*corev1.PersistentVolume{volume("a", once, many)}, nil, vas{attachment("a", "m", true)}, 0, "attach a"},
		{"wanted again while it goes", reporting(node(true), "a"), []*corev1.PersistentVolume{volume("a", once)}, vas{going}, nil, 0, "tell"},
		{"not wanted", reporting(node(true), "a"), nil, vas{attachment("a", "n", true)}, nil, 0, "detach a tell"},
		{"not wanted, not attached yet", node(true), nil, vas{attachment("a", "n", false)}, nil, 0, "detach a"},
		{"not wanted, in use", reporting(node(true, "a"), "a"), nil, vas{attachment("a", "n", true)}, nil, time.Hour, ""},
		{"not wanted, in use, node unready", reporting(node(false, "a"), "a"), nil, vas{attachment("a", "n", true)}, nil, time.Minute, "again in 5m0s"},
		{"not wanted, in use, node unready for long", reporting(node(false, "a"), "a"), nil, vas{attachment("a", "n", true)}, nil, 6 * time.Minute, "detach a tell"},
		{"not wanted, in use, out of service", outOfService(reporting(node(false, "a"), "a")), nil, vas{attachment("a", "n", true)}, nil, 0, "detach a tell"},
		{"not wanted, another in use", reporting(node(true, "b"), "a"), nil, vas{attachment("a", "n", true)}, nil, 0, "detach a tell"},
		{"node gone", nil, nil, vas{attachment("a", "n", true)}, nil, 0, "detach a"},
		{"volume object gone, told before", reporting(node(true, "a"), "a"), nil, vas{attachment("a", "n", true)}, nil, 0, ""},
		{"told of what is not there", reporting(node(true), "z"), nil, nil, nil, 0, "tell"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := snapshot{name: "n", node: tt.node, wants: map[string]want{}, attached: map[string]*storagev1.VolumeAttachment{}, others: map[string][]*storagev1.VolumeAttachment{}, now: now}
			for _, v := range tt.wants {
				key := name(v.Spec.CSI.VolumeHandle, "n")
				s.wants[key] = want{volume: v}
				s.others[key] = tt.others
			}
			for _, a := range tt.attached {
				s.attached[a.Name] = a
				if tt.unwanted > 0 {
					s.unwanted = map[string]time.Time{a.Name: now.Add(-tt.unwanted)}
				}
			}
			p := decide(s)
			if got := p.show("a", "b"); got != tt.want {
				t.Fatalf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestBlockedMessage(t *testing.T) {
	pod := func(namespace, name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	for want, holders := range map[string][]*corev1.Pod{
		"Volume is already exclusively attached to one node and can't be attached to another": nil,
		"Volume is already used by pod(s) a, b":                                               {pod("ns", "b"), pod("ns", "a")},
		"Volume is already used by pod(s) a and 1 pod(s) in different namespaces":             {pod("ns", "a"), pod("other", "b")},
		"Volume is already used by 1 pod(s) in different namespaces":                          {pod("other", "b")},
	} {
		if got := blockedMessage("v", pod("ns", "p"), holders); got != `Multi-Attach error for volume "v" `+want {
			t.Errorf("%q", got)
		}
	}
}

// TestVolumesMove lets pods come and go on three nodes, in any order with a driver that takes its time: a volume for one node at a time is never attached to
// two, a node that mounts keeps its volume, and in the end what is wanted is attached and nothing else.
func TestVolumesMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &moving{nodes: map[string]*corev1.Node{}, wants: map[string]map[string]bool{}, vas: map[string]*storagev1.VolumeAttachment{}}
		nodes, handles := []string{"l", "m", "n"}, []string{"a", "b"}
		for _, n := range nodes {
			w.nodes[n], w.wants[n] = node(true), map[string]bool{}
		}
		aNode, aHandle := rapid.SampledFrom(nodes), rapid.SampledFrom(handles)
		t.Repeat(map[string]func(*rapid.T){
			"":       w.check,
			"pod":    func(t *rapid.T) { w.wants[aNode.Draw(t, "node")][aHandle.Draw(t, "volume")] = true },
			"no pod": func(t *rapid.T) { delete(w.wants[aNode.Draw(t, "node")], aHandle.Draw(t, "volume")) },
			"driver": func(t *rapid.T) { w.drive(aHandle.Draw(t, "volume"), aNode.Draw(t, "node")) },
			"agent":  func(t *rapid.T) { w.mount(aNode.Draw(t, "node")) },
			"sync":   func(t *rapid.T) { w.sync(aNode.Draw(t, "node")) },
			"sync 2": func(t *rapid.T) { w.sync(aNode.Draw(t, "node")) },
		})
		for _, h := range handles { // one pod a volume is left
			for i, n := range nodes {
				delete(w.wants[n], h)
				if i == 1 {
					w.wants[n][h] = true
				}
			}
		}
		for range 10 {
			for _, n := range nodes {
				w.sync(n)
				w.mount(n)
				for _, h := range handles {
					w.drive(h, n)
				}
			}
		}
		w.check(t)
		if len(w.vas) != 2 || len(w.nodes["m"].Status.VolumesInUse) != 2 {
			t.Fatalf("%d attachments, %v in use", len(w.vas), w.nodes["m"].Status.VolumesInUse)
		}
	})
}

// moving is a cluster of nodes, each with an agent, and one driver.
type moving struct {
	nodes map[string]*corev1.Node
	wants map[string]map[string]bool
	vas   map[string]*storagev1.VolumeAttachment
}

func (w *moving) sync(n string) {
	s := snapshot{name: n, node: w.nodes[n], wants: map[string]want{}, attached: map[string]*storagev1.VolumeAttachment{}, others: map[string][]*storagev1.VolumeAttachment{}, now: now}
	for h := range w.wants[n] {
		key := volumes.AttachmentName("d", h, n)
		s.wants[key] = want{volume: volume(h, corev1.ReadWriteOnce)}
		for _, va := range w.vas {
			if va.Annotations["handle"] == h && va.Spec.NodeName != n {
				s.others[key] = append(s.others[key], va)
			}
		}
	}
	for key, va := range w.vas {
		if va.Spec.NodeName == n {
			s.attached[key] = va
		}
	}
	p := decide(s)
	if p.tell {
		w.nodes[n].Status.VolumesAttached = p.report
	}
	for _, va := range p.detach {
		va.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	}
	for _, key := range p.attach {
		va := attachment(s.wants[key].handle(), n, false)
		va.Annotations = map[string]string{"handle": s.wants[key].handle()}
		w.vas[key] = va
	}
}

// drive attaches a volume, or detaches it.
func (w *moving) drive(h, n string) {
	key := volumes.AttachmentName("d", h, n)
	switch va := w.vas[key]; {
	case va == nil:
	case va.DeletionTimestamp != nil:
		delete(w.vas, key)
	default:
		va.Status.Attached = true
	}
}

// mount is the agent: it mounts what is attached and has a pod, and unmounts what has none.
func (w *moving) mount(n string) {
	node := w.nodes[n]
	var inUse []corev1.UniqueVolumeName
	for _, h := range slices.Sorted(maps.Keys(w.wants[n])) {
		unique := volumes.UniqueName("d", h)
		mounted := slices.Contains(node.Status.VolumesInUse, unique)
		if mounted || slices.ContainsFunc(node.Status.VolumesAttached, func(v corev1.AttachedVolume) bool { return v.Name == unique }) {
			inUse = append(inUse, unique)
		}
	}
	node.Status.VolumesInUse = inUse
}

func (w *moving) check(t *rapid.T) {
	holders := map[string]string{}
	for _, va := range w.vas {
		h := va.Annotations["handle"]
		if other, ok := holders[h]; ok {
			t.Fatalf("%s is attached to %s and to %s", h, other, va.Spec.NodeName)
		}
		holders[h] = va.Spec.NodeName
	}
	for n, node := range w.nodes {
		for _, unique := range node.Status.VolumesInUse {
			_, h, _ := volumes.ParseUniqueName(unique)
			if va := w.vas[volumes.AttachmentName("d", h, n)]; va == nil || va.DeletionTimestamp != nil {
				t.Fatalf("%s was taken from %s, which has it mounted", h, n)
			}
		}
	}
}
