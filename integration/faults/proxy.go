package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Proxy stands before the API server for one client, as which it calls: who reaches its listener needs no credentials.
type Proxy struct {
	*Injector
	listener net.Listener
	server   *http.Server
	ca       []byte
}

// NewProxy serves on the listener, which it takes over, until Close. to leads to the API server.
func NewProxy(to *rest.Config, listener net.Listener, faults *Injector) (*Proxy, error) {
	target, _, err := rest.DefaultServerUrlFor(to)
	if err != nil {
		return nil, err
	}
	onward, err := rest.TransportFor(to)
	if err != nil {
		return nil, err
	}
	certificate, ca, err := selfSigned()
	if err != nil {
		return nil, err
	}
	p := &Proxy{Injector: faults, listener: listener, ca: ca}
	p.server = &http.Server{
		Handler: handler(target, faults.Wrap(onward)), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connection{}, c) },
		ErrorLog:    log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
	}
	go func() { _ = p.server.ServeTLS(listener, "", "") }()
	return p, nil
}

// connection is the key of a request's net.Conn.
type connection struct{}

func handler(target *url.URL, through http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, target.Host
		},
		Transport: through, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			if c, ok := r.Context().Value(connection{}).(net.Conn); ok && errors.Is(err, errCut) {
				_ = c.Close()
			}
			panic(http.ErrAbortHandler) // the client sees its stream reset
		},
	}
}

// Close ends the proxy and all that is under way through it.
func (p *Proxy) Close() { _ = p.server.Close() }

// Kubeconfig writes a kubeconfig that leads through the proxy.
func (p *Proxy) Kubeconfig(path string) error {
	const name = "faults"
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: "https://" + p.listener.Addr().String(), CertificateAuthorityData: p.ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}, path)
}

// selfSigned is a certificate for loopback, and itself in PEM.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "faults"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), nil
}
