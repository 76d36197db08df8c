package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/coracle-dev/coracle/controllers/loadbalancer"
)

// controllersFlags are further flags of whatever runs the controllers.
func controllersFlags(o *options, f *pflag.FlagSet) {
	f.DurationVar(&o.monitorGrace, "node-monitor-grace-period", 50*time.Second, "how long a node may not be heard of until it counts as lost; more than a quarter of the nodes' --node-lease-duration")
	f.IntVar(&o.nodeCIDRBits, "node-cidr-mask-size", 24, "prefix length of each node's range of --pod-cidr")
	f.StringSliceVar(&o.balancerPools, "load-balancer-pools", nil, "addresses for services of type LoadBalancer, as 192.168.1.240-192.168.1.250,10.0.0.0/28, or none to leave such services to others (default: the nodes' addresses)")
	f.StringVar(&o.ingress.publish, "ingress-publish-service", "", "Service, as NAMESPACE/NAME, whose addresses Ingresses get in their status (default: the addresses of the nodes that serve them)")
}

// checkControllers checks controllersFlags.
func (o *options) checkControllers() error {
	if o.monitorGrace < time.Second {
		return usage("--node-monitor-grace-period %s: want a second at least", o.monitorGrace)
	}
	if c, err := o.cluster(); err == nil && (o.nodeCIDRBits < c.pods.Bits() || o.nodeCIDRBits > 30) {
		return usage("--node-cidr-mask-size %d: want %d, the prefix length of --pod-cidr %s, to 30", o.nodeCIDRBits, c.pods.Bits(), c.pods)
	}
	if err := o.checkPublishedService(); err != nil {
		return err
	}
	_, err := o.loadBalancer()
	return err
}

// loadBalancer is where services of type LoadBalancer have their addresses from.
func (o *options) loadBalancer() (loadbalancer.Config, error) {
	if slices.Equal(o.balancerPools, []string{"none"}) {
		return loadbalancer.Config{Off: true}, nil
	}
	c, err := o.cluster()
	if err != nil {
		return loadbalancer.Config{}, err
	}
	cfg := loadbalancer.Config{Cluster: []netip.Prefix{c.pods, c.services}}
	if cfg.Pools, err = loadbalancer.ParseRanges(o.balancerPools); err == nil {
		err = cfg.Pools.CheckAgainst(cfg.Cluster)
	}
	if err != nil {
		return loadbalancer.Config{}, usage("--load-balancer-pools: %w", err)
	}
	return cfg, nil
}
