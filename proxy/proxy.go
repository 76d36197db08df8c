// Package proxy makes Services reachable from this node: it watches Services and EndpointSlices, compiles
// them to a ruleset, and keeps the kernel's table equal to it. Its invariant: the table changes in whole transactions,
// so at no moment does a packet see half of a change.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/handover"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/proxy/announce"
	"github.com/coracle-dev/coracle/proxy/dns"
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
	// ServiceCIDR holds the cluster IPs.
	ServiceCIDR netip.Prefix
	// DNS is the address names are served on; invalid: no DNS.
	DNS           netip.Addr
	ClusterDomain string
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

// settle is how long changes are collected before they are applied together.
const settle = 5 * time.Millisecond

// checkEvery is how often the table is looked for, in case someone flushed it.
const checkEvery = 30 * time.Second

type proxy struct {
	cfg      Config
	log      *slog.Logger
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	byName   cache.Indexer
	dirty    chan string
	// applied is closed once the table is what it should be for the first time.
	applied chan struct{}

	table    *nft.Table
	compiled map[string]ruleset.Ruleset // by service namespace/name
	current  ruleset.Ruleset
}

// serviceIndex finds EndpointSlices by the namespace/name of their service.
const serviceIndex = "service"

// Run keeps the node's services and names until ctx ends. The rules stay behind, so that services go on working
// while the proxy restarts.
func Run(ctx context.Context, cfg Config) error {
	factory := client.Informers(cfg.Client)
	p := &proxy{
		cfg:      cfg,
		log:      slog.With("component", "proxy"),
		services: factory.Core().V1().Services().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
		dirty:    make(chan string, 1024),
		applied:  make(chan struct{}),
		table:    nft.New(nft.Config{Link: ServiceLink, Services: cfg.ServiceCIDR}),
		compiled: map[string]ruleset.Ruleset{},
	}
	if err := ensureLink(cfg); err != nil {
		return fmt.Errorf("proxy: link %s: %w", ServiceLink, err)
	}
	synced, err := p.watch(ctx, factory)
	if err != nil {
		return err
	}
	runs := []func(context.Context) error{func(ctx context.Context) error {
		factory.Start(ctx.Done())
		if !cache.WaitForCacheSync(ctx.Done(), synced...) {
			return nil
		}
		return p.loop(ctx)
	}}
	if cfg.DNS.IsValid() {
		server, err := dns.New(dns.Config{Factory: factory, Slices: p.slicesOf, Client: cfg.Client, Addr: cfg.DNS, Domain: cfg.ClusterDomain,
			ResolvConf: cfg.ResolvConf, Clients: cfg.DNSClients, Metrics: cfg.DNSMetrics, Sockets: cfg.DNSSockets})
		if err != nil {
			return err
		}
		runs = append(runs, server.Run)
	}
	announcer, err := announce.New(announce.Config{Client: cfg.Client, Factory: factory, Slices: p.slicesOf, NodeName: cfg.NodeName, NodeIP: cfg.NodeIP, Ready: p.applied})
	if err != nil {
		return err
	}
	runs = append(runs, announcer.Run)
	if cfg.Ingress != nil {
		own := *cfg.Ingress
		own.Client, own.Factory, own.NodeName = cfg.Client, factory, cfg.NodeName
		server, err := ingress.New(own)
		if err != nil {
			return err
		}
		runs = append(runs, server.Run)
	}
	return run.All(ctx, runs...)
}

func (p *proxy) watch(ctx context.Context, factory informers.SharedInformerFactory) ([]cache.InformerSynced, error) {
	changed := func(key string) {
		select {
		case p.dirty <- key:
		case <-ctx.Done():
		}
	}
	services := factory.Core().V1().Services().Informer()
	slices := factory.Discovery().V1().EndpointSlices().Informer()
	err := slices.AddIndexers(cache.Indexers{serviceIndex: func(obj any) ([]string, error) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
			return nil, nil
		}
		return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
	}})
	if err != nil {
		return nil, err
	}
	p.byName = slices.GetIndexer()
	_, err = services.AddEventHandler(handler(func(obj any) {
		if service, ok := obj.(*corev1.Service); ok {
			changed(service.Namespace + "/" + service.Name)
		}
	}))
	if err != nil {
		return nil, err
	}
	_, err = slices.AddEventHandler(handler(func(obj any) {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			changed(slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName])
		}
	}))
	// The informers' own HasSynced, not the handlers': those block on the channel until the loop runs.
	return []cache.InformerSynced{services.HasSynced, slices.HasSynced}, err
}

// handler calls fn with the object of any event, and with both where one replaces the other.
func handler(fn func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    fn,
		UpdateFunc: func(old, obj any) { fn(old); fn(obj) },
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			fn(obj)
		},
	}
}

// loop applies the whole state, then what changes.
func (p *proxy) loop(ctx context.Context) error {
	if err := p.replaceAll(); err != nil {
		return err
	}
	close(p.applied)
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	pending := map[string]bool{}
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-p.dirty:
			pending[key] = true
			if due == nil {
				due = time.After(settle)
			}
		case <-due:
			due = nil
			if err := p.update(pending); err != nil {
				p.log.Error("cannot apply services; trying again", "error", err)
				due = time.After(time.Second)
				continue
			}
			clear(pending)
		case <-check.C:
			if present, err := p.table.Present(); err == nil && !present {
				p.log.Warn("the table of services was removed by someone else; making it anew")
				if err := p.table.Replace(p.current); err != nil {
					p.log.Error("cannot make the table of services", "error", err)
				}
			}
			if err := ensureLink(p.cfg); err != nil {
				p.log.Error("cannot repair the services' link", "error", err)
			}
		}
	}
}

func (p *proxy) replaceAll() error {
	services, err := p.services.List(labels.Everything())
	if err != nil {
		return err
	}
	p.current = ruleset.Ruleset{}
	for _, service := range services {
		key := service.Namespace + "/" + service.Name
		rules := p.compile(key)
		p.compiled[key] = rules
		p.current.Apply(nil, rules)
	}
	return p.table.Replace(p.current)
}

func (p *proxy) compile(key string) ruleset.Ruleset {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	service, err := p.services.Services(namespace).Get(name)
	if err != nil {
		return nil // deleted
	}
	return ruleset.Compile(service, p.slicesOf(key), p.cfg.NodeName)
}

// slicesOf lists a service's EndpointSlices.
func (p *proxy) slicesOf(key string) []*discoveryv1.EndpointSlice {
	found, err := p.byName.ByIndex(serviceIndex, key)
	if err != nil {
		return nil
	}
	endpointSlices := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, obj := range found {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			endpointSlices = append(endpointSlices, slice)
		}
	}
	return endpointSlices
}

// update compiles the services that changed and applies the difference.
func (p *proxy) update(changed map[string]bool) error {
	next := make(ruleset.Ruleset, len(p.current))
	next.Apply(nil, p.current)
	compiled := make(map[string]ruleset.Ruleset, len(changed))
	for key := range changed {
		next.Apply(p.compiled[key], nil)
	}
	for key := range changed {
		compiled[key] = p.compile(key)
		next.Apply(nil, compiled[key])
	}
	if err := p.table.Update(next); err != nil {
		return err
	}
	forgetConnections(p.current, next, p.log)
	p.current = next
	for key, rules := range compiled {
		if len(rules) == 0 {
			delete(p.compiled, key)
		} else {
			p.compiled[key] = rules
		}
	}
	return nil
}

// Cleanup removes the rules and the link from this network namespace.
func Cleanup() error {
	if err := nft.Delete(); err != nil {
		return err
	}
	return deleteLink()
}
