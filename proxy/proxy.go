// Package proxy makes Services reachable from this node: it watches Services and EndpointSlices, compiles
// them to a ruleset, and keeps the kernel's table equal to it. Its invariant: the table changes in whole transactions,
// so at no moment does a packet see half of a change.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/handover"
	"github.com/coracle-dev/coracle/internal/iface"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/proxy/announce"
	"github.com/coracle-dev/coracle/proxy/dns"
	"github.com/coracle-dev/coracle/proxy/health"
	"github.com/coracle-dev/coracle/proxy/ingress"
	"github.com/coracle-dev/coracle/proxy/nft"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// Config is what Run needs.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	// NodeIP is the source address of this machine's own connections to services.
	NodeIP netip.Addr
	// ServiceCIDR holds the cluster IPs, besides the ranges of the cluster's ServiceCIDRs. There is a route to them.
	ServiceCIDR netip.Prefix
	// PodCIDR holds the pods' addresses: other clients of a cluster IP are masqueraded. Invalid: those that the Node says this node's pods have.
	PodCIDR netip.Prefix
	// NodePorts are the addresses of this node at which node ports answer; nil: all, 127.0.0.1 too.
	NodePorts []netip.Prefix
	// Sysctls sets kernel parameters.
	Sysctls *sysctl.Keeper
	// HealthAddress is where to serve kube-proxy's /healthz and /livez; empty: nowhere.
	HealthAddress string
	// Metrics counts what is done; nil counts for nobody to see.
	Metrics *Metrics
	// DNS is the address names are served on; invalid: no DNS.
	DNS           netip.Addr
	ClusterDomain string
	// Announce answers on the node's link for addresses of load balancers.
	Announce bool
	// Ingress serves Ingresses; nil serves none. Its Client, Factory and NodeName are set here.
	Ingress *ingress.Config
	// ResolvConf names the servers that other names are asked of; empty: /etc/resolv.conf.
	ResolvConf string
	// DNSClients are the addresses of pods, who may ask for names outside of the cluster besides this machine; none: everybody may.
	DNSClients []netip.Prefix
	// DNSMetrics counts what is asked; nil counts for the address of DNS alone.
	DNSMetrics *dns.Metrics
	// DNSSockets keeps the sockets of DNS open over a restart; nil closes them.
	DNSSockets *handover.Queue
}

// Run keeps the node's services and names until ctx ends. The rules stay behind, so that services go on working
// while the proxy restarts. To be called in the node's network namespace.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	trimmer := &trimmer{}
	factory := client.Informers(cfg.Client, informers.WithTransform(trimmer.trim))
	p, err := newProxy(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = p.table.Close() }()
	events, err := p.watch(factory)
	if err != nil {
		return err
	}
	node := p.watchNode(trimmer.trim)
	p.watchCIDRs(factory)
	if p.links, err = newLinkWatch(cfg, p.touch); err != nil {
		return err
	}
	listens, err := p.table.Watch(ctx, p.touch)
	if err != nil {
		return err
	}
	runs := []func(context.Context) error{p.flows.run, p.links.run, func(context.Context) error { return listens() }, func(ctx context.Context) error {
		factory.Start(ctx.Done())
		node.Start(ctx.Done())
		if !cache.WaitForCacheSync(ctx.Done(), append(events, p.soon())...) {
			return nil
		}
		return p.loop(ctx)
	}}
	if cfg.HealthAddress != "" {
		runs = append(runs, func(ctx context.Context) error { return p.health.Serve(ctx, cfg.HealthAddress) })
	}
	others, err := p.others(factory)
	if err != nil {
		return err
	}
	return run.All(ctx, append(runs, others...)...)
}

// others makes what else follows the same objects; the factory is not started yet.
func (p *proxy) others(factory informers.SharedInformerFactory) (runs []func(context.Context) error, err error) {
	cfg := p.cfg
	if cfg.DNS.IsValid() {
		server, err := dns.New(dns.Config{Factory: factory, Slices: p.slicesOf, Client: cfg.Client, Addr: cfg.DNS, Domain: cfg.ClusterDomain,
			ResolvConf: cfg.ResolvConf, Clients: cfg.DNSClients, Metrics: cfg.DNSMetrics, Sockets: cfg.DNSSockets})
		if err != nil {
			return nil, err
		}
		runs = append(runs, server.Run)
	}
	if cfg.Announce {
		announcer, err := announce.New(announce.Config{Client: cfg.Client, Factory: factory, Slices: p.slicesOf, NodeName: cfg.NodeName, NodeIP: cfg.NodeIP, Ready: p.applied})
		if err != nil {
			return nil, err
		}
		runs = append(runs, announcer.Run)
	}
	if cfg.Ingress != nil {
		own := *cfg.Ingress
		own.Client, own.Factory, own.NodeName = cfg.Client, factory, cfg.NodeName
		server, err := ingress.New(own)
		if err != nil {
			return nil, err
		}
		runs = append(runs, server.Run)
	}
	return runs, nil
}

// newProxy makes what Run runs, and the service link.
func newProxy(ctx context.Context, cfg Config) (*proxy, error) {
	p := &proxy{cfg: cfg, log: slog.With("component", "proxy"), started: time.Now(), wake: make(chan struct{}, 1), touched: make(chan struct{}, 1), applied: make(chan struct{}), pending: newPending()}
	p.health = health.NewProxy(cfg.Metrics.asked)
	p.checks = health.NewServices(ctx, health.Everywhere, p.health.Healthy)
	p.state, p.table = ruleset.NewState(), nft.New(p.rules())
	var err error
	if p.flows, err = newFlows(p.log, cfg.Metrics); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if err := ensureLink(cfg, p.rules().Services); err != nil {
		return nil, fmt.Errorf("proxy: link %s: %w", ServiceLink, err)
	}
	return p, p.allowLoopback()
}

// allowLoopback lets the kernel route connections to node ports that begin on the loopback.
func (p *proxy) allowLoopback() error {
	if p.cfg.NodePorts != nil || p.cfg.Sysctls == nil {
		return nil
	}
	return p.cfg.Sysctls.Set("net.ipv4.conf.all.route_localnet", "1")
}

// rules is what the rules that every packet passes are made of.
func (p *proxy) rules() nft.Config {
	cfg := nft.Config{NodePorts: p.cfg.NodePorts, Pods: p.cfg.PodCIDR, Services: p.cidrs}
	if p.cfg.ServiceCIDR.IsValid() && !slices.Contains(p.cidrs, p.cfg.ServiceCIDR) {
		cfg.Services = append([]netip.Prefix{p.cfg.ServiceCIDR}, p.cidrs...)
	}
	if !cfg.Pods.IsValid() {
		cfg.Pods = p.podCIDR
	}
	return cfg
}

// Cleanup removes the rules and the link from this network namespace.
func Cleanup() error {
	return errors.Join(nft.Delete(), iface.Delete(ServiceLink))
}
