package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/proxy/health"
	"github.com/coracle-dev/coracle/proxy/nft"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

// How long changes are collected before they are applied together, and how long after a failure they are tried again.
const (
	settle = 5 * time.Millisecond
	again  = time.Second
)

type proxy struct {
	cfg          Config
	log          *slog.Logger
	started      time.Time
	services     corelisters.ServiceLister
	byName       cache.Indexer // EndpointSlices
	nodes        corelisters.NodeLister
	serviceCIDRs networkinglisters.ServiceCIDRLister // nil where the cluster has none
	// optional are informers that the first rules wait for, but not for ever.
	optional []cache.InformerSynced

	pending *pending
	wake    chan struct{} // pending has something
	// applied is closed once the table is what it should be for the first time.
	applied chan struct{}
	touched chan struct{} // someone else changed the table or the link

	// What follows is the loop's.
	node    ruleset.Node
	podCIDR netip.Prefix   // what the Node says
	cidrs   []netip.Prefix // what the ServiceCIDRs say, sorted
	state   *ruleset.State
	table   *nft.Table
	// behind: the kernel's table is not what state says, as far as we know.
	behind bool
	// unseen are changes that the kernel may not have yet, whose flows are to be looked at.
	unseen []ruleset.Change
	once   sync.Once
	// noLocal counts ports without local endpoints, by traffic policy.
	noLocal map[string]int

	flows  *flows
	links  *linkWatch
	health *health.Proxy
	checks *health.Services
}

// loop applies the whole state, then what changes.
func (p *proxy) loop(ctx context.Context) error {
	p.behind = true
	p.noLocal = map[string]int{}
	p.note(func(n *pending) { n.everything = true })
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			if due == nil {
				due = time.After(settle)
			}
		case <-p.touched:
			p.repair()
		case <-due:
			due = nil
			if err := p.update(p.pending.take()); err != nil {
				p.log.Error("cannot apply services; trying again", "error", err)
				due = time.After(again)
			}
		}
	}
}

// update compiles the services that changed and applies the difference. After a failure, the next one compares everything with the kernel.
func (p *proxy) update(changed *pending) error {
	started := time.Now()
	p.cfg.Metrics.endpointsPending.Set(0)
	p.cfg.Metrics.servicesPending.Set(0)
	p.follow(changed)
	rules := make([]ruleset.Rules, 0, len(changed.services))
	for key := range changed.services {
		rules = append(rules, p.compile(key))
	}
	p.count(rules, -1)
	changes := p.state.Update(rules...)
	p.count(rules, 1)
	p.unseen = append(p.unseen, changes...)
	for i := range rules {
		p.checks.Set(rules[i].Service, rules[i].Health)
	}
	everything := p.behind || changed.everything
	if err := p.apply(everything, changes); err != nil {
		p.behind = true
		p.cfg.Metrics.failures.Inc()
		return err
	}
	p.behind = false
	p.once.Do(func() { close(p.applied) })
	for i := range p.unseen {
		p.flows.note(&p.unseen[i])
	}
	p.unseen = nil
	p.cfg.Metrics.endpointChanges.Add(float64(changed.endpoints))
	p.cfg.Metrics.serviceChanges.Add(float64(changed.others))
	p.cfg.Metrics.applied(started, everything, changed.triggers)
	p.health.Updated()
	return nil
}

// follow takes what the Node says, and where that matters to all services, they all count as changed.
func (p *proxy) follow(changed *pending) {
	if !changed.everything {
		return
	}
	node := ruleset.Node{Name: p.cfg.NodeName, IP: p.cfg.NodeIP}
	if n, err := p.nodes.Get(p.cfg.NodeName); err == nil {
		node.Zone, p.podCIDR = zoneOf(n), podCIDROf(n)
		p.health.Eligible(eligible(n))
	}
	p.node = node
	p.followCIDRs()
	p.table.Configure(p.rules())
	if err := ensureLink(p.cfg, p.rules().Services); err != nil {
		p.log.Error("cannot repair the services' link", "error", err)
	}
	services, err := p.services.List(labels.Everything())
	if err != nil {
		return // of what is in memory
	}
	for _, service := range services {
		changed.services[service.Namespace+"/"+service.Name] = true
	}
}

func (p *proxy) compile(key string) ruleset.Rules {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return ruleset.Rules{Service: key}
	}
	service, err := p.services.Services(namespace).Get(name)
	if err != nil {
		return ruleset.Rules{Service: key} // deleted
	}
	return ruleset.Compile(service, p.slicesOf(key), p.node)
}

func (p *proxy) apply(everything bool, changes []ruleset.Change) error {
	if !everything {
		return p.table.Update(changes)
	}
	_, err := p.table.Sync(p.state.All())
	return err
}

// count adds what the services' rules are now, n times, to the ports without local endpoints.
func (p *proxy) count(rules []ruleset.Rules, n int) {
	for i := range rules {
		internal, external := p.state.Rules(rules[i].Service).NoLocal()
		p.noLocal["internal"] += n * internal
		p.noLocal["external"] += n * external
	}
	for policy, count := range p.noLocal {
		p.cfg.Metrics.noLocal.WithLabelValues(policy).Set(float64(count))
	}
}

// repair puts right what someone else changed.
func (p *proxy) repair() {
	if err := ensureLink(p.cfg, p.rules().Services); err != nil {
		p.log.Error("cannot repair the services' link", "error", err)
	}
	if p.behind {
		return // a sync is due
	}
	outcome, err := p.table.Sync(p.state.All())
	switch {
	case err != nil:
		p.log.Error("cannot repair the table of services; trying again", "error", err)
		p.behind = true
		signal(p.wake)
	case outcome != nft.Equal:
		p.cfg.Metrics.repairs.Inc()
		p.log.Warn("the table of services was changed by someone else; it is as it should be again", "anew", outcome == nft.Made)
	}
}
