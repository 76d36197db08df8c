package admission

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
)

// Passes is what a mutating plug-in that users define has to know of the first pass in the second: it is a Note. What ran
// before the object changed, and wants to see that, runs again; everything else runs once.
type Passes struct {
	ran, again sets.Set[string]
	output     runtime.Object // the object after the first pass of the plug-in
}

// Begin starts a pass. Whatever else changed the object since the plug-in's own first pass counts as a change.
func (p *Passes) Begin(r *Request) {
	if r.Again && p.output != nil && !apiequality.Semantic.DeepEqual(p.output, r.Object) {
		p.rerun()
	}
}

// Runs tells whether key is to run in this pass.
func (p *Passes) Runs(r *Request, key string) bool { return !r.Again || p.again.Has(key) }

// Ran notes that key ran: whether it changed the object, and whether it wants to run again after changes of others.
func (p *Passes) Ran(r *Request, key string, changed, wants bool) {
	if changed {
		p.rerun()
		r.Reconsider()
	}
	if wants {
		p.ran = p.ran.Union(sets.New(key))
	}
}

func (p *Passes) rerun() {
	p.again = p.again.Union(p.ran)
	p.ran = nil
}

// End ends a pass.
func (p *Passes) End(r *Request) {
	if !r.Again && len(p.ran)+len(p.again) > 0 && r.Object != nil {
		p.output = r.Object.DeepCopyObject()
	}
}
