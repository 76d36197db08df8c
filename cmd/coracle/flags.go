package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/audit"
	"github.com/coracle-dev/coracle/controllers/autoscale"
	"github.com/coracle-dev/coracle/internal/metrics"
	"github.com/coracle-dev/coracle/internal/paths"
)

// options are every flag there is; each command takes those that concern it.
type options struct {
	config        string
	layout        paths.Layout
	kubeconfigOut string
	kubeconfig    string
	logLevel      string

	listen        string
	advertise     string
	tlsSANs       []string
	podCIDR       string
	serviceCIDR   string
	clusterDomain string
	clusterDNS    string
	resolvConf    string
	nodePorts     string
	anonymous     string
	etcd          etcdOptions
	encryption    string
	auditPolicy   string
	auditLog      audit.FileConfig
	maxReads      int
	maxWrites     int

	overlay string
	// nodeCIDRBits is the prefix length of a node's range of pod addresses.
	nodeCIDRBits int
	cniConf      string
	cniBin       []string
	nodeName     string
	nodeIP       string
	nodeLabels   map[string]string
	manifests    string
	// shutdown is the time that pods get before the machine goes down, and the part of it for critical ones.
	shutdown, shutdownCritical time.Duration
	taints                     taints
	containerd                 string
	runtimes                   map[string]string
	reserved                   reservations
	podPids                    int64
	logSize                    string // of a container's log file
	logFiles                   int
	eviction                   eviction.Flags
	images                     imageSettings
	security                   podSecurity
	proxy                      proxyOptions

	ingress ingressOptions

	joinServer, joinToken string

	metrics string
	// schedulerConfig is a KubeSchedulerConfiguration file.
	schedulerConfig string
	autoscaling     autoscale.Config
	// signingDuration is how long certificates that the controllers sign are valid at most.
	signingDuration time.Duration
	// monitorGrace is how long a node may be silent until it counts as lost, tolerations how long its pods then stay.
	monitorGrace time.Duration
	tolerations  admission.TolerationSeconds
	leaseLife    time.Duration
	// balancerPools are ranges of addresses for services of type LoadBalancer, or "none".
	balancerPools []string
}

type etcdOptions struct {
	endpoints     []string
	ca, cert, key string
}

// flagGroup adds some of the flags to a command.
type flagGroup func(*options, *pflag.FlagSet)

func placeFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.layout.Data, "data-dir", paths.DefaultData, "folder of everything that outlives a reboot")
	f.StringVar(&o.layout.Run, "run-dir", paths.DefaultRun, "folder of sockets and namespaces")
}

func commonFlags(o *options, f *pflag.FlagSet) {
	placeFlags(o, f)
	f.StringVar(&o.config, "config", paths.DefaultConfig, "YAML file of flags, one a line as in listen: 127.0.0.1:6443; flags given win")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
}

func serverFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfigOut, "kubeconfig-out", paths.DefaultKubeconfig, "where to write the admin's kubeconfig (0600)")
	f.StringVar(&o.listen, "listen", "0.0.0.0:6443", "address and port of the API")
	f.StringVar(&o.advertise, "advertise-address", "", "address by which nodes and pods reach the API (default: this machine's)")
	f.StringSliceVar(&o.tlsSANs, "tls-san", nil, "further names and addresses for the API's certificate")
	f.StringVar(&o.anonymous, "anonymous-auth", "all", "where requests without credentials are anonymous's: all, health (only /livez, /readyz and /healthz), or none")
	f.StringVar(&o.nodePorts, "service-node-port-range", "30000-32767", "ports for NodePort services")
	f.StringSliceVar(&o.etcd.endpoints, "etcd-endpoints", nil, "an external etcd to use in place of the embedded one, as https://10.0.0.5:2379")
	f.StringVar(&o.etcd.ca, "etcd-cafile", "", "CA of the external etcd")
	f.StringVar(&o.etcd.cert, "etcd-certfile", "", "client certificate for the external etcd")
	f.StringVar(&o.encryption, "encryption-provider-config", "", "EncryptionConfiguration file of what is encrypted in etcd (default: Secrets, by a key in the data folder)")
	f.StringVar(&o.auditPolicy, "audit-policy-file", "", "Policy (audit.k8s.io/v1) of which requests are noted in --audit-log-path")
	f.StringVar(&o.auditLog.Path, "audit-log-path", "", "file for the audit log (0600)")
	f.IntVar(&o.auditLog.MaxSize, "audit-log-maxsize", 100, "MiB after which another file is begun")
	f.IntVar(&o.auditLog.MaxAge, "audit-log-maxage", 0, "days for which older files are kept; 0 for ever")
	f.IntVar(&o.auditLog.MaxBackups, "audit-log-maxbackup", 0, "how many older files are kept; 0 all")
	f.StringVar(&o.etcd.key, "etcd-keyfile", "", "key of that certificate")
	f.Int64Var(&o.tolerations.NotReady, "default-not-ready-toleration-seconds", admission.DefaultTolerationSeconds.NotReady, "for how long pods that do not say stay on a node that is not ready")
	f.Int64Var(&o.tolerations.Unreachable, "default-unreachable-toleration-seconds", admission.DefaultTolerationSeconds.Unreachable, "for how long they stay on a node that is not heard of")
	f.IntVar(&o.maxReads, "max-requests-inflight", 400, "requests served at the same time, together with the following; divided among priority levels")
	f.IntVar(&o.maxWrites, "max-mutating-requests-inflight", 200, "added to that")
}

func clusterFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.podCIDR, "pod-cidr", "10.244.0.0/16", "addresses of all pods; each node gets a part of it")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/16", "addresses of services")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster's names")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "address of the cluster's DNS (default: the tenth of --service-cidr)")
}

func agentFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.nodeName, "node-name", "", "the node's name (default: the host's name, in lower case)")
	f.StringVar(&o.nodeIP, "node-ip", "", "the node's address, and perhaps an IPv6 one behind a comma (default: that of the default route)")
	f.StringToStringVar(&o.nodeLabels, "node-labels", nil, "labels for the node, as disk=ssd,rack=2")
	f.DurationVar(&o.leaseLife, "node-lease-duration", 40*time.Second, "how long the node's Lease is valid; it is renewed four times as often")
	f.StringVar(&o.resolvConf, "resolv-conf", "", "file of the DNS servers for names outside of the cluster (default: /etc/resolv.conf, or systemd-resolved's own list of servers)")
	f.StringVar(&o.logSize, "container-log-max-size", "10Mi", "size at which a container's log file is rotated; negative never")
	f.IntVar(&o.logFiles, "container-log-max-files", 5, "how many log files a container may have")
	podSecurityFlags(&o.security, f)
	f.DurationVar(&o.shutdown, "shutdown-grace-period", 0, "time that all pods get to end when SIGPWR tells that the machine goes down; 0 leaves them running")
	f.DurationVar(&o.shutdownCritical, "shutdown-grace-period-critical-pods", 0, "the part of it that is kept for critical pods, which end last")
	f.StringVar(&o.manifests, "pod-manifest-path", "", "folder of static pods' files (default: manifests in the data folder)")
	f.Var(&o.taints, "register-with-taints", "taints for the node when it registers, as only=db:NoSchedule; several with commas")
	f.StringVar(&o.containerd, "containerd", "", "socket of a containerd to use in place of the built-in one")
	f.StringToStringVar(&o.runtimes, "runtime", nil, "further OCI runtimes for RuntimeClasses, by the name of their handler, as crun=/usr/bin/crun (a crun that is installed needs no flag)")
	f.StringToStringVar(&o.reserved.system, "system-reserved", nil, "what of the machine is kept for its own services, as cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000")
	f.StringToStringVar(&o.reserved.cluster, "kube-reserved", nil, "what is kept for the cluster's own processes, likewise")
	f.Int64Var(&o.podPids, "pod-max-pids", 0, "how many processes a pod may have; 0 any number")
}

func networkFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.overlay, "overlay", string(network.VXLAN), "how pods reach those of other nodes: vxlan, routes (nodes share a link) or none (others see to it); the same on all nodes")
	ingressFlag(o, f)
}

func cniFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.cniConf, "cni-conf-dir", "", "folder of CNI configurations, as /etc/cni/net.d: plug-ins give pods their network then, in place of the built-in one")
	cniBinFlag(o, f)
}

func cniBinFlag(o *options, f *pflag.FlagSet) {
	f.StringSliceVar(&o.cniBin, "cni-bin-dir", []string{"/opt/cni/bin"}, "folders of CNI plug-ins")
}

func joinFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.joinServer, "server", "", "the API server of the cluster to join, as https://10.0.0.1:6443")
	f.StringVar(&o.joinToken, "token", "", "what `coracle token create` printed; needed once, until the node has its certificate")
}

func signingFlags(o *options, f *pflag.FlagSet) {
	f.DurationVar(&o.signingDuration, "cluster-signing-duration", 365*24*time.Hour, "how long certificates are valid that nodes and others ask for, at most")
}

func kubeconfigFlag(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig that leads to the API server")
}

func schedulerFlags(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.schedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration file: profiles, their plug-ins and settings (default: one profile, default-scheduler)")
}

func autoscalingFlags(o *options, f *pflag.FlagSet) {
	const of = "horizontal-pod-autoscaler-"
	a := &o.autoscaling
	f.DurationVar(&a.SyncPeriod, of+"sync-period", 15*time.Second, "how often each autoscaler looks at its metrics")
	f.DurationVar(&a.DownscaleStabilization, of+"downscale-stabilization", 5*time.Minute, "how long a higher recommendation holds, where an autoscaler's behavior does not say")
	f.DurationVar(&a.CPUInitialization, of+"cpu-initialization-period", 5*time.Minute, "how long after a pod's start its CPU samples count only if taken since it is ready")
	f.DurationVar(&a.ReadinessDelay, of+"initial-readiness-delay", 30*time.Second, "how long after its start a pod that becomes unready is taken never to have been ready")
}

func metricsFlag(o *options, f *pflag.FlagSet) {
	f.StringVar(&o.metrics, "metrics", "", "address of the loopback to serve /metrics and /healthz on, as 127.0.0.1:10257 (default: none)")
}

// command makes a command whose flags can also come from the config file.
func command(cmd *cobra.Command, run func(*cobra.Command, *options) error, groups ...flagGroup) *cobra.Command {
	o := &options{}
	for _, add := range groups {
		add(o, cmd.Flags())
	}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.complete(cmd.Flags()); err != nil {
			return err
		}
		return run(cmd, o)
	}
	return cmd
}

// complete reads the config file and makes paths absolute.
func (o *options) complete(f *pflag.FlagSet) error {
	if f.Lookup("config") != nil {
		if err := readConfig(o.config, f); err != nil {
			return err
		}
		if err := setLogLevel(o.logLevel); err != nil {
			return err
		}
	}
	if o.metrics != "" {
		if err := metrics.Check(o.metrics); err != nil {
			return usage("--metrics: %w", err)
		}
	}
	for _, dir := range []*string{&o.layout.Data, &o.layout.Run, &o.kubeconfigOut, &o.images.bundles} {
		if *dir == "" {
			continue
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	return nil
}

// readConfig sets every flag of the file that was not given on the command line.
func readConfig(path string, f *pflag.FlagSet) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !f.Changed("config") {
		return nil
	}
	if err != nil {
		return usage("config file: %w", err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		return usage("config file %s: %w", path, err)
	}
	for name, value := range values {
		flag := f.Lookup(name)
		if flag == nil {
			if slices.Contains(allFlags(), name) {
				continue // a flag of another command
			}
			return usage("config file %s: there is no flag %q", path, name)
		}
		if flag.Changed {
			continue
		}
		if err := f.Set(name, configValue(value)); err != nil {
			return usage("config file %s: %s: %w", path, name, err)
		}
	}
	return nil
}

// configValue writes a YAML value as one would type it behind a flag.
func configValue(value any) string {
	switch v := value.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, part := range v {
			parts[i] = fmt.Sprint(part)
		}
		return strings.Join(parts, ",")
	case map[string]any:
		parts := make([]string, 0, len(v))
		for key, part := range v {
			parts = append(parts, fmt.Sprintf("%s=%v", key, part))
		}
		slices.Sort(parts)
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(value)
}

func allFlags() []string {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, add := range []flagGroup{commonFlags, serverFlags, clusterFlags, agentFlags, networkFlags, cniFlags, proxyFlags, proxyHealthFlag, evictionFlags, imageFlags, kubeconfigFlag, metricsFlag, schedulerFlags, autoscalingFlags, joinFlags, signingFlags, controllersFlags, ingressNodeFlags} {
		add(&options{}, f)
	}
	var names []string
	f.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	return names
}

// cluster is the parsed and checked addressing.
type cluster struct {
	pods, services netip.Prefix
	dns            netip.Addr
	api            netip.Addr // the first service address: the API server's own
	domain         string
}

func (o *options) cluster() (cluster, error) {
	var c cluster
	var err error
	if c.pods, err = parseCIDR("--pod-cidr", o.podCIDR, 24); err != nil {
		return c, err
	}
	if c.services, err = parseCIDR("--service-cidr", o.serviceCIDR, 28); err != nil {
		return c, err
	}
	if c.pods.Overlaps(c.services) {
		return c, usage("--pod-cidr %s and --service-cidr %s overlap", c.pods, c.services)
	}
	c.domain = strings.Trim(o.clusterDomain, ".")
	c.api = c.services.Addr().Next()
	c.dns = c.services.Addr()
	for range 10 {
		c.dns = c.dns.Next()
	}
	if o.clusterDNS != "" {
		if c.dns, err = netip.ParseAddr(o.clusterDNS); err != nil || !c.services.Contains(c.dns) {
			return c, usage("--cluster-dns %q: want an address of --service-cidr %s", o.clusterDNS, c.services)
		}
	}
	return c, nil
}

func parseCIDR(flag, text string, maxBits int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() {
		return p, usage("%s %q: want an IPv4 range such as 10.96.0.0/16", flag, text)
	}
	if p.Bits() > maxBits {
		return p, usage("%s %s is too small: want /%d or larger", flag, text, maxBits)
	}
	return p.Masked(), nil
}

// listenPort gives the API's port.
func (o *options) listenPort() (string, error) {
	_, port, err := net.SplitHostPort(o.listen)
	if err != nil || port == "" {
		return "", usage("--listen %q: want ADDRESS:PORT, as 0.0.0.0:6443", o.listen)
	}
	return port, nil
}

// check refuses flags of a server that cannot be meant, before anything is made or started.
func (o *options) check() error {
	if _, err := o.cluster(); err != nil {
		return err
	}
	if _, err := network.ParseOverlay(o.overlay); err != nil {
		return usage("--overlay %w", err)
	}
	if _, err := o.listenPort(); err != nil {
		return err
	}
	if _, _, err := parsePortRange(o.nodePorts); err != nil {
		return err
	}
	if err := o.checkAnonymous(); err != nil {
		return err
	}
	if o.tolerations.NotReady < 0 || o.tolerations.Unreachable < 0 {
		return usage("--default-not-ready-toleration-seconds and --default-unreachable-toleration-seconds are not negative")
	}
	_, err := parseMachineAddress("--advertise-address", o.advertise)
	if o.advertise == "" {
		return nil
	}
	return err
}

// containerLogs is the size in bytes at which a container's log is rotated. Its limits are the kubelet's.
func (o *options) containerLogs() (int64, error) {
	size, err := resource.ParseQuantity(o.logSize)
	if err != nil {
		return 0, usage("--container-log-max-size %q: %w", o.logSize, err)
	}
	if o.logFiles <= 1 {
		return 0, usage("--container-log-max-files %d: must be greater than 1", o.logFiles)
	}
	return size.Value(), nil
}
