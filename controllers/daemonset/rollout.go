package daemonset

import (
	corev1 "k8s.io/api/core/v1"
)

// roll replaces pods of former templates. manage has nothing to do, so a place has at most one pod that stays, with surge two.
func (w *work) roll() {
	if surge := w.surge(); surge > 0 {
		w.rollAhead(surge)
		return
	}
	w.rollBehind(w.unavailable())
}

// pair gives the pods of a place that stay: the one of the present template and the former one. Not ok means that there are more.
func (w *work) pair(p *place) (fresh, old *corev1.Pod, ok bool) {
	for _, pod := range p.pods {
		at := &old
		if w.updated(pod) {
			at = &fresh
		}
		switch {
		case pod.DeletionTimestamp != nil:
		case *at != nil:
			return nil, nil, false
		default:
			*at = pod
		}
	}
	return fresh, old, true
}

// rollBehind deletes old pods, whose successors manage creates: those that do not serve at once, of the others as many as may be missing.
func (w *work) rollBehind(budget int) {
	var broken, sound []*corev1.Pod
	for _, name := range w.names {
		p := w.places[name]
		if !p.run && len(p.pods) == 0 {
			continue
		}
		fresh, old, ok := w.pair(p)
		switch {
		case !ok, (fresh == nil) == (old == nil):
			budget-- // manage will see to it
		case fresh != nil:
			if !w.available(fresh) {
				budget--
			}
		case !w.available(old):
			broken = append(broken, old)
			budget--
		default:
			sound = append(sound, old)
		}
	}
	w.deleteAsSeen(broken)
	w.delete(sound[:min(len(sound), max(0, budget))])
}

// rollAhead creates new pods beside old ones, and deletes an old one once its successor serves. Old ones that do not serve cost no surge.
// A pod on a node where none belongs any more goes once enough others serve.
func (w *work) rollAhead(budget int) {
	var free, paid []string
	var strays []*corev1.Pod
	serving := 0
	for _, name := range w.names {
		p := w.places[name]
		fresh, old, ok := w.pair(p)
		if !ok {
			budget--
			continue
		}
		if serves := old; serves != nil || fresh != nil {
			if serves == nil {
				serves = fresh
			}
			if w.available(serves) {
				serving++
			}
		}
		switch {
		case old == nil:
		case fresh == nil && !p.run && w.available(old):
			strays = append(strays, old)
		case fresh == nil && !p.run:
			w.delete([]*corev1.Pod{old})
		case fresh == nil && w.available(old):
			paid = append(paid, name)
		case fresh == nil:
			free = append(free, name)
		case w.available(fresh):
			w.delete([]*corev1.Pod{old})
		default:
			budget--
		}
	}
	w.delete(strays[:min(len(strays), max(0, serving-w.desired))])
	w.plan.create = append(append(w.plan.create, free...), paid[:min(len(paid), max(0, budget))]...)
}
