package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coracle-dev/coracle/agent"
	"github.com/coracle-dev/coracle/agent/simulate"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/paths"
	"github.com/coracle-dev/coracle/internal/run"
)

// simulateFlags are the texts of which a simulate.Config is made.
type simulateFlags struct {
	cpu, memory, podCIDR string
	taints               []string
	clean                bool
}

func newSimulate() *cobra.Command {
	cfg, texts := simulate.Config{}, simulateFlags{}
	cmd := command(&cobra.Command{
		Use:   "simulate",
		Short: "Register nodes without machines, whose pods only seem to run, to try a control plane at scale",
	}, func(cmd *cobra.Command, o *options) error {
		return runSimulate(cmd, o, cfg, texts)
	}, commonFlags, kubeconfigFlag)
	f := cmd.Flags()
	f.IntVar(&cfg.Nodes, "nodes", 10, "how many nodes")
	f.StringVar(&cfg.Prefix, "name-prefix", simulate.DefaultPrefix, "the nodes' names are this and a number, from 0 on")
	f.StringVar(&texts.cpu, "cpu", "32", "CPU that each node offers")
	f.StringVar(&texts.memory, "memory", "64Gi", "memory that each node offers")
	f.IntVar(&cfg.Pods, "pods", 110, "how many pods a node takes")
	f.IntVar(&cfg.Zones, "zones", 3, "how many zones the nodes are spread over; 0 for none")
	f.StringToStringVar(&cfg.Labels, "labels", nil, "labels for the nodes, as disk=ssd,rack=2")
	f.StringSliceVar(&texts.taints, "taints", nil, "taints for the nodes, as "+simulate.LabelNode+"=true:NoSchedule, which keeps off pods that do not tolerate it")
	f.StringVar(&texts.podCIDR, "pod-cidr", simulate.DefaultPodCIDR, "addresses of the nodes' pods; each node gets a /24 of it; empty leaves that to the cluster")
	lifeFlags(&cfg, f)
	f.BoolVar(&texts.clean, "clean", false, "delete the nodes of --name-prefix and end")
	return cmd
}

func lifeFlags(cfg *simulate.Config, f *pflag.FlagSet) {
	f.DurationVar(&cfg.Pending, "pending", 0, "time from a pod's binding until its containers start")
	f.DurationVar(&cfg.Ready, "ready-delay", 0, "time from then until they are ready")
	f.DurationVar(&cfg.RunFor, "run-for", 0, "time after which containers end whose pods' restartPolicy is Never or OnFailure; 0 for never")
	f.DurationVar(&cfg.Terminate, "terminate-delay", 0, "time that a stopped container takes to end, at most its grace period")
	f.Float64Var(&cfg.Fail, "fail", 0, "share of the ends by --run-for that are failures, from 0 to 1")
	f.DurationVar(&cfg.LeaseInterval, "lease-interval", 10*time.Second, "time between two renewals of a node's Lease")
}

func runSimulate(cmd *cobra.Command, o *options, cfg simulate.Config, texts simulateFlags) error {
	if err := texts.into(&cfg); err != nil {
		return err
	}
	path := o.kubeconfig
	if path == "" {
		path = paths.DefaultKubeconfig
	}
	var err error
	if cfg.RestConfig, err = (client.Config{Kubeconfig: path, Component: "simulate"}).REST(); err != nil {
		return usage("%w; name an administrator's kubeconfig with --kubeconfig", err)
	}
	if texts.clean {
		count, err := simulate.Clean(cmd.Context(), cfg.RestConfig, cfg.Prefix)
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "%d nodes deleted\n", count)
		}
		return err
	}
	cfg.Version = agent.KubeletVersion()
	cfg.Registered = func() { fmt.Fprintf(cmd.OutOrStdout(), "%d nodes registered\n", cfg.Nodes) }
	return run.All(cmd.Context(), keepSmall, func(ctx context.Context) error { return simulate.Run(ctx, cfg) })
}

// into reads the texts.
func (t simulateFlags) into(cfg *simulate.Config) (err error) {
	if cfg.Nodes < 1 || cfg.Pods < 1 || cfg.Fail < 0 || cfg.Fail > 1 || cfg.LeaseInterval <= 0 {
		return usage("--nodes, --pods and --lease-interval are above 0, --fail is from 0 to 1")
	}
	if cfg.CPU, err = resource.ParseQuantity(t.cpu); err != nil {
		return usage("--cpu %s: %w", t.cpu, err)
	}
	if cfg.Memory, err = resource.ParseQuantity(t.memory); err != nil {
		return usage("--memory %s: %w", t.memory, err)
	}
	if t.podCIDR != "" {
		if cfg.PodCIDR, err = netip.ParsePrefix(t.podCIDR); err != nil || !cfg.PodCIDR.Addr().Is4() {
			return usage("--pod-cidr %s is not a range of IPv4 addresses as 100.64.0.0/10", t.podCIDR)
		}
	}
	for _, text := range t.taints {
		taint, err := parseTaint(text)
		if err != nil {
			return usage("--taints: %w", err)
		}
		cfg.Taints = append(cfg.Taints, taint)
	}
	return nil
}
