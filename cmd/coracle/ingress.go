package main

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"

	ingressapi "github.com/coracle-dev/coracle/internal/ingress"
	"github.com/coracle-dev/coracle/proxy/ingress"
)

// ingressOptions say how Ingresses are served.
type ingressOptions struct {
	on          bool
	http, https int
	trusted     []string
	accessLog   bool
	// publish is the Service, as namespace/name, whose addresses Ingresses get in their status.
	publish string
}

func ingressFlag(o *options, f *pflag.FlagSet) {
	f.BoolVar(&o.ingress.on, "ingress", true, "serve Ingresses of class coracle on the nodes' addresses")
}

func ingressNodeFlags(o *options, f *pflag.FlagSet) {
	i := &o.ingress
	f.IntVar(&i.http, "ingress-http", 80, "port for Ingresses; it is listened on while there are any")
	f.IntVar(&i.https, "ingress-https", 443, "port for Ingresses with certificates; it is listened on while there are any")
	f.StringSliceVar(&i.trusted, "ingress-trusted-proxies", nil, "addresses of load balancers in front of Ingresses, as 10.0.0.0/24, whose X-Forwarded headers are believed")
	f.BoolVar(&i.accessLog, "ingress-access-log", false, "log every request to an Ingress")
}

// checkIngress refuses flags that cannot be meant.
func (o *options) checkIngress() error {
	for flag, port := range map[string]int{"--ingress-http": o.ingress.http, "--ingress-https": o.ingress.https} {
		if port < 1 || port > 65535 {
			return usage("%s %d: want a port, 1 to 65535", flag, port)
		}
	}
	if o.ingress.http == o.ingress.https {
		return usage("--ingress-http and --ingress-https are both %d", o.ingress.http)
	}
	_, err := o.trustedProxies()
	return err
}

func (o *options) checkPublishedService() error {
	namespace, name, found := strings.Cut(o.ingress.publish, "/")
	if o.ingress.publish != "" && (!found || namespace == "" || name == "" || strings.Contains(name, "/")) {
		return usage("--ingress-publish-service %q: want NAMESPACE/NAME", o.ingress.publish)
	}
	return nil
}

func (o *options) trustedProxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range o.ingress.trusted {
		p, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); single == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, usage("--ingress-trusted-proxies %q: want an address or a range such as 10.0.0.0/24", text)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// ingressConfig is how the node serves Ingresses; nil: it does not.
func (n *node) ingressConfig() (*ingress.Config, error) {
	if !n.o.ingress.on {
		return nil, nil
	}
	addrs, err := n.o.nodeAddresses()
	if err != nil {
		return nil, err
	}
	trusted, err := n.o.trustedProxies()
	if err != nil {
		return nil, err
	}
	n.ingress = ingress.NewMetrics()
	return &ingress.Config{
		Addresses: addrs, HTTPPort: n.o.ingress.http, HTTPSPort: n.o.ingress.https, TrustedProxies: trusted, AccessLog: n.o.ingress.accessLog, Metrics: n.ingress,
	}, nil
}

// labels are those of the node: what was given, and whether it serves Ingresses, so that their status does not lead to one that does not.
func (o *options) labels() map[string]string {
	all := map[string]string{ingressapi.NodeLabel: strconv.FormatBool(o.ingress.on)}
	for key, value := range o.nodeLabels {
		all[key] = value
	}
	return all
}

// withIngressMetrics adds /metrics/ingress to the node's API.
func (n *node) withIngressMetrics(api http.Handler) http.Handler {
	if n.ingress == nil {
		return api
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.ingress)
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics/ingress" {
			handler.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}
