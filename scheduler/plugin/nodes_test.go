package plugin

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

// TestNodeSet: whatever happens while a request is under way, what the plug-in holds in the end is what it is to know.
func TestNodeSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, plugin, want := newNodeSet(), map[string]*corev1.Node{}, map[string]*corev1.Node{}
		var request *scheduling.SyncNodesRequest
		var sent []*corev1.Node
		revision := 100
		begin := func() {
			if request == nil {
				request, sent, _, _ = set.changes(scheduling.ObjectFormat_PROTOBUF)
			}
		}
		end := func() {
			if request == nil {
				return
			}
			if request.Base.Version == 0 {
				clear(plugin)
			}
			for _, name := range request.Removed {
				delete(plugin, name)
			}
			for _, node := range sent {
				plugin[node.Name] = node
			}
			set.took(request, sent)
			request = nil
		}
		names := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"want": func(t *rapid.T) {
				revision++
				node := nodes(names.Draw(t, "name"))[0]
				node.ResourceVersion = fmt.Sprint(revision)
				set.want([]*corev1.Node{node})
				want[node.Name] = node
			},
			"want what was": func(t *rapid.T) {
				if node := want[names.Draw(t, "name")]; node != nil {
					before := node.DeepCopy()
					before.ResourceVersion = "9"
					before.Annotations = map[string]string{"a": "former"}
					set.want([]*corev1.Node{before})
				}
			},
			"forget": func(t *rapid.T) {
				name := names.Draw(t, "name")
				set.forget(name)
				delete(want, name)
			},
			"begin": func(*rapid.T) { begin() },
			"end":   func(*rapid.T) { end() },
			"fail": func(*rapid.T) {
				if request != nil {
					set.startOver(request.Base.Session)
					request = nil
				}
			},
			"": func(*rapid.T) {},
		})
		// A question always has a candidate, with which a new session begins.
		last := nodes("last")
		set.want(last)
		want["last"] = last[0]
		for end(); !set.synced(); end() {
			begin()
		}
		if len(plugin) != len(want) {
			t.Fatalf("the plug-in has %d nodes, want %d", len(plugin), len(want))
		}
		for name, node := range want {
			if plugin[name] != node {
				t.Fatalf("the plug-in's %s is revision %v, want %s", name, plugin[name], node.ResourceVersion)
			}
		}
	})
}
