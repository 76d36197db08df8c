package volumebinder

import (
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// recent gives the newest version known of each object: what the informer shows, or what this controller has written since. Without it a volume just
// bound would look free until the watch has caught up.
type recent[T metav1.Object] struct {
	// shown is what the informer shows.
	shown func(key string) (T, bool)

	mu      sync.Mutex
	written map[string]T
}

func newRecent[T metav1.Object](shown func(string) (T, bool)) *recent[T] {
	return &recent[T]{shown: shown, written: map[string]T{}}
}

// get is the object of key; false when the informer shows none.
func (r *recent[T]) get(key string) (T, bool) {
	obj, ok := r.shown(key)
	if !ok {
		r.forget(key)
		return obj, false
	}
	return r.newest(key, obj), true
}

// newest is obj, which the informer shows, or the version of it written here if that is newer.
func (r *recent[T]) newest(key string, obj T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	mine, ok := r.written[key]
	if !ok {
		return obj
	}
	if version(mine) > version(obj) {
		return mine
	}
	delete(r.written, key)
	return obj
}

// wrote notes the answer to a write.
func (r *recent[T]) wrote(key string, obj T) {
	r.mu.Lock()
	r.written[key] = obj
	r.mu.Unlock()
	r.get(key) // the watch may have been faster
}

func (r *recent[T]) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.written, key)
}

func version(o metav1.Object) uint64 {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}
