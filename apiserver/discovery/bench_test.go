package discovery

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// defined is what the i-th definition of many adds: a kind of two versions, ten kinds a group.
func defined(i int) (source string, table []kinds.Kind) {
	group, name := fmt.Sprintf("group%03d.example.com", i/10), fmt.Sprintf("thing%03d", i)
	for _, version := range []string{"v1", "v1beta1"} {
		table = append(table, kinds.Kind{
			GVK: schema.GroupVersionKind{Group: group, Version: version, Kind: "Thing"}, Resource: name + "s", Singular: name, Namespaced: true,
			Status: &kinds.Subresource{}, Dynamic: &kinds.Dynamic{StorageVersion: "v1"},
		})
	}
	return name + "s." + group, table
}

// withDefinitions is a handler that shows so many definitions.
func withDefinitions(tb testing.TB, many int) *Handler {
	tb.Helper()
	h, err := New(kinds.All())
	for i := 0; err == nil && i < many; i++ {
		err = h.SetKinds(defined(i))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// BenchmarkSetKinds is one change of one definition among 500, without and with a client that reads everything after it.
func BenchmarkSetKinds(b *testing.B) {
	for _, read := range []bool{false, true} {
		b.Run(fmt.Sprintf("read=%t", read), func(b *testing.B) {
			h := withDefinitions(b, 500)
			source, table := defined(250)
			for i := 0; b.Loop(); i++ {
				if err := h.SetKinds(source, table[:1+i%2]); err != nil {
					b.Fatal(err)
				}
				if read {
					get(b, h, "/apis", aggregatedType, "")
				}
			}
		})
	}
}

// TestIncremental: what changes one by one shows the same as what is made at once.
func TestIncremental(t *testing.T) {
	step := withDefinitions(t, 60)
	for i := range 60 {
		source, table := defined(i)
		switch i % 3 {
		case 0:
			table = nil
		case 1:
			table = table[:1]
		}
		if err := step.SetKinds(source, table); err != nil {
			t.Fatal(err)
		}
	}
	once := withDefinitions(t, 0)
	for source, table := range step.dynamic {
		once.dynamic[source] = table
	}
	if err := once.rebuild(); err != nil {
		t.Fatal(err)
	}
	for _, path := range once.Paths() {
		for _, accept := range []string{"application/json", aggregatedType} {
			want, got := get(t, once, path, accept, "").Body.String(), get(t, step, path, accept, "").Body.String()
			if want == "" || got != want {
				t.Errorf("%s as %s: %s, want %s", path, accept, got, want)
			}
		}
	}
	if len(step.Paths()) != len(once.Paths()) {
		t.Errorf("paths %v, want %v", step.Paths(), once.Paths())
	}
}
