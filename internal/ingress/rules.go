package ingress

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Rules is what one Ingress asks for.
type Rules struct {
	Key types.NamespacedName
	// Age orders Ingresses, oldest first: of two that want the same the older gets it. It is the creation's time in seconds.
	Age int64
	// Paths are in the order of the Ingress.
	Paths []Path
	// Default serves what no path of any Ingress matches; nil serves nothing.
	Default *Backend
	// TLS are the certificates, in the order of the Ingress.
	TLS []TLS
	Options
}

// Path leads requests to a backend.
type Path struct {
	// Host is empty (any), a name, or a wildcard such as *.example.com, in lower case.
	Host string
	// Path begins with a slash. Of a prefix it has no slash at its end, so that the prefix of everything is empty.
	Path    string
	Exact   bool
	Backend Backend
}

// Backend is a port of a Service in the Ingress's namespace, by its name or else its number.
type Backend struct {
	Service string
	Port    string
	Number  int32
}

// String writes a backend as service:port.
func (b Backend) String() string {
	if b.Port != "" {
		return b.Service + ":" + b.Port
	}
	return fmt.Sprintf("%s:%d", b.Service, b.Number)
}

// TLS says which hosts are served with the certificate of a Secret.
type TLS struct {
	// Hosts are names and wildcards in lower case, or empty: all of the Ingress.
	Hosts []string
	// Secret is empty where the certificate made here will do.
	Secret string
}

// Problem is why something in an Ingress has no effect: the reason and message of an event.
type Problem struct{ Reason, Message string }

// The reasons of problems.
const (
	ReasonResourceBackend = "ResourceBackendNotSupported"
	ReasonAnnotation      = "AnnotationNotSupported"
)

// Parse reads an Ingress. What cannot be served is left out and told as a problem; a path to it answers 503.
func Parse(i *networkingv1.Ingress) (*Rules, []Problem) {
	options, problems := parseOptions(i.Annotations)
	r := &Rules{Key: types.NamespacedName{Namespace: i.Namespace, Name: i.Name}, Age: i.CreationTimestamp.Unix(), Options: options}
	backend := func(at string, b *networkingv1.IngressBackend) Backend {
		if b.Service == nil {
			problems = append(problems, Problem{ReasonResourceBackend, at + ": a backend that is no Service cannot be served"})
			return Backend{}
		}
		return Backend{Service: b.Service.Name, Port: b.Service.Port.Name, Number: b.Service.Port.Number}
	}
	if d := i.Spec.DefaultBackend; d != nil {
		b := backend("spec.defaultBackend", d)
		r.Default = &b
	}
	for n := range i.Spec.Rules {
		rule := &i.Spec.Rules[n]
		if rule.HTTP == nil && r.Default != nil { // all of the host's requests go to the default backend
			r.Paths = append(r.Paths, Path{Host: strings.ToLower(rule.Host), Backend: *r.Default})
		}
		if rule.HTTP == nil {
			continue
		}
		for m := range rule.HTTP.Paths {
			p := &rule.HTTP.Paths[m]
			path := Path{Host: strings.ToLower(rule.Host), Path: p.Path, Exact: p.PathType != nil && *p.PathType == networkingv1.PathTypeExact}
			if !path.Exact {
				path.Path = strings.TrimRight(path.Path, "/")
			}
			path.Backend = backend(fmt.Sprintf("spec.rules[%d].http.paths[%d]", n, m), &p.Backend)
			r.Paths = append(r.Paths, path)
		}
	}
	for _, t := range i.Spec.TLS {
		hosts := make([]string, 0, len(t.Hosts))
		for _, h := range t.Hosts {
			hosts = append(hosts, strings.ToLower(h))
		}
		r.TLS = append(r.TLS, TLS{Hosts: hosts, Secret: t.SecretName})
	}
	return r, problems
}

// Secured tells whether requests for a host are to come by HTTPS: the Ingress has a certificate for it.
func (r *Rules) Secured(host string) bool {
	for _, t := range r.TLS {
		if len(t.Hosts) == 0 {
			return true
		}
		for _, h := range t.Hosts {
			if Covers(h, host) {
				return true
			}
		}
	}
	return false
}

// Covers tells whether a host of an Ingress, perhaps a wildcard, is or includes another, which may be a wildcard as well. A wildcard
// stands for exactly one label.
func Covers(pattern, host string) bool {
	if pattern == host {
		return true
	}
	suffix, wild := strings.CutPrefix(pattern, "*")
	dot := strings.IndexByte(host, '.')
	return wild && dot > 0 && host[dot:] == suffix
}
