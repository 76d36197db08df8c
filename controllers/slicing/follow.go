package slicing

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/loop"
)

// Follow indexes slices under that name by the loop's keys, which keys gives, and wakes the keys of a slice that changes: after our own write
// to go on if the informer was behind, after a stranger's to put it right. A slice that was given another key concerns both.
func Follow(l *loop.Loop, lag *loop.Lag, slices cache.SharedIndexInformer, name string, keys cache.IndexFunc) error {
	loop.On(l, slices, func(old, cur *discoveryv1.EndpointSlice) {
		lag.Saw(loop.Either(cur, old).ResourceVersion)
		for _, slice := range []*discoveryv1.EndpointSlice{old, cur} {
			if slice == nil {
				continue
			}
			if found, _ := keys(slice); len(found) > 0 {
				l.AddPaced(found[0])
			}
		}
	})
	return slices.AddIndexers(cache.Indexers{name: keys})
}
