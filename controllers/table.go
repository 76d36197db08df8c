package controllers

import (
	"context"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"github.com/coracle-dev/coracle/controllers/attachdetach"
	"github.com/coracle-dev/coracle/controllers/autoscale"
	"github.com/coracle-dev/coracle/controllers/bootstrap"
	"github.com/coracle-dev/coracle/controllers/certificates"
	"github.com/coracle-dev/coracle/controllers/clusterroleaggregation"
	"github.com/coracle-dev/coracle/controllers/cronjob"
	"github.com/coracle-dev/coracle/controllers/daemonset"
	"github.com/coracle-dev/coracle/controllers/deployment"
	"github.com/coracle-dev/coracle/controllers/disruption"
	"github.com/coracle-dev/coracle/controllers/endpoints"
	"github.com/coracle-dev/coracle/controllers/endpointslice"
	"github.com/coracle-dev/coracle/controllers/endpointslicemirror"
	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/ephemeralvolume"
	"github.com/coracle-dev/coracle/controllers/garbage"
	"github.com/coracle-dev/coracle/controllers/ingressstatus"
	"github.com/coracle-dev/coracle/controllers/job"
	"github.com/coracle-dev/coracle/controllers/loadbalancer"
	"github.com/coracle-dev/coracle/controllers/localprovisioner"
	"github.com/coracle-dev/coracle/controllers/namespace"
	"github.com/coracle-dev/coracle/controllers/networkpolicy"
	"github.com/coracle-dev/coracle/controllers/nodeipam"
	"github.com/coracle-dev/coracle/controllers/nodelifecycle"
	"github.com/coracle-dev/coracle/controllers/nodettl"
	"github.com/coracle-dev/coracle/controllers/podgc"
	"github.com/coracle-dev/coracle/controllers/policystatus"
	"github.com/coracle-dev/coracle/controllers/replicaset"
	"github.com/coracle-dev/coracle/controllers/resourceclaim"
	"github.com/coracle-dev/coracle/controllers/resourcequota"
	"github.com/coracle-dev/coracle/controllers/rootca"
	"github.com/coracle-dev/coracle/controllers/scales"
	"github.com/coracle-dev/coracle/controllers/serviceaccount"
	"github.com/coracle-dev/coracle/controllers/serviceaccounttoken"
	"github.com/coracle-dev/coracle/controllers/servicecidr"
	"github.com/coracle-dev/coracle/controllers/statefulset"
	"github.com/coracle-dev/coracle/controllers/ttlafterfinished"
	"github.com/coracle-dev/coracle/controllers/volumebinder"
	"github.com/coracle-dev/coracle/controllers/volumeprotection"
)

// runner is a controller that is ready to run.
type runner interface {
	Run(ctx context.Context) error
}

// table lists the controllers. A nil runner means that the configuration leaves that one nothing to do.
var table = []struct {
	name  string
	start func(Config, env.Env) (runner, error)
}{
	{"replicaset", func(_ Config, e env.Env) (runner, error) { return replicaset.New(e) }},
	{"replicationcontroller", func(_ Config, e env.Env) (runner, error) { return replicaset.NewForReplicationControllers(e) }},
	{"deployment", func(_ Config, e env.Env) (runner, error) { return deployment.New(e) }},
	{"statefulset", func(_ Config, e env.Env) (runner, error) { return statefulset.New(e) }},
	{"job", func(_ Config, e env.Env) (runner, error) { return job.New(e) }},
	{"cronjob", func(_ Config, e env.Env) (runner, error) { return cronjob.New(e) }},
	{"ttlafterfinished", func(_ Config, e env.Env) (runner, error) { return ttlafterfinished.New(e), nil }},
	{"daemonset", func(_ Config, e env.Env) (runner, error) { return daemonset.New(e) }},
	{"endpoints", func(_ Config, e env.Env) (runner, error) { return endpoints.New(e), nil }},
	{"endpointslice", func(_ Config, e env.Env) (runner, error) { return endpointslice.New(e) }},
	{"endpointslicemirror", func(_ Config, e env.Env) (runner, error) { return endpointslicemirror.New(e) }},
	{"networkpolicy", func(_ Config, e env.Env) (runner, error) { return networkpolicy.New(e) }},
	{"namespace", func(c Config, e env.Env) (runner, error) {
		d, m, err := c.generic()
		if err != nil {
			return nil, err
		}
		return namespace.New(e, d, m), nil
	}},
	{"garbage", func(c Config, e env.Env) (runner, error) {
		d, m, err := c.generic()
		if err != nil {
			return nil, err
		}
		return garbage.New(e, d, m)
	}},
	{"resourcequota", func(c Config, e env.Env) (runner, error) {
		d, m, err := c.generic()
		if err != nil {
			return nil, err
		}
		return resourcequota.New(e, d, m), nil
	}},
	{"loadbalancer", func(c Config, e env.Env) (runner, error) {
		if c.LoadBalancer.Off {
			return nil, nil
		}
		return loadbalancer.New(e, c.LoadBalancer), nil
	}},
	{"servicecidr", func(_ Config, e env.Env) (runner, error) { return servicecidr.New(e), nil }},
	{"podgc", func(c Config, e env.Env) (runner, error) { return podgc.New(e, c.TerminatedPodThreshold), nil }},
	{"policystatus", func(_ Config, e env.Env) (runner, error) { return policystatus.New(e), nil }},
	{"clusterroleaggregation", func(_ Config, e env.Env) (runner, error) { return clusterroleaggregation.New(e), nil }},
	{"serviceaccount", func(_ Config, e env.Env) (runner, error) { return serviceaccount.New(e), nil }},
	{"serviceaccounttoken", func(c Config, e env.Env) (runner, error) {
		if c.SignToken == nil {
			return nil, nil
		}
		return serviceaccounttoken.New(e, c.SignToken, c.ClusterCA)
	}},
	{"rootca", func(c Config, e env.Env) (runner, error) {
		if len(c.ClusterCA) == 0 {
			return nil, nil
		}
		return rootca.New(e, c.ClusterCA), nil
	}},
	{"csrapproving", func(_ Config, e env.Env) (runner, error) { return certificates.NewApprover(e), nil }},
	{"csrsigning", func(c Config, e env.Env) (runner, error) {
		if c.SigningKey == nil {
			return nil, nil
		}
		ca, err := certificates.ParseAuthority(c.ClusterCA, c.SigningKey)
		if err != nil {
			return nil, err
		}
		ca.Longest = c.SigningDuration
		return certificates.NewSigner(e, ca), nil
	}},
	{"csrcleaner", func(_ Config, e env.Env) (runner, error) { return certificates.NewCleaner(e), nil }},
	{"disruption", func(c Config, e env.Env) (runner, error) {
		s, err := scales.New(c.RestConfig, c.Clock)
		if err != nil {
			return nil, err
		}
		return disruption.New(e, s), nil
	}},
	{"horizontalpodautoscaler", func(c Config, e env.Env) (runner, error) {
		s, err := scales.New(c.RestConfig, c.Clock)
		if err != nil {
			return nil, err
		}
		return autoscale.New(e, c.RestConfig, s, c.Autoscaling)
	}},
	{"attachdetach", func(_ Config, e env.Env) (runner, error) { return attachdetach.New(e) }},
	{"ephemeralvolume", func(_ Config, e env.Env) (runner, error) { return ephemeralvolume.New(e) }},
	{"localprovisioner", func(_ Config, e env.Env) (runner, error) { return localprovisioner.New(e), nil }},
	{"volumebinder", func(_ Config, e env.Env) (runner, error) { return volumebinder.New(e) }},
	{"volumeprotection", func(_ Config, e env.Env) (runner, error) { return volumeprotection.New(e), nil }},
	{"tokencleaner", func(_ Config, e env.Env) (runner, error) { return bootstrap.NewCleaner(e), nil }},
	{"bootstrapsigner", func(_ Config, e env.Env) (runner, error) { return bootstrap.NewSigner(e), nil }},
	{"resourceclaim", func(_ Config, e env.Env) (runner, error) { return resourceclaim.New(e) }},
	{"ttl", func(_ Config, e env.Env) (runner, error) { return nodettl.New(e), nil }},
	{"ingressstatus", func(c Config, e env.Env) (runner, error) {
		if !c.Ingress {
			return nil, nil
		}
		return ingressstatus.New(e, c.IngressService)
	}},
	{"nodelifecycle", func(c Config, e env.Env) (runner, error) { return nodelifecycle.New(e, c.NodeMonitorGrace) }},
	{"tainteviction", func(_ Config, e env.Env) (runner, error) { return nodelifecycle.NewEviction(e) }},
	{"nodeipam", func(c Config, e env.Env) (runner, error) {
		if !c.PodCIDR.IsValid() {
			return nil, nil
		}
		return nodeipam.New(e, c.PodCIDR, c.nodeBits())
	}},
}

// nodeBits is the prefix length of a node's range.
func (c Config) nodeBits() int {
	switch {
	case c.NodeCIDRBits != 0:
		return c.NodeCIDRBits
	case c.PodCIDR.Addr().Is6():
		return 64
	}
	return 24
}

// generic are clients for resources of any kind.
func (c Config) generic() (discovery.DiscoveryInterface, metadata.Interface, error) {
	d, err := discovery.NewDiscoveryClientForConfig(c.RestConfig)
	if err != nil {
		return nil, nil, err
	}
	m, err := metadata.NewForConfig(c.RestConfig)
	return d, m, err
}
