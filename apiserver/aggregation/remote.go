package aggregation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	// askTimeout bounds one question to another server.
	askTimeout = 5 * time.Second
	// maxDocument is the largest document read of another server, in bytes.
	maxDocument = 32 << 20
)

// remote is a server that serves one version of a group.
type remote struct {
	gv        schema.GroupVersion
	service   atomic.Pointer[apiregistrationv1.APIService]
	host      string
	transport *http.Transport
	broken    error // why there is no transport
	known     atomic.Pointer[knowledge]
	next      time.Time // when to ask it again
	localOK   bool
}

// knowledge is what a server told of itself. It is never changed.
type knowledge struct {
	hash      string
	resources []apidiscoveryv2.APIResourceDiscovery
	v3        *spec3.OpenAPI
	v2        *spec.Swagger
}

func (c *Controller) newRemote(s *apiregistrationv1.APIService) *remote {
	ref := s.Spec.Service
	r := &remote{gv: schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}, host: ref.Name + "." + ref.Namespace + ".svc"}
	r.service.Store(s)
	r.known.Store(&knowledge{})
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: r.host, GetClientCertificate: c.Certificate,
		InsecureSkipVerify: s.Spec.InsecureSkipTLSVerify, //nolint:gosec // what the APIService asks for
	}
	if ca := bytes.TrimSpace(s.Spec.CABundle); len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			r.broken = errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	port := int32(443)
	if ref.Port != nil {
		port = *ref.Port
	}
	r.host = net.JoinHostPort(r.host, fmt.Sprint(port))
	r.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.Dial(ctx, ref.Namespace, ref.Name, port)
		},
		TLSClientConfig: config, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
		MaxIdleConnsPerHost: 25, DisableCompression: true,
	}
	return r
}

// serves tells whether the remote was made for what the APIService says.
func (r *remote) serves(s *apiregistrationv1.APIService) bool {
	have, want := r.service.Load(), s
	a, b := have.Spec.Service, want.Spec.Service
	return have.UID == want.UID && a.Namespace == b.Namespace && a.Name == b.Name && *a.Port == *b.Port &&
		have.Spec.InsecureSkipTLSVerify == want.Spec.InsecureSkipTLSVerify && bytes.Equal(have.Spec.CABundle, want.Spec.CABundle)
}

func (r *remote) available() bool {
	condition := available(r.service.Load())
	return condition != nil && condition.Status == apiregistrationv1.ConditionTrue
}

// check finds out whether a server can be reached, and what it serves.
func (c *Controller) check(ctx context.Context, r *remote) error {
	s := r.service.Load()
	found := c.checkService(ctx, s)
	ok := found.Status == ""
	now := time.Now()
	if ok && r.localOK && now.Before(r.next) {
		return nil
	}
	r.localOK = ok
	if ok {
		found = apiregistrationv1.APIServiceCondition{Status: apiregistrationv1.ConditionTrue, Reason: "Passed", Message: "all checks passed"}
		r.next = now.Add(checkEvery)
		if err := c.learn(ctx, r); err != nil {
			r.next = now.Add(retryEvery)
			found = apiregistrationv1.APIServiceCondition{Status: apiregistrationv1.ConditionFalse, Reason: "FailedDiscoveryCheck", Message: err.Error()}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return c.setCondition(ctx, s, found)
}

// checkService looks at the objects that lead to a server. Without a status, nothing speaks against asking it.
func (c *Controller) checkService(ctx context.Context, s *apiregistrationv1.APIService) apiregistrationv1.APIServiceCondition {
	ref := s.Spec.Service
	no := func(reason, format string, args ...any) apiregistrationv1.APIServiceCondition {
		return apiregistrationv1.APIServiceCondition{Status: apiregistrationv1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	unknown := func(reason string, err error) apiregistrationv1.APIServiceCondition {
		found := no(reason, "service/%s in %q cannot be checked due to: %v", ref.Name, ref.Namespace, err)
		found.Status = apiregistrationv1.ConditionUnknown
		return found
	}
	obj, err := c.Reader.Get(ctx, schema.GroupResource{Resource: "services"}, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return no("ServiceNotFound", "service/%s in %q is not present", ref.Name, ref.Namespace)
	}
	service, ok := obj.(*corev1.Service)
	if err != nil || !ok {
		return unknown("ServiceAccessError", err)
	}
	if service.Spec.Type != corev1.ServiceTypeClusterIP {
		return apiregistrationv1.APIServiceCondition{}
	}
	at := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *ref.Port })
	if at < 0 {
		return no("ServicePortError", "service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, *ref.Port)
	}
	all, err := c.reach.Slices(ctx, ref.Namespace, ref.Name)
	switch {
	case err != nil:
		return unknown("EndpointsAccessError", err)
	case len(all) == 0:
		return no("EndpointsNotFound", "cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace)
	case !slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool { return hasEndpoint(s, service.Spec.Ports[at].Name) }):
		return no("MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, service.Spec.Ports[at].Name)
	}
	return apiregistrationv1.APIServiceCondition{}
}

func hasEndpoint(s *discoveryv1.EndpointSlice, port string) bool {
	ready := func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }
	named := func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == port && p.Port != nil }
	return slices.ContainsFunc(s.Endpoints, ready) && slices.ContainsFunc(s.Ports, named)
}

// learn asks a server for its discovery, which it must serve, and its OpenAPI documents, which it may.
func (c *Controller) learn(ctx context.Context, r *remote) error {
	if r.broken != nil {
		return r.broken
	}
	path := "/apis/" + r.gv.String()
	body, err := r.ask(ctx, path)
	if err != nil {
		return err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("bad answer from https://%s%s: %w", r.host, path, err)
	}
	k := &knowledge{resources: resourcesOf(r.gv, list.APIResources)}
	v3, v3Err := r.ask(ctx, "/openapi/v3"+path)
	v2, v2Err := r.ask(ctx, "/openapi/v2")
	k.hash = fmt.Sprintf("%x", sha256.Sum256(slices.Concat(body, v3, v2)))
	if k.hash == r.known.Load().hash {
		return nil
	}
	if v2Err == nil {
		doc := new(spec.Swagger)
		if json.Unmarshal(v2, doc) == nil && doc.Paths != nil {
			k.v2 = aggregator.FilterSpecByPathsWithoutSideEffects(doc, []string{path + "/"})
			k.v3 = openapiconv.ConvertV2ToV3(k.v2)
		}
	}
	if v3Err == nil {
		if doc := new(spec3.OpenAPI); json.Unmarshal(v3, doc) == nil {
			k.v3 = doc
		}
	}
	r.known.Store(k)
	return nil
}

// ask gets a document with the rights of an administrator.
func (r *remote) ask(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	url := "https://" + r.host + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{"system:masters"}, nil)
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		r.transport.CloseIdleConnections()
		return nil, fmt.Errorf("failing or missing response from %s: Get %q: %w", url, url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return nil, fmt.Errorf("failing or missing response from %s: bad status from %s: %d", url, url, resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxDocument))
}

// resourcesOf puts a list in the form of the aggregated documents.
func resourcesOf(gv schema.GroupVersion, list []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	at := map[string]int{}
	for _, subs := range []bool{false, true} {
		for i := range list {
			r := &list[i]
			parent, sub, below := bytes.Cut([]byte(r.Name), []byte("/"))
			kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
			if r.Group != "" || r.Version != "" {
				kind.Group, kind.Version = r.Group, r.Version
			}
			if below != subs {
				continue
			}
			if !below {
				scope := apidiscoveryv2.ScopeCluster
				if r.Namespaced {
					scope = apidiscoveryv2.ScopeNamespace
				}
				at[r.Name] = len(out)
				out = append(out, apidiscoveryv2.APIResourceDiscovery{Resource: r.Name, ResponseKind: kind, Scope: scope,
					SingularResource: r.SingularName, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories})
				continue
			}
			if p, ok := at[string(parent)]; ok {
				out[p].Subresources = append(out[p].Subresources, apidiscoveryv2.APISubresourceDiscovery{
					Subresource: string(sub), ResponseKind: kind, Verbs: r.Verbs})
			}
		}
	}
	return out
}
