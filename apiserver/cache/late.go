package cache

import (
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// lateFields are an object's fields whose values are found out when a selector asks for them.
type lateFields struct {
	object runtime.Object
	find   func(runtime.Object, string) string
	mu     sync.Mutex
	known  fields.Set
}

// isLate tells late labels from those that an object has from the start.
func isLate(label string) bool { return strings.Contains(label, ":") }

func (l *lateFields) get(label string) string {
	l.mu.Lock()
	v, ok := l.known[label]
	l.mu.Unlock()
	if ok {
		return v
	}
	v = l.find(l.object, label) // not under the lock: it may take long
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[label] = v
	return v
}

// seen is an object's fields as selectors look at them.
type seen struct{ o *Object }

func (s seen) Has(label string) bool { return isLate(label) || s.o.Fields.Has(label) }

func (s seen) Get(label string) string {
	if isLate(label) {
		return s.o.late.get(label)
	}
	return s.o.Fields.Get(label)
}

func (o *Object) fieldsSeen() fields.Fields {
	if o.late == nil {
		return o.Fields
	}
	return seen{o}
}
