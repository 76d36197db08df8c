// Package discovery tells clients what is served: the unaggregated documents and the aggregated ones, built
// from the table of kinds. Its invariant: what it shows is what rest serves, since both read the same table.
package discovery

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/rest"
)

// aggregatedType is the media type of the aggregated documents.
const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// Handler serves /api, /apis and what is below them up to a group's version.
type Handler struct {
	now atomic.Pointer[snapshot]

	mu     sync.Mutex // guards what snapshots are built from
	static []kinds.Kind
	// built is what the last snapshot shows of each group, for the next one to take over where nothing changed.
	built map[string]*shown
	// dynamic are the kinds that SetKinds added, by source.
	dynamic map[string][]kinds.Kind
	// external are the versions that other API servers serve.
	external []External
}

// External is one version of a group that another API server serves. What is below its path is not served here.
type External struct {
	GroupVersion                   schema.GroupVersion
	GroupPriority, VersionPriority int32
	Resources                      []apidiscoveryv2.APIResourceDiscovery
	// Stale: the resources are those known last.
	Stale bool
}

// The priorities of what CustomResourceDefinitions define among the groups of other API servers.
const (
	DefinedGroupPriority   = 1000
	DefinedVersionPriority = 100
)

// SetExternal puts versions in the place of those of the last call. They win over versions that are served here.
func (h *Handler) SetExternal(all []External) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.external = all
	return h.rebuild()
}

// Versions are those that are served here, in the order in which clients see them. static tells which never change.
func (h *Handler) Versions() (static, dynamic []schema.GroupVersion) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range groupsOf(pointers(h.static)) {
		for _, v := range g.versions {
			static = append(static, v.gv)
		}
	}
	for _, source := range slices.Sorted(maps.Keys(h.dynamic)) {
		for _, g := range groupsOf(pointers(h.dynamic[source])) {
			for _, v := range g.versions {
				if !slices.Contains(static, v.gv) {
					dynamic = append(dynamic, v.gv)
				}
			}
		}
	}
	return static, dynamic
}

// snapshot is all that is served at one moment. It is never changed.
type snapshot struct {
	// documents by path: APIVersions, APIGroupList, APIGroup, APIResourceList.
	documents map[string]runtime.Object
	// aggregated holds the aggregated document of /api and /apis, encoded when somebody asks for it.
	aggregated map[string]func() aggregated
}

type aggregated struct {
	body []byte
	etag string
}

// shown is what clients see of one group.
type shown struct {
	from       *group // which it is made of
	documents  map[string]runtime.Object
	entry      metav1.APIGroup
	aggregated []byte // its item of the aggregated document
}

// New builds the documents of a table.
func New(table []kinds.Kind) (*Handler, error) {
	h := &Handler{static: table, dynamic: map[string][]kinds.Kind{}}
	return h, h.rebuild()
}

// SetKinds puts table in the place of the kinds that the source set before. Their groups follow the static ones by
// name, and the versions of a group are in the order of Kubernetes versions: v2, v1, v1beta1. Entries of stored versions
// (Dynamic.Stored) are left out.
func (h *Handler) SetKinds(source string, table []kinds.Kind) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dynamic[source] = slices.Clone(table) // new addresses, by which a change is seen
	return h.rebuild()
}

// rebuild makes the snapshot anew, of what is shown of its groups; only those that changed are made anew. The caller holds the lock,
// but for New.
func (h *Handler) rebuild() error {
	s := &snapshot{documents: map[string]runtime.Object{}}
	list := &metav1.APIGroupList{TypeMeta: typeMeta("APIGroupList"), Groups: []metav1.APIGroup{}}
	built := map[string]*shown{}
	var core, others [][]byte
	for _, g := range h.groups() {
		one := h.built[g.name]
		if one == nil || !one.from.same(g) {
			var err error
			if one, err = show(g); err != nil {
				return err
			}
		}
		built[g.name] = one
		maps.Copy(s.documents, one.documents)
		if g.name == "" {
			core = append(core, one.aggregated)
			continue
		}
		others = append(others, one.aggregated)
		list.Groups = append(list.Groups, one.entry)
	}
	s.documents["/apis"] = list
	s.aggregated = map[string]func() aggregated{
		"/api":  sync.OnceValue(func() aggregated { return aggregate(core) }),
		"/apis": sync.OnceValue(func() aggregated { return aggregate(others) }),
	}
	h.built = built
	h.now.Store(s)
	return nil
}

// same tells whether two groups are made of the same entries.
func (g *group) same(other *group) bool {
	return slices.EqualFunc(g.versions, other.versions, func(a, b *version) bool {
		return a.gv == b.gv && a.external == b.external && slices.Equal(a.kinds, b.kinds)
	})
}

func show(g *group) (*shown, error) {
	one := &shown{from: g, documents: map[string]runtime.Object{}}
	for _, v := range g.versions {
		if v.external == nil {
			one.documents[v.path()] = v.resources()
		}
	}
	if g.name == "" {
		one.documents["/api"] = &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: g.versionNames(),
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{}}
	} else {
		one.entry = g.document()
		doc := one.entry
		doc.TypeMeta = typeMeta("APIGroup")
		one.documents["/apis/"+g.name] = &doc
	}
	var err error
	if one.aggregated, err = json.Marshal(g.aggregated()); err != nil {
		return nil, fmt.Errorf("encode discovery: %w", err)
	}
	return one, nil
}

// groups are those of the static table, in its order, and then those of the other sources.
func (h *Handler) groups() []*group {
	groups := groupsOf(pointers(h.static))
	var added []*kinds.Kind
	for _, source := range slices.Sorted(maps.Keys(h.dynamic)) {
		added = append(added, pointers(h.dynamic[source])...)
	}
	others := groupsOf(added)
	for i := range h.external {
		addExternal(&others, &h.external[i])
	}
	slices.SortFunc(others, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.priority(), a.priority()), strings.Compare(a.name, b.name))
	})
	index := map[string]int{}
	for i, g := range groups {
		index[g.name] = i
	}
	for _, g := range others {
		slices.SortFunc(g.versions, func(a, b *version) int {
			return cmp.Or(cmp.Compare(b.priority(), a.priority()), apiversion.CompareKubeAwareVersionStrings(b.gv.Version, a.gv.Version))
		})
		known, ok := index[g.name]
		if !ok {
			groups = append(groups, g)
			continue
		}
		for _, v := range g.versions {
			at := slices.IndexFunc(groups[known].versions, func(k *version) bool { return k.gv == v.gv })
			switch {
			case at < 0:
				groups[known].versions = append(groups[known].versions, v)
			case v.external != nil:
				groups[known].versions[at] = v
			}
		}
	}
	return groups
}

// addExternal puts a version in its group, in the place of one that is served here.
func addExternal(groups *[]*group, e *External) {
	gv := e.GroupVersion
	g := find(groups, func(g *group) bool { return g.name == gv.Group }, func() *group { return &group{name: gv.Group} })
	v := find(&g.versions, func(v *version) bool { return v.gv == gv }, func() *version { return &version{gv: gv} })
	v.kinds, v.external = nil, e
}

// priority is the highest that a version of the group asks for.
func (g *group) priority() int32 {
	var highest int32
	for _, v := range g.versions {
		p := int32(DefinedGroupPriority)
		if v.external != nil {
			p = v.external.GroupPriority
		}
		highest = max(highest, p)
	}
	return highest
}

func (v *version) priority() int32 {
	if v.external != nil {
		return v.external.VersionPriority
	}
	return DefinedVersionPriority
}

func typeMeta(kind string) metav1.TypeMeta { return metav1.TypeMeta{Kind: kind, APIVersion: "v1"} }

// aggregate puts encoded items into a list.
func aggregate(items [][]byte) aggregated {
	const head = `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":[`
	body := slices.Concat([]byte(head), bytes.Join(items, []byte(",")), []byte("]}"))
	etag := fmt.Sprintf(`"%X"`, sha512.Sum512(body))
	return aggregated{body: append(body, '\n'), etag: etag}
}

// Serves tells whether a path, without a slash at its end, is a discovery document.
func (h *Handler) Serves(path string) bool { return h.now.Load().documents[path] != nil }

// Paths lists the paths served, sorted.
func (h *Handler) Paths() []string {
	documents := h.now.Load().documents
	paths := make([]string, 0, len(documents))
	for p := range documents {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// ServeHTTP answers with the document of a path that Serves.
func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimSuffix(req.URL.Path, "/")
	s := h.now.Load()
	if a, ok := s.aggregated[path]; ok {
		w.Header().Add("Vary", "Accept")
		if wantsAggregated(req.Header.Get("Accept")) {
			a().serve(w, req)
			return
		}
	}
	doc := s.documents[path]
	if doc == nil { // it went since Serves was asked
		http.NotFound(w, req)
		return
	}
	doc = doc.DeepCopyObject()
	rest.WriteObject(w, req, http.StatusOK, doc.GetObjectKind().GroupVersionKind(), doc)
}

func (a aggregated) serve(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("ETag", a.etag)
	w.Header().Set("Cache-Control", "public")
	if req.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", aggregatedType)
	_, _ = w.Write(a.body)
}

// wantsAggregated looks at the first alternative that can be served at all: clients list the aggregated form first.
func wantsAggregated(accept string) bool {
	for clause := range strings.SplitSeq(accept, ",") {
		parts := strings.Split(strings.ReplaceAll(clause, " ", ""), ";")
		if parts[0] != "application/json" && parts[0] != "*/*" {
			continue
		}
		if !slices.ContainsFunc(parts[1:], func(p string) bool { return strings.HasPrefix(p, "as=") }) {
			return false
		}
		if slices.Contains(parts, "as=APIGroupDiscoveryList") && slices.Contains(parts, "v=v2") &&
			slices.Contains(parts, "g=apidiscovery.k8s.io") {
			return true
		}
	}
	return false
}

// group and version gather the kinds of one group.
type group struct {
	name     string
	versions []*version
}

type version struct {
	gv       schema.GroupVersion
	kinds    []*kinds.Kind
	external *External // in the place of kinds
}

// pointers are those of a table's entries.
func pointers(table []kinds.Kind) []*kinds.Kind {
	out := make([]*kinds.Kind, len(table))
	for i := range table {
		out[i] = &table[i]
	}
	return out
}

func groupsOf(table []*kinds.Kind) []*group {
	var groups []*group
	named := map[string]*group{}
	for _, k := range table {
		if k.Dynamic != nil && k.Dynamic.Stored {
			continue
		}
		g := named[k.GVK.Group]
		if g == nil {
			g = &group{name: k.GVK.Group}
			named[g.name], groups = g, append(groups, g)
		}
		gv := k.GVK.GroupVersion()
		v := find(&g.versions, func(v *version) bool { return v.gv == gv }, func() *version { return &version{gv: gv} })
		v.kinds = append(v.kinds, k)
	}
	for _, g := range groups {
		for _, v := range g.versions {
			slices.SortFunc(v.kinds, func(a, b *kinds.Kind) int { return strings.Compare(a.Resource, b.Resource) })
		}
	}
	return groups
}

func find[T any](in *[]T, is func(T) bool, make func() T) T {
	if i := slices.IndexFunc(*in, is); i >= 0 {
		return (*in)[i]
	}
	v := make()
	*in = append(*in, v)
	return v
}

func (g *group) versionNames() []string {
	var names []string
	for _, v := range g.versions {
		names = append(names, v.gv.Version)
	}
	return names
}

func (g *group) document() metav1.APIGroup {
	doc := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		doc.Versions = append(doc.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.gv.String(), Version: v.gv.Version})
	}
	doc.PreferredVersion = doc.Versions[0]
	return doc
}

func (g *group) aggregated() apidiscoveryv2.APIGroupDiscovery {
	doc := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		d := apidiscoveryv2.APIVersionDiscovery{Version: v.gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		if v.external != nil {
			d.Resources = v.external.Resources
			if v.external.Stale {
				d.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
			}
		}
		for _, k := range v.kinds {
			d.Resources = append(d.Resources, aggregatedResource(k))
		}
		doc.Versions = append(doc.Versions, d)
	}
	return doc
}

func aggregatedResource(k *kinds.Kind) apidiscoveryv2.APIResourceDiscovery {
	scope := apidiscoveryv2.ScopeCluster
	if k.Namespaced {
		scope = apidiscoveryv2.ScopeNamespace
	}
	r := apidiscoveryv2.APIResourceDiscovery{
		Resource: k.Resource, ResponseKind: kindPtr(k.GVK), Scope: scope, SingularResource: k.Singular,
		Verbs: rest.Verbs(k), ShortNames: k.ShortNames, Categories: k.Categories,
	}
	for _, s := range subresources(k) {
		r.Subresources = append(r.Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource: s.name, ResponseKind: kindPtr(s.kind), Verbs: s.verbs,
		})
	}
	return r
}

func kindPtr(k schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

func (v *version) path() string {
	if v.gv.Group == "" {
		return "/api/" + v.gv.Version
	}
	return "/apis/" + v.gv.String()
}

func (v *version) resources() *metav1.APIResourceList {
	list := &metav1.APIResourceList{TypeMeta: typeMeta("APIResourceList"), GroupVersion: v.gv.String(), APIResources: []metav1.APIResource{}}
	if v.gv.Group == "" {
		list.APIVersion = "" // upstream leaves it out here
	}
	for _, k := range v.kinds {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.GVK.Kind,
			Verbs: rest.Verbs(k), ShortNames: k.ShortNames, Categories: k.Categories,
			StorageVersionHash: storageHash(k),
		})
		for _, s := range subresources(k) {
			r := metav1.APIResource{Name: k.Resource + "/" + s.name, Namespaced: k.Namespaced, Kind: s.kind.Kind, Verbs: s.verbs}
			if s.kind.GroupVersion() != v.gv {
				r.Group, r.Version = s.kind.Group, s.kind.Version
			}
			list.APIResources = append(list.APIResources, r)
		}
	}
	slices.SortFunc(list.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// storageHash lets clients see when the stored version of a resource changes.
func storageHash(k *kinds.Kind) string {
	if k.NotStored {
		return ""
	}
	version := k.GVK.Version
	if k.Dynamic != nil {
		version = k.Dynamic.StorageVersion
	}
	sum := sha256.Sum256([]byte(k.GVK.Group + "/" + version + "/" + k.GVK.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// subresource is one as discovery shows it.
type subresource struct {
	name  string
	kind  schema.GroupVersionKind
	verbs []string
}

var proxyVerbs = []string{"create", "delete", "get", "patch", "update"}

// actions are the subresources that are not parts of their object.
var actions = map[string]subresource{
	"pods/attach":              {kind: schema.GroupVersionKind{Version: "v1", Kind: "PodAttachOptions"}, verbs: []string{"create", "get"}},
	"pods/binding":             {kind: schema.GroupVersionKind{Version: "v1", Kind: "Binding"}, verbs: []string{"create"}},
	"pods/ephemeralcontainers": {kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, verbs: []string{"get", "patch", "update"}},
	"pods/resize":              {kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, verbs: []string{"get", "patch", "update"}},
	"pods/eviction":            {kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, verbs: []string{"create"}},
	"pods/exec":                {kind: schema.GroupVersionKind{Version: "v1", Kind: "PodExecOptions"}, verbs: []string{"create", "get"}},
	"pods/log":                 {kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, verbs: []string{"get"}},
	"pods/portforward":         {kind: schema.GroupVersionKind{Version: "v1", Kind: "PodPortForwardOptions"}, verbs: []string{"create", "get"}},
	"pods/proxy":               {kind: schema.GroupVersionKind{Version: "v1", Kind: "PodProxyOptions"}, verbs: proxyVerbs},
	"services/proxy":           {kind: schema.GroupVersionKind{Version: "v1", Kind: "ServiceProxyOptions"}, verbs: proxyVerbs},
	"nodes/proxy":              {kind: schema.GroupVersionKind{Version: "v1", Kind: "NodeProxyOptions"}, verbs: proxyVerbs},
	"namespaces/finalize":      {kind: schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, verbs: []string{"update"}},
	"serviceaccounts/token":    {kind: schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}, verbs: []string{"create"}},
}

func subresources(k *kinds.Kind) []subresource {
	var out []subresource
	partial := []string{"get", "patch", "update"}
	if k.Status != nil {
		out = append(out, subresource{name: "status", kind: k.GVK, verbs: partial})
	}
	if k.Scale != nil {
		out = append(out, subresource{name: "scale", kind: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, verbs: partial})
	}
	for _, name := range k.Others {
		s, ok := actions[k.Resource+"/"+name]
		if !ok {
			s = subresource{kind: k.GVK, verbs: partial}
		}
		s.name = name
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b subresource) int { return strings.Compare(a.name, b.name) })
	return out
}
