package main

import (
	"context"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/proxy"
)

// proxyOptions are the service proxy's own flags.
type proxyOptions struct {
	nodePortAddresses []string
	health            string
}

func proxyFlags(o *options, f *pflag.FlagSet) {
	f.StringSliceVar(&o.proxy.nodePortAddresses, "nodeport-addresses", nil, "ranges of this node's addresses at which node ports answer, as 192.0.2.0/24, or primary for the node's own address (default: all its addresses)")
}

// lonelyProxyFlags are those of the proxy alone: nothing is known of the cluster but what its API says.
func lonelyProxyFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.nodeName, "node-name", "", "the node's name (default: the host's name, in lower case)")
	f.StringVar(&o.nodeIP, "node-ip", "", "the node's address (default: that of the default route)")
	f.StringVar(&o.podCIDR, "pod-cidr", "", "addresses of all pods: a cluster IP's other clients are masqueraded (default: those of this node's pods, by its Node)")
	f.StringVar(&o.serviceCIDR, "service-cidr", "", "addresses of services, besides those of the cluster's ServiceCIDRs: there is a route to them, and those of no service refuse")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "address to answer for the cluster's names on (default: none)")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster's names")
	f.StringVar(&o.resolvConf, "resolv-conf", "", "file of the servers that DNS asks for other names (default: /etc/resolv.conf, or systemd-resolved's own list)")
}

func proxyHealthFlag(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.proxy.health, "healthz-bind-address", "0.0.0.0:10256", "address and port of /healthz and /livez, which load balancers ask; empty for none")
}

func newProxy() *cobra.Command {
	return command(&cobra.Command{
		Use:   "proxy",
		Short: "Run the service proxy alone, on any Kubernetes cluster's node",
	}, func(cmd *cobra.Command, o *options) error {
		if err := needRoot("coracle proxy"); err != nil {
			return err
		}
		if err := checkNftables(); err != nil {
			return neverAgain("this kernel has no nftables (%v): load or build the nf_tables module", err)
		}
		config, err := o.lonelyProxyConfig()
		if err != nil {
			return err
		}
		if config.Client, err = o.clientset("proxy"); err != nil {
			return err
		}
		return run.All(cmd.Context(), o.serveMetrics(config.Metrics), func(ctx context.Context) error { return proxy.Run(ctx, config) })
	}, commonFlags, lonelyProxyFlags, proxyFlags, proxyHealthFlag, kubeconfigFlag, metricsFlag)
}

// lonelyProxyConfig is that of a proxy whose cluster may be any one.
func (o *options) lonelyProxyConfig() (proxy.Config, error) {
	config, err := o.nodeProxyConfig()
	if err != nil {
		return config, err
	}
	config.HealthAddress, config.ClusterDomain = o.proxy.health, strings.Trim(o.clusterDomain, ".")
	if o.podCIDR != "" {
		if config.PodCIDR, err = parseCIDR("--pod-cidr", o.podCIDR, 32); err != nil {
			return config, err
		}
	}
	if o.serviceCIDR != "" {
		if config.ServiceCIDR, err = parseCIDR("--service-cidr", o.serviceCIDR, 32); err != nil {
			return config, err
		}
	}
	if o.clusterDNS != "" {
		if config.DNS, err = netip.ParseAddr(o.clusterDNS); err != nil || !config.DNS.Is4() {
			return config, usage("--cluster-dns %q: want an IPv4 address", o.clusterDNS)
		}
	}
	return config, nil
}

// proxyConfig is that of the proxy of one of this cluster's nodes.
func (o *options) proxyConfig(kube kubernetes.Interface) (proxy.Config, error) {
	c, err := o.cluster()
	if err != nil {
		return proxy.Config{}, err
	}
	config, err := o.nodeProxyConfig()
	if err != nil {
		return config, err
	}
	config.Client, config.PodCIDR, config.ServiceCIDR, config.DNS, config.ClusterDomain = kube, c.pods, c.services, c.dns, c.domain
	config.Announce = true
	return config, nil
}

// nodeProxyConfig is what depends on the machine alone.
func (o *options) nodeProxyConfig() (proxy.Config, error) {
	name, err := o.resolveNodeName()
	if err != nil {
		return proxy.Config{}, err
	}
	addrs, err := o.nodeAddresses()
	if err != nil {
		return proxy.Config{}, err
	}
	config := proxy.Config{NodeName: name, NodeIP: addrs[0], Sysctls: sysctl.NewKeeper(o.layout.Sysctls()), Metrics: proxy.NewMetrics(), ResolvConf: o.resolverFile()}
	for _, text := range o.proxy.nodePortAddresses {
		cidr := netip.PrefixFrom(addrs[0], addrs[0].BitLen())
		if text != "primary" {
			if cidr, err = parseCIDR("--nodeport-addresses", text, 32); err != nil {
				return config, err
			}
		}
		config.NodePorts = append(config.NodePorts, cidr)
	}
	return config, nil
}

func cleanupProxy() error { return proxy.Cleanup() }
