// Package slicing packs endpoints into EndpointSlices and changes as few of them as it can: Decide, which is pure, and
// Write, which carries out.
//
// Invariants: an endpoint is in one slice only; endpoints with different ports or address families never share one; what need not
// change is not written.
package slicing

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Max is how many endpoints a slice holds at most.
const Max = 100

// Desired is what slices should say together.
type Desired struct {
	// Namespace is the slices', and Name the service's, from which their names are made.
	Namespace, Name string
	// Labels and Owner, unless zero, are every slice's. Annotations are too, but others on a slice stay.
	Labels      map[string]string
	Annotations map[string]string
	Owner       metav1.OwnerReference
	// Families are the address types that may have slices.
	Families []discoveryv1.AddressType
	// Placeholder asks for one empty slice, without ports, of each family that has no endpoints.
	Placeholder bool
	Endpoints   []Endpoint
	// Trigger is when the change happened that the slices are brought up to; zero when unknown.
	Trigger time.Time
}

// Endpoint is one endpoint, its address family and its ports.
type Endpoint struct {
	Family   discoveryv1.AddressType
	Ports    []discoveryv1.EndpointPort
	Endpoint discoveryv1.Endpoint
}

// Plan is what to write. Slices to update are edited copies.
type Plan struct {
	Create, Update, Remove []*discoveryv1.EndpointSlice
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

// Decide compares the endpoints there should be with the slices there are.
func Decide(want Desired, have []*discoveryv1.EndpointSlice) Plan {
	buckets, obsolete := sortIn(want, have)
	var p Plan
	for _, family := range want.Families {
		var part Plan
		for _, b := range buckets {
			if b.family == family {
				part.add(b.pack(want))
			}
		}
		if want.Placeholder {
			part.keepOne(want, family, buckets)
		}
		p.add(part)
	}
	p.Remove = append(p.Remove, obsolete...)
	p.recycle(want)
	for _, slice := range slices.Concat(p.Create, p.Update) {
		stampTrigger(slice, want.Trigger)
	}
	return p
}

func (p *Plan) add(q Plan) {
	p.Create = append(p.Create, q.Create...)
	p.Update = append(p.Update, q.Update...)
	p.Remove = append(p.Remove, q.Remove...)
}

// sortIn puts endpoints and slices into their groups. Slices of families that are not wanted are obsolete.
func sortIn(want Desired, have []*discoveryv1.EndpointSlice) (buckets []*bucket, obsolete []*discoveryv1.EndpointSlice) {
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
	for i := range want.Endpoints {
		e := &want.Endpoints[i]
		b := at(group{e.Family, portsKey(e.Ports)}, e.Ports)
		b.endpoints = append(b.endpoints, e.Endpoint)
	}
	for _, slice := range have {
		if !slices.Contains(want.Families, slice.AddressType) {
			obsolete = append(obsolete, slice)
			continue
		}
		b := at(group{slice.AddressType, portsKey(slice.Ports)}, slice.Ports)
		b.slices = append(b.slices, slice)
	}
	slices.SortStableFunc(buckets, func(a, b *bucket) int { return cmp.Compare(a.group.ports, b.group.ports) })
	return buckets, obsolete
}

// portsKey is the same for equal sets of ports.
func portsKey(ports []discoveryv1.EndpointPort) string {
	parts := make([]string, 0, len(ports))
	for _, p := range ports {
		parts = append(parts, fmt.Sprintf("%s|%d|%s|%s", ptr.Deref(p.Name, ""), ptr.Deref(p.Port, 0), ptr.Deref(p.Protocol, corev1.ProtocolTCP), ptr.Deref(p.AppProtocol, "")))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
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
func (b *bucket) pack(want Desired) Plan {
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
	var p Plan
	for _, d := range drafts {
		p.settle(want, d)
	}
	for chunk := range slices.Chunk(fresh, Max) {
		p.Create = append(p.Create, newSlice(want, b.family, b.ports, slices.Clone(chunk)))
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
			if !ok || len(d.endpoints) == Max {
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
		n := min(len(fresh), Max-len(d.endpoints))
		d.endpoints = append(d.endpoints, fresh[:n]...)
		fresh = fresh[n:]
	}
	return fresh
}

// fillUnchanged puts what full new slices would leave over into the fullest unchanged draft with room for it.
func fillUnchanged(drafts []*draft, fresh []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	rest := len(fresh) % Max
	var best *draft
	for _, d := range drafts {
		if !d.changed && len(d.endpoints)+rest <= Max && (best == nil || len(d.endpoints) > len(best.endpoints)) {
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
func (p *Plan) settle(want Desired, d *draft) {
	switch {
	case len(d.endpoints) == 0:
		p.Remove = append(p.Remove, d.was)
	case d.changed || !want.fits(d.was):
		p.Update = append(p.Update, rewrite(want, d.was, d.was.Ports, d.endpoints))
	}
}

// keepOne leaves a family that has no endpoints one empty slice without ports, so that readers can tell that from a service
// not yet looked at.
func (p *Plan) keepOne(want Desired, family discoveryv1.AddressType, buckets []*bucket) {
	existing := 0
	for _, b := range buckets {
		if b.family == family {
			existing += len(b.slices)
		}
	}
	if len(p.Create) > 0 || existing > len(p.Remove) {
		return
	}
	if existing == 0 {
		p.Create = append(p.Create, newSlice(want, family, nil, nil))
		return
	}
	spare := p.Remove[0]
	p.Remove = p.Remove[1:]
	if len(spare.Endpoints) > 0 || len(spare.Ports) > 0 || !want.fits(spare) {
		p.Update = append(p.Update, rewrite(want, spare, nil, nil))
	}
}

// recycle turns pairs of a removal and a creation into updates.
func (p *Plan) recycle(want Desired) {
	p.Create = slices.DeleteFunc(p.Create, func(fresh *discoveryv1.EndpointSlice) bool {
		i := slices.IndexFunc(p.Remove, func(old *discoveryv1.EndpointSlice) bool { return old.AddressType == fresh.AddressType })
		if i < 0 {
			return false
		}
		p.Update = append(p.Update, rewrite(want, p.Remove[i], fresh.Ports, fresh.Endpoints))
		p.Remove = slices.Delete(p.Remove, i, i+1)
		return true
	})
}

// fits tells whether the slice carries the labels and annotations that it should.
func (want Desired) fits(slice *discoveryv1.EndpointSlice) bool {
	if !maps.Equal(slice.Labels, want.Labels) {
		return false
	}
	for key, value := range want.Annotations {
		if have, ok := slice.Annotations[key]; !ok || have != value {
			return false
		}
	}
	return true
}

func newSlice(want Desired, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: want.Name + "-", Namespace: want.Namespace, Labels: maps.Clone(want.Labels), Annotations: maps.Clone(want.Annotations),
			OwnerReferences: want.owners(),
		},
		AddressType: family, Ports: ports, Endpoints: nonNil(endpoints),
	}
}

func (want Desired) owners() []metav1.OwnerReference {
	if want.Owner.UID == "" {
		return nil
	}
	return []metav1.OwnerReference{want.Owner}
}

// rewrite is a copy of a slice with new contents.
func rewrite(want Desired, slice *discoveryv1.EndpointSlice, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	fresh := *slice
	fresh.Labels, fresh.Annotations = maps.Clone(want.Labels), maps.Clone(slice.Annotations)
	if fresh.Annotations == nil {
		fresh.Annotations = map[string]string{}
	}
	maps.Copy(fresh.Annotations, want.Annotations)
	fresh.Ports, fresh.Endpoints = ports, nonNil(endpoints)
	return &fresh
}

// nonNil: the API requires the list, though it may be empty.
func nonNil(endpoints []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	if endpoints == nil {
		return []discoveryv1.Endpoint{}
	}
	return endpoints
}

func stampTrigger(slice *discoveryv1.EndpointSlice, at time.Time) {
	if at.IsZero() {
		delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
		return
	}
	if slice.Annotations == nil {
		slice.Annotations = map[string]string{}
	}
	slice.Annotations[corev1.EndpointsLastChangeTriggerTime] = at.UTC().Format(time.RFC3339Nano)
}
