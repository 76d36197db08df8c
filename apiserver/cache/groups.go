package cache

import (
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// groupKey is what a group of watchers has in common, as narrow as can be looked up from an event: one
// field's value, or else a scope, or else nothing.
type groupKey struct{ scope, field, value string }

// group is the watchers that the same events concern.
type group struct {
	key    groupKey
	refs   int
	signal *signal
}

// signal wakes the sleeping watchers of a group, once. first is the sequence number of the event that woke
// them: whatever came before it while they slept does not concern them. It is set before ch is closed.
type signal struct {
	ch    chan struct{}
	used  atomic.Bool // some watcher sleeps on it
	first uint64
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

// groups indexes a table's watchers, so that an event costs nothing for those whom it cannot concern.
// Guarded by the table's lock.
type groups struct {
	byKey  map[groupKey]*group
	fields map[string]int // how many groups there are by each field
	scopes int            // how many groups there are by scope
}

func newGroups() groups {
	return groups{byKey: map[groupKey]*group{}, fields: map[string]int{}}
}

func keyOf(scope string, f fields.Selector) groupKey {
	if field, value, ok := exactField(f); ok {
		return groupKey{field: field, value: value}
	}
	return groupKey{scope: scope}
}

func (g *groups) join(k groupKey) *group {
	gr := g.byKey[k]
	if gr == nil {
		gr = &group{key: k, signal: newSignal()}
		g.byKey[k] = gr
		if k.field != "" {
			g.fields[k.field]++
		} else if k.scope != "" {
			g.scopes++
		}
	}
	gr.refs++
	return gr
}

func (g *groups) leave(gr *group) {
	if gr.refs--; gr.refs > 0 {
		return
	}
	delete(g.byKey, gr.key)
	if f := gr.key.field; f != "" {
		if g.fields[f]--; g.fields[f] == 0 {
			delete(g.fields, f)
		}
	} else if gr.key.scope != "" {
		g.scopes--
	}
}

// concern appends to wake the signals of the groups that a change to the object at path (its key below the
// resource's prefix) concerns. The change has the sequence number seq.
func (g *groups) concern(wake []*signal, path string, c *change, seq uint64) []*signal {
	wake = g.wake(wake, groupKey{}, seq)
	if g.scopes > 0 {
		if i := strings.IndexByte(path, '/'); i >= 0 {
			wake = g.wake(wake, groupKey{scope: path[:i+1]}, seq)
		}
	}
	for f := range g.fields {
		var now, was string
		if c.cur != nil {
			now = c.cur.Fields[f]
			wake = g.wake(wake, groupKey{field: f, value: now}, seq)
		}
		if c.prev != nil {
			if was = c.prev.Fields[f]; c.cur == nil || was != now {
				wake = g.wake(wake, groupKey{field: f, value: was}, seq)
			}
		}
	}
	return wake
}

func (g *groups) wake(wake []*signal, k groupKey, seq uint64) []*signal {
	gr := g.byKey[k]
	if gr == nil || !gr.signal.used.Load() {
		return wake
	}
	s := gr.signal
	s.first = seq
	gr.signal = newSignal()
	return append(wake, s)
}

func wakeAll(signals []*signal) {
	for _, s := range signals {
		close(s.ch)
	}
}

// selector is what a caller selects by; nil parts select everything.
type selector struct {
	scope  string // a whole key's prefix, or empty
	labels labels.Selector
	fields fields.Selector
}

// compiled is a selector without its empty parts; nil matches everything.
type compiled selector

func (s selector) compile() *compiled {
	if s.labels != nil && s.labels.Empty() {
		s.labels = nil
	}
	if s.fields != nil && s.fields.Empty() {
		s.fields = nil
	}
	if s == (selector{}) {
		return nil
	}
	return (*compiled)(&s)
}

func (c *compiled) matches(o *Object) bool {
	if c == nil {
		return true
	}
	return strings.HasPrefix(o.Key, c.scope) &&
		(c.labels == nil || c.labels.Matches(o.Labels)) &&
		(c.fields == nil || c.fields.Matches(o.fieldsSeen()))
}
