package endpointslice

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// maxEndpoints is how many endpoints a slice holds at most.
const maxEndpoints = 100

// snapshot is what one decision rests on.
type snapshot struct {
	service *corev1.Service
	// pods are those that the service selects.
	pods []*corev1.Pod
	// slices are the service's that this controller manages.
	slices []*discoveryv1.EndpointSlice
	// node finds a node by name; nil when there is none.
	node func(name string) *corev1.Node
	// trigger is when the change happened that the slices are brought up to; zero when unknown.
	trigger time.Time
}

// plan is what to write. Slices to update are edited copies.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// group tells slices apart that can never hold each other's endpoints.
type group struct {
	family discoveryv1.AddressType
	ports  string
}

// bucket is a group's share of the decision.
type bucket struct {
	group
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
	slices    []*discoveryv1.EndpointSlice
}

// decide compares the endpoints there should be with the slices there are, and changes as few slices as it can. It is pure.
func decide(s snapshot) plan {
	buckets, obsolete := sortIn(s)
	var p plan
	for _, family := range families(s.service) {
		var part plan
		for _, b := range buckets {
			if b.family == family {
				part.add(b.pack(s))
			}
		}
		part.keepOne(s, family, buckets)
		p.add(part)
	}
	p.remove = append(p.remove, obsolete...)
	p.recycle(s)
	for _, slice := range append(slices.Clone(p.create), p.update...) {
		stampTrigger(slice, s.trigger)
	}
	return p
}

func (p *plan) add(q plan) {
	p.create = append(p.create, q.create...)
	p.update = append(p.update, q.update...)
	p.remove = append(p.remove, q.remove...)
}

// sortIn puts endpoints and slices into their groups. Slices of families that the service does not have are obsolete.
func sortIn(s snapshot) (buckets []*bucket, obsolete []*discoveryv1.EndpointSlice) {
	index := map[group]*bucket{}
	at := func(g group, ports []discoveryv1.EndpointPort) *bucket {
		b := index[g]
		if b == nil {
			b = &bucket{group: g, ports: ports}
			index[g] = b
			buckets = append(buckets, b)
		}
		return b
	}
	wanted := families(s.service)
	for _, pod := range s.pods {
		ports := portsOf(s.service, pod)
		for _, family := range wanted {
			if e, ok := endpoint(s, pod, family); ok {
				b := at(group{family, portsKey(ports)}, ports)
				b.endpoints = append(b.endpoints, e)
			}
		}
	}
	for _, slice := range s.slices {
		if !slices.Contains(wanted, slice.AddressType) {
			obsolete = append(obsolete, slice)
			continue
		}
		b := at(group{slice.AddressType, portsKey(slice.Ports)}, slice.Ports)
		b.slices = append(b.slices, slice)
	}
	slices.SortStableFunc(buckets, func(a, b *bucket) int { return cmp.Compare(a.group.ports, b.group.ports) })
	return buckets, obsolete
}

// key is the identity of an endpoint: the pod it stands for and its address.
func key(e *discoveryv1.Endpoint) string {
	var b strings.Builder
	if e.TargetRef != nil {
		b.WriteString(string(e.TargetRef.UID))
	}
	for _, address := range e.Addresses {
		b.WriteByte('/')
		b.WriteString(address)
	}
	return b.String()
}

// draft is a slice in the making.
type draft struct {
	was       *discoveryv1.EndpointSlice
	endpoints []discoveryv1.Endpoint
	changed   bool
}

// pack keeps every endpoint in the slice it is in. New ones go into slices that have to be written anyway, else into
// the fullest slice that has room for all of them, else into new slices.
func (b *bucket) pack(s snapshot) plan {
	missing := make(map[string]*discoveryv1.Endpoint, len(b.endpoints))
	for i := range b.endpoints {
		missing[key(&b.endpoints[i])] = &b.endpoints[i]
	}
	drafts := b.keep(missing)
	fresh := leftOver(b.endpoints, missing)
	fresh = fill(drafts, fresh)
	if len(fresh) > 0 {
		fresh = fillUnchanged(drafts, fresh)
	}
	var p plan
	for _, d := range drafts {
		p.settle(s, d)
	}
	for chunk := range slices.Chunk(fresh, maxEndpoints) {
		p.create = append(p.create, newSlice(s.service, b.family, b.ports, slices.Clone(chunk)))
	}
	return p
}

// keep drafts the existing slices without what they should no longer hold, and takes what they hold out of missing.
func (b *bucket) keep(missing map[string]*discoveryv1.Endpoint) []*draft {
	slices.SortFunc(b.slices, func(x, y *discoveryv1.EndpointSlice) int { return cmp.Compare(x.Name, y.Name) })
	drafts := make([]*draft, 0, len(b.slices))
	for _, slice := range b.slices {
		d := &draft{was: slice, endpoints: make([]discoveryv1.Endpoint, 0, len(slice.Endpoints))}
		for i := range slice.Endpoints {
			have := &slice.Endpoints[i]
			want, ok := missing[key(have)]
			if !ok || len(d.endpoints) == maxEndpoints {
				d.changed = true
				continue
			}
			delete(missing, key(have))
			d.changed = d.changed || !apiequality.Semantic.DeepEqual(have, want)
			d.endpoints = append(d.endpoints, *want)
		}
		drafts = append(drafts, d)
	}
	return drafts
}

// leftOver lists the endpoints still missing in the order of all; an identity counts once.
func leftOver(all []discoveryv1.Endpoint, missing map[string]*discoveryv1.Endpoint) []discoveryv1.Endpoint {
	var list []discoveryv1.Endpoint
	for i := range all {
		if missing[key(&all[i])] == &all[i] {
			list = append(list, all[i])
		}
	}
	return list
}

// fill puts fresh endpoints into the changed drafts, the fullest first, and gives what did not fit.
func fill(drafts []*draft, fresh []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	var changed []*draft
	for _, d := range drafts {
		if d.changed {
			changed = append(changed, d)
		}
	}
	slices.SortStableFunc(changed, func(a, b *draft) int { return cmp.Compare(len(b.endpoints), len(a.endpoints)) })
	for _, d := range changed {
		n := min(len(fresh), maxEndpoints-len(d.endpoints))
		d.endpoints = append(d.endpoints, fresh[:n]...)
		fresh = fresh[n:]
	}
	return fresh
}

// fillUnchanged puts what full new slices would leave over into the fullest unchanged draft with room for it.
func fillUnchanged(drafts []*draft, fresh []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	rest := len(fresh) % maxEndpoints
	var best *draft
	for _, d := range drafts {
		if !d.changed && len(d.endpoints)+rest <= maxEndpoints && (best == nil || len(d.endpoints) > len(best.endpoints)) {
			best = d
		}
	}
	if best == nil || rest == 0 {
		return fresh
	}
	best.endpoints = append(best.endpoints, fresh[len(fresh)-rest:]...)
	best.changed = true
	return fresh[:len(fresh)-rest]
}

// settle turns a draft into an update, a removal or nothing.
func (p *plan) settle(s snapshot, d *draft) {
	switch {
	case len(d.endpoints) == 0:
		p.remove = append(p.remove, d.was)
	case d.changed || !labelled(s.service, d.was):
		p.update = append(p.update, rewrite(s.service, d.was, d.was.Ports, d.endpoints))
	}
}

// keepOne leaves a family that has no endpoints one empty slice without ports, so that readers can tell that from a service
// not yet looked at.
func (p *plan) keepOne(s snapshot, family discoveryv1.AddressType, buckets []*bucket) {
	existing := 0
	for _, b := range buckets {
		if b.family == family {
			existing += len(b.slices)
		}
	}
	if len(p.create) > 0 || existing > len(p.remove) {
		return
	}
	if existing == 0 {
		p.create = append(p.create, newSlice(s.service, family, nil, nil))
		return
	}
	spare := p.remove[0]
	p.remove = p.remove[1:]
	if len(spare.Endpoints) > 0 || len(spare.Ports) > 0 || !labelled(s.service, spare) {
		p.update = append(p.update, rewrite(s.service, spare, nil, nil))
	}
}

// recycle turns pairs of a removal and a creation into updates.
func (p *plan) recycle(s snapshot) {
	p.create = slices.DeleteFunc(p.create, func(fresh *discoveryv1.EndpointSlice) bool {
		i := slices.IndexFunc(p.remove, func(old *discoveryv1.EndpointSlice) bool { return old.AddressType == fresh.AddressType })
		if i < 0 {
			return false
		}
		p.update = append(p.update, rewrite(s.service, p.remove[i], fresh.Ports, fresh.Endpoints))
		p.remove = slices.Delete(p.remove, i, i+1)
		return true
	})
}
