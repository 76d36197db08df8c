package auth

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// ClusterConfigMap is the ConfigMap of kube-system that tells nodes what all of them must agree on.
const ClusterConfigMap = "coracle-cluster"

// DNSConfigMap is the ConfigMap of kube-system by which users change what the nodes' DNS asks of whom.
const DNSConfigMap = "coracle-dns"

// AuthenticationConfigMap is the ConfigMap of kube-system that tells aggregated API servers how this one authenticates, and by
// which headers it passes users on to them.
const AuthenticationConfigMap = "extension-apiserver-authentication"

// FrontProxyName is the common name of the front proxy's certificate.
const FrontProxyName = "front-proxy-client"

// FrontProxy trusts a proxy that shows a certificate of CAs to name the user in headers.
type FrontProxy struct {
	CAs *x509.CertPool
	// AllowedNames are the common names of certificates that may; empty: any.
	AllowedNames []string
	// Each of these headers is looked at until one has a value.
	UsernameHeaders, UIDHeaders []string
	// All of these count.
	GroupHeaders, ExtraHeaderPrefixes []string
}

// DefaultFrontProxy uses the headers that everybody uses.
func DefaultFrontProxy(cas *x509.CertPool) FrontProxy {
	return FrontProxy{
		CAs: cas, AllowedNames: []string{FrontProxyName},
		UsernameHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"},
		GroupHeaders: []string{"X-Remote-Group"}, ExtraHeaderPrefixes: []string{"X-Remote-Extra-"},
	}
}

// AuthenticationConfig is the data of AuthenticationConfigMap: clientCA and proxyCA are the PEM bundles that client certificates
// and the front proxy's are verified by.
func (f FrontProxy) AuthenticationConfig(clientCA, proxyCA []byte) map[string]string {
	list := func(values []string) string {
		b, _ := json.Marshal(append([]string{}, values...)) // strings always encode
		return string(b)
	}
	return map[string]string{
		"client-ca-file":                     string(clientCA),
		"requestheader-client-ca-file":       string(proxyCA),
		"requestheader-allowed-names":        list(f.AllowedNames),
		"requestheader-username-headers":     list(f.UsernameHeaders),
		"requestheader-uid-headers":          list(f.UIDHeaders),
		"requestheader-group-headers":        list(f.GroupHeaders),
		"requestheader-extra-headers-prefix": list(f.ExtraHeaderPrefixes),
	}
}

// Authenticator authenticates by the headers. A request whose certificate is not the proxy's is left to other ways, by which its
// headers mean nothing.
func (f FrontProxy) Authenticator() authenticator.Request {
	certs := newCertificates(f.CAs)
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		name := first(req.Header, f.UsernameHeaders)
		if name == "" || req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
			return nil, false, nil
		}
		proxy, err := certs.authenticate(req.TLS.PeerCertificates)
		if err != nil || len(f.AllowedNames) > 0 && !slices.Contains(f.AllowedNames, proxy.GetName()) {
			return nil, false, nil //nolint:nilerr // an ordinary client's certificate
		}
		u := &user.DefaultInfo{Name: name, UID: first(req.Header, f.UIDHeaders), Extra: map[string][]string{}}
		for _, h := range f.GroupHeaders {
			u.Groups = append(u.Groups, req.Header.Values(h)...)
		}
		for header, values := range req.Header {
			for _, prefix := range f.ExtraHeaderPrefixes {
				if len(header) >= len(prefix) && strings.EqualFold(header[:len(prefix)], prefix) {
					key := extraKey(header[len(prefix):])
					u.Extra[key] = append(u.Extra[key], values...)
				}
			}
		}
		f.strip(req.Header)
		return &authenticator.Response{User: u}, true, nil
	})
}

// strip takes the headers out, so that nothing behind takes them for its own client's.
func (f FrontProxy) strip(h http.Header) {
	for _, names := range [][]string{f.UsernameHeaders, f.UIDHeaders, f.GroupHeaders} {
		for _, name := range names {
			h.Del(name)
		}
	}
	for header := range h {
		for _, prefix := range f.ExtraHeaderPrefixes {
			if len(header) >= len(prefix) && strings.EqualFold(header[:len(prefix)], prefix) {
				delete(h, header)
			}
		}
	}
}

func first(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// extraKey reads the key of an extra field out of a header's name, where what headers cannot hold is percent-encoded.
func extraKey(encoded string) string {
	encoded = strings.ToLower(encoded)
	if key, err := url.PathUnescape(encoded); err == nil {
		return key
	}
	return encoded
}
