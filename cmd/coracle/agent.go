package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerdclient "github.com/containerd/containerd/v2/client"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/agent"
	"github.com/coracle-dev/coracle/agent/containerd"
	"github.com/coracle-dev/coracle/agent/identity"
	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/nodeapi"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/agent/stats"
	"github.com/coracle-dev/coracle/agent/tunnel"
	"github.com/coracle-dev/coracle/internal/assets"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/handover"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/proxy"
	"github.com/coracle-dev/coracle/proxy/dns"
	"github.com/coracle-dev/coracle/proxy/ingress"
)

// containerdNamespace keeps our containers apart from others' in a shared containerd.
const containerdNamespace = "coracle"

func newAgent() *cobra.Command {
	return command(&cobra.Command{
		Use:   "agent",
		Short: "Run a node: agent, proxy and containerd, in the foreground",
	}, func(cmd *cobra.Command, o *options) error {
		if err := needRoot("coracle agent"); err != nil {
			return err
		}
		if err := checkNode(); err != nil {
			return err
		}
		id, err := o.join(cmd.Context())
		if err != nil {
			return err
		}
		config, err := id.REST()
		if err != nil {
			return err
		}
		if err := o.learn(cmd.Context(), config, cmd.Flags()); err != nil {
			return ignoreEnd(cmd.Context(), err)
		}
		n := &node{o: o, config: config, identity: id}
		return run.All(cmd.Context(), keepSmall, n.run)
	}, commonFlags, clusterFlags, agentFlags, networkFlags, cniFlags, proxyFlags, evictionFlags, imageFlags, joinFlags, kubeconfigFlag, ingressNodeFlags)
}

func newContainerd() *cobra.Command {
	var layoutOnly options
	var debug bool
	cmd := &cobra.Command{
		Use:    "containerd",
		Short:  "The containerd child of the agent",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return containerd.Main(cmd.Context(), containerd.Config{Layout: layoutOnly.layout, Debug: debug})
		},
	}
	placeFlags(&layoutOnly, cmd.Flags())
	cmd.Flags().BoolVar(&debug, "debug", false, "log every step")
	return cmd
}

// node is one node's parts.
type node struct {
	o *options
	// config is how the agent and the proxy reach the API server.
	config *restclient.Config
	// identity is by what the API server knows the node over the network: the tunnel needs it in any case.
	identity *identity.Identity
	// ingress counts what is asked of Ingresses; nil none are served.
	ingress *ingress.Metrics
	// names counts what is asked of the node's DNS.
	names *dns.Metrics
	// sysctls is the one that all of them set kernel parameters by.
	sysctls *sysctl.Keeper
}

// run keeps containerd, the agent and the proxy until ctx ends. Containers and containerd outlive it.
func (n *node) run(ctx context.Context) error {
	if err := assets.Unpack(n.o.layout); err != nil {
		return err
	}
	kube, err := client.Config{RestConfig: n.config, Component: "proxy"}.Clientset()
	if err != nil {
		return err
	}
	proxyConfig, err := n.o.proxyConfig(kube)
	if err != nil {
		return err
	}
	if proxyConfig.Ingress, err = n.ingressConfig(); err != nil {
		return err
	}
	c, err := n.o.cluster()
	if err != nil {
		return err
	}
	n.names = dns.NewMetrics()
	proxyConfig.DNSMetrics, proxyConfig.DNSClients, proxyConfig.DNSSockets = n.names, []netip.Prefix{c.pods}, handover.FromEnvironment()
	n.sysctls = proxyConfig.Sysctls
	runs := []func(context.Context) error{
		n.identity.Run,
		n.runAgent,
		func(ctx context.Context) error { return proxy.Run(ctx, proxyConfig) },
	}
	if n.o.containerd == "" {
		supervisor := containerd.Supervisor{Config: containerd.Config{Layout: n.o.layout}}
		runs = append(runs, supervisor.Supervise)
	}
	return run.All(ctx, runs...)
}

func (n *node) runAgent(ctx context.Context) error {
	addrs, err := n.o.nodeAddresses()
	if err != nil {
		return err
	}
	c, err := n.o.cluster()
	if err != nil {
		return err
	}
	name, err := n.o.resolveNodeName()
	if err != nil {
		return err
	}
	conn, err := n.o.dialContainerd(ctx)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	defer conn.Close()
	version, err := conn.Version(ctx)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	store, err := images.New(ctx, images.Config{Client: conn, CertsDir: n.o.images.registries, TempDir: filepath.Join(n.o.layout.Run, "tmp")})
	if err != nil {
		return err
	}
	policy, err := n.o.evictionPolicy()
	if err != nil {
		return err
	}
	machine, err := n.o.machine(ctx, store)
	if err != nil {
		return err
	}
	binary, err := runtimeBinary()
	if err != nil {
		return err
	}
	reserved, err := n.o.reserved.list()
	if err != nil {
		return err
	}
	handlers := n.o.handlers()
	logSize, err := n.o.containerLogs()
	if err != nil {
		return err
	}
	ids, err := n.o.security.idRange()
	if err != nil {
		return err
	}
	containers, err := runtime.New(runtime.Config{
		Layout: n.o.layout, PodIDs: ids, Namespace: containerdNamespace, Client: conn, Images: store, Address: n.o.containerdAddress(), OCIRuntime: binary, Handlers: handlers,
		LogSize: logSize, LogFiles: n.o.logFiles})
	if err != nil {
		return err
	}
	support, err := n.o.security.support(containers.Features(ctx))
	if err != nil {
		return err
	}
	kube, err := client.Config{RestConfig: n.config, Component: "network"}.Clientset()
	if err != nil {
		return err
	}
	pods, runPods := n.podNetwork(kube, name, addrs[0], c, containers.NetNS)
	policies := networkPolicies(kube, name, pods)
	bundles := images.Bundles{Dir: cmp.Or(n.o.images.bundles, n.o.layout.Images()), Store: store}
	return run.All(ctx, containers.Run, bundles.Run, runPods, policies.Run, func(ctx context.Context) error {
		return agent.Run(ctx, agent.Config{
			RestConfig: n.config, NodeName: name, Layout: n.o.layout, NodeIPs: addrs,
			ResolvConf: n.o.resolverFile(), ClusterDNS: []netip.Addr{c.dns}, ClusterDomain: c.domain, Labels: n.o.labels(), Taints: n.o.taints.list,
			CgroupRoot: cgroupRoot(n.o.layout), Reserved: reserved, PodPids: n.o.podPids, Handlers: slices.Collect(maps.Keys(handlers)), Support: support,
			LeaseDuration: n.o.leaseLife,
			Shutdown:      agent.Shutdown{Grace: n.o.shutdown, CriticalGrace: n.o.shutdownCritical, Imminent: powerFails(ctx)},
			Manifests:     cmp.Or(n.o.manifests, n.o.layout.Manifests()),
			Sandboxes:     containers, Containers: containers, Usage: containers, Images: store, Network: pods, Policies: policies, VolumeImages: store,
			Eviction: policy, Observe: machine.Observe, Alarm: machine.Alarm(ctx), SplitImages: machine.Split(),
			ImageGC: &n.o.images.gc, ParallelPulls: n.o.images.parallel,
			RuntimeVersion: "containerd://" + version.Version,
			Serve: func(ctx context.Context, pods agent.NodePods) error {
				usage := stats.New(stats.Config{NodeName: name, Runtime: containers, Pods: pods, Data: n.o.layout.Data, Also: []prometheus.Collector{n.names}})
				return n.serve(ctx, nodeapi.Config{Runtime: containers, Pods: pods, Stats: usage, Settings: n.o.settings(c), SystemLogs: "/var/log"})
			},
		})
	})
}

// settings are those of a KubeletConfiguration that have a meaning here.
func (o *options) settings(c cluster) map[string]any {
	return map[string]any{
		"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
		"clusterDNS": []string{c.dns.String()}, "clusterDomain": c.domain, "cgroupDriver": "cgroupfs", "cgroupRoot": "/" + strings.Trim(cgroupRoot(o.layout), "/"),
		"containerLogMaxSize": o.logSize, "containerLogMaxFiles": o.logFiles, "containerRuntimeEndpoint": "unix://" + o.containerdAddress(),
		"enableServer": false, "enableSystemLogHandler": true, "enableSystemLogQuery": false, "serverTLSBootstrap": false, "port": 0, "readOnlyPort": 0,
		"streamingConnectionIdleTimeout": nodeapi.IdleTimeout.String(), "podLogsDir": o.layout.PodLogs(),
	}
}

// powerFails is sent to by SIGPWR, which init systems and supplies of power send before the machine goes down.
func powerFails(ctx context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, unix.SIGPWR)
	go func() {
		defer signal.Stop(signals)
		select {
		case <-signals:
			close(out)
		case <-ctx.Done():
		}
	}()
	return out
}

// serve answers the API server's requests through the tunnel.
func (n *node) serve(ctx context.Context, api nodeapi.Config) error {
	tlsConfig, err := n.identity.TLS()
	if err != nil {
		return err
	}
	return tunnel.Run(ctx, tunnel.Config{Server: n.identity.Server(), TLS: tlsConfig, Renewed: n.identity.Renewed, Handler: n.withIngressMetrics(nodeapi.New(api))})
}

func (o *options) containerdAddress() string {
	if o.containerd != "" {
		return o.containerd
	}
	return o.layout.ContainerdSocket()
}

// dialContainerd connects to containerd, waiting for one that is just starting.
func (o *options) dialContainerd(ctx context.Context) (*containerdclient.Client, error) {
	conn, err := runtime.Dial(o.containerdAddress(), containerdNamespace)
	if err != nil {
		return nil, err
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := conn.Version(attempt)
		cancel()
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err, conn.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
