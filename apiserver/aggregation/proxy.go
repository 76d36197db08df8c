package aggregation

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/transport"
)

// Handler gives who serves a path that another server does; nil: this one does. It is asked on every request.
func (c *Controller) Handler(path string) http.Handler {
	routes := *c.routes.Load()
	if len(routes) == 0 {
		return nil
	}
	rest, ok := strings.CutPrefix(path, "/apis/")
	if !ok {
		if rest, ok = strings.CutPrefix(path, "/api/"); !ok {
			return nil
		}
		rest = "/" + rest
	}
	group, rest, _ := strings.Cut(rest, "/")
	version, _, _ := strings.Cut(rest, "/")
	if r := routes[schema.GroupVersion{Group: group, Version: version}]; r != nil {
		return r
	}
	return nil
}

// ServeHTTP hands a request on under its user's name. Only the front proxy's certificate makes the other server believe it.
func (r *remote) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.available() {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	if r.broken != nil {
		http.Error(w, r.broken.Error(), http.StatusInternalServerError)
		return
	}
	u, ok := request.UserFrom(req.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	location := &url.URL{Scheme: "https", Host: r.host, Path: req.URL.Path, RawQuery: req.URL.RawQuery}
	out := req.Clone(req.Context())
	out.Header.Del("Authorization")
	transport.SetAuthProxyHeaders(out, u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra())
	out.Host = ""
	upgrade := req.Header.Get("Upgrade") != ""
	handler := utilproxy.NewUpgradeAwareHandler(location, r.transport, true, upgrade, plainErrors{})
	handler.FlushInterval = -1 // watches
	if upgrade {               // HTTP/2 cannot switch protocols
		own := r.transport.Clone()
		own.ForceAttemptHTTP2, own.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
		defer own.CloseIdleConnections()
		handler.Transport, handler.WrapTransport = own, false
	}
	handler.RejectForwardingRedirects = true
	handler.UseLocationHost = true
	handler.ServeHTTP(w, out)
}

// plainErrors answers in text where the other server did not answer.
type plainErrors struct{}

// Error implements utilproxy.ErrorResponder.
func (plainErrors) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}
