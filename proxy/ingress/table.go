package ingress

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// This file is pure: from the rules of Ingresses it makes the table by which requests are routed.

// table is immutable. Hosts are in lower case, without port and without the dot at their end.
type table struct {
	exact map[string]*site // by host
	wild  map[string]*site // by what follows the first label of the host, as ".example.com"
	any   *site            // nil where no rule is for any host
	// fallback serves what nothing else does; nil nothing.
	fallback *route
	certs    names
	// secured tells whether any Ingress has a certificate.
	secured bool
}

// site has the paths of one host.
type site struct {
	exact    map[string]*route
	prefixes map[string]*route // by path without the slash at its end
	longest  int               // length of the longest prefix
	fallback *route
}

// route is one path of one Ingress.
type route struct {
	rules *ingress.Rules
	ingress.Path
	// secured: all requests that come here are for a host with a certificate of the Ingress.
	secured bool

	// What requests need; set by bind before the route is used.
	upstream *upstream
	metrics  *routeMetrics
}

// names finds the Secret of a host's certificate.
type names struct {
	exact, wild map[string]types.NamespacedName
	// other is for hosts that none of these is for: that of an Ingress whose rules are for any host. It may be empty.
	other types.NamespacedName
}

// find looks up what a host's certificate is. ok is false where none is named.
func (n names) find(host string) (secret types.NamespacedName, ok bool) {
	if secret, ok = n.exact[host]; ok {
		return secret, true
	}
	if dot := strings.IndexByte(host, '.'); dot > 0 {
		if secret, ok = n.wild[host[dot:]]; ok {
			return secret, true
		}
	}
	return n.other, n.other.Name != ""
}

// match finds the route of a request: of the paths for just this host, then for a wildcard, then for any host, the longest, and of
// equal ones the exact one; then the default backends of Ingresses with rules for the host; then that of all. Nil: there is none.
func (t *table) match(host, path string) *route {
	if !strings.HasPrefix(path, "/") {
		return nil
	}
	own := t.exact[host]
	var wild *site
	if dot := strings.IndexByte(host, '.'); dot > 0 {
		wild = t.wild[host[dot:]]
	}
	for _, s := range [...]*site{own, wild, t.any} {
		if r := s.match(path); r != nil {
			return r
		}
	}
	for _, s := range [...]*site{own, wild} {
		if s != nil && s.fallback != nil {
			return s.fallback
		}
	}
	return t.fallback
}

func (s *site) match(path string) *route {
	if s == nil {
		return nil
	}
	if r := s.exact[path]; r != nil {
		return r
	}
	// What is longer than the longest prefix by more than a segment's end is not looked at, so that a long path costs no more.
	if len(path) > s.longest {
		if path[s.longest] == '/' {
			path = path[:s.longest]
		} else {
			path = path[:strings.LastIndexByte(path[:s.longest+1], '/')]
		}
	}
	for {
		if r := s.prefixes[path]; r != nil || path == "" {
			return r
		}
		path = path[:strings.LastIndexByte(path, '/')]
	}
}

// builder keeps a table up to date, anew only for the hosts that changed.
type builder struct {
	// bind is called for every route before it is used.
	bind  func(*route)
	rules map[types.NamespacedName]*ingress.Rules
	// byHost has the Ingresses with rules for a host, as that is written in them.
	byHost map[string]map[types.NamespacedName]bool
	dirty  map[string]bool
	// rest tells whether default backends or certificates may be others.
	rest  bool
	table *table
}

func newBuilder(bind func(*route)) *builder {
	return &builder{
		bind: bind, rules: map[types.NamespacedName]*ingress.Rules{}, byHost: map[string]map[types.NamespacedName]bool{}, dirty: map[string]bool{},
		table: &table{exact: map[string]*site{}, wild: map[string]*site{}},
	}
}

// set takes over an Ingress's rules; nil: there is none any more.
func (b *builder) set(key types.NamespacedName, rules *ingress.Rules) {
	old := b.rules[key]
	b.rest = b.rest || old != nil && (old.Default != nil || len(old.TLS) > 0) || rules != nil && (rules.Default != nil || len(rules.TLS) > 0)
	if old != nil {
		for _, p := range old.Paths {
			b.dirty[p.Host] = true
			if delete(b.byHost[p.Host], key); len(b.byHost[p.Host]) == 0 {
				delete(b.byHost, p.Host)
			}
		}
	}
	if rules == nil {
		delete(b.rules, key)
		return
	}
	b.rules[key] = rules
	for _, p := range rules.Paths {
		b.dirty[p.Host] = true
		if b.byHost[p.Host] == nil {
			b.byHost[p.Host] = map[types.NamespacedName]bool{}
		}
		b.byHost[p.Host][key] = true
	}
}

// older orders Ingresses.
func older(a, b *ingress.Rules) int {
	return cmp.Or(cmp.Compare(a.Age, b.Age), cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
}

// build gives the table of all rules. Earlier tables stay as they are.
func (b *builder) build() *table {
	t := *b.table
	t.exact, t.wild = maps.Clone(t.exact), maps.Clone(t.wild)
	for host := range b.dirty {
		s := b.site(host)
		suffix, wild := strings.CutPrefix(host, "*")
		switch {
		case host == "":
			t.any = s
		case wild:
			put(t.wild, suffix, s)
		default:
			put(t.exact, host, s)
		}
	}
	clear(b.dirty)
	if b.rest {
		all := slices.SortedFunc(maps.Values(b.rules), older)
		t.fallback = b.fallback(all)
		t.certs, t.secured = secrets(all)
		b.rest = false
	}
	b.table = &t
	return &t
}

func put(sites map[string]*site, key string, s *site) {
	if s == nil {
		delete(sites, key)
	} else {
		sites[key] = s
	}
}

// site makes the paths of a host; nil where there are none.
func (b *builder) site(host string) *site {
	if len(b.byHost[host]) == 0 {
		return nil
	}
	var from []*ingress.Rules
	for key := range b.byHost[host] {
		from = append(from, b.rules[key])
	}
	slices.SortFunc(from, older)
	s := &site{exact: map[string]*route{}, prefixes: map[string]*route{}}
	for _, rules := range from {
		for _, p := range rules.Paths {
			if p.Host != host {
				continue
			}
			to := s.prefixes
			if p.Exact {
				to = s.exact
			} else {
				s.longest = max(s.longest, len(p.Path))
			}
			if to[p.Path] == nil {
				to[p.Path] = b.route(rules, p)
			}
		}
		if rules.Default != nil && s.fallback == nil {
			s.fallback = b.route(rules, ingress.Path{Host: host, Backend: *rules.Default})
		}
	}
	return s
}

func (b *builder) route(rules *ingress.Rules, p ingress.Path) *route {
	r := &route{rules: rules, Path: p, secured: rules.Secured(p.Host)}
	if b.bind != nil {
		b.bind(r)
	}
	return r
}

// fallback is the default backend of the oldest Ingress that is nothing but that, or else of the oldest that has one.
func (b *builder) fallback(all []*ingress.Rules) *route {
	var found *ingress.Rules
	for _, r := range all {
		if r.Default != nil && (found == nil || len(found.Paths) > 0 && len(r.Paths) == 0) {
			found = r
		}
	}
	switch {
	case found == nil:
		return nil
	case b.table.fallback != nil && b.table.fallback.rules == found:
		return b.table.fallback
	}
	return b.route(found, ingress.Path{Backend: *found.Default})
}

// secrets finds out whose certificate each host gets: the oldest Ingress's that names it. Where an Ingress does not say for which hosts a
// Secret is, it is for those of its rules.
func secrets(all []*ingress.Rules) (n names, secured bool) {
	n = names{exact: map[string]types.NamespacedName{}, wild: map[string]types.NamespacedName{}}
	claim := func(host string, secret types.NamespacedName) {
		to := n.exact
		suffix, wild := strings.CutPrefix(host, "*")
		if wild {
			host, to = suffix, n.wild
		}
		if host == "" {
			if n.other.Name == "" {
				n.other = secret
			}
		} else if _, taken := to[host]; !taken {
			to[host] = secret
		}
	}
	for _, r := range all {
		for _, t := range r.TLS {
			secured = true
			if t.Secret == "" {
				continue
			}
			secret := types.NamespacedName{Namespace: r.Key.Namespace, Name: t.Secret}
			for _, h := range t.Hosts {
				claim(h, secret)
			}
			if len(t.Hosts) > 0 {
				continue
			}
			for _, p := range r.Paths {
				claim(p.Host, secret)
			}
			if len(r.Paths) == 0 {
				claim("", secret)
			}
		}
	}
	return n, secured
}

// routes are all of the table.
func (t *table) routes() iter.Seq[*route] {
	return func(yield func(*route) bool) {
		sites := slices.AppendSeq(slices.Collect(maps.Values(t.exact)), maps.Values(t.wild))
		if t.any != nil {
			sites = append(sites, t.any)
		}
		for _, s := range append(sites, &site{fallback: t.fallback}) {
			of := slices.AppendSeq(slices.Collect(maps.Values(s.exact)), maps.Values(s.prefixes))
			if s.fallback != nil {
				of = append(of, s.fallback)
			}
			for _, r := range of {
				if !yield(r) {
					return
				}
			}
		}
	}
}
