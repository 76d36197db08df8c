package main

import (
	"cmp"
	"context"
	"crypto"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/metrics"
	"github.com/coracle-dev/coracle/internal/pki"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/scheduler"
	"github.com/coracle-dev/coracle/scheduler/profile"
)

// clientset is the client of a part that runs alone.
func (o *options) clientset(component string) (kubernetes.Interface, error) {
	path := o.kubeconfig
	if path == "" {
		path = o.layout.Kubeconfig(component)
	}
	kube, err := client.Config{Kubeconfig: path, Component: component}.Clientset()
	if err != nil {
		return nil, usage("%w; name a kubeconfig with --kubeconfig", err)
	}
	return kube, nil
}

// serveMetrics serves the metrics of a part that runs alone, where --metrics says.
func (o *options) serveMetrics(all ...prometheus.Collector) func(context.Context) error {
	return func(ctx context.Context) error { return metrics.Serve(ctx, o.metrics, all...) }
}

func newScheduler() *cobra.Command {
	return command(&cobra.Command{
		Use:   "scheduler",
		Short: "Run the scheduler alone",
	}, func(cmd *cobra.Command, o *options) error {
		profiles, err := o.schedulerProfiles()
		if err != nil {
			return err
		}
		if o.kubeconfig == "" {
			o.kubeconfig = cmp.Or(profiles.Kubeconfig, o.layout.Kubeconfig("scheduler"))
		}
		config, err := client.Config{Kubeconfig: o.kubeconfig, Component: "scheduler"}.REST()
		if err != nil {
			return usage("%w; name a kubeconfig with --kubeconfig", err)
		}
		decisions := scheduler.NewMetrics()
		return run.All(cmd.Context(), o.serveMetrics(decisions), func(ctx context.Context) error {
			return scheduler.Run(ctx, scheduler.Config{RestConfig: config, Profiles: profiles, LeaderElect: true, Metrics: decisions})
		})
	}, commonFlags, kubeconfigFlag, metricsFlag, schedulerFlags)
}

// schedulerProfiles reads --scheduler-config.
func (o *options) schedulerProfiles() (profile.Config, error) {
	if o.schedulerConfig == "" {
		return profile.Default(), nil
	}
	raw, err := os.ReadFile(o.schedulerConfig)
	if err != nil {
		return profile.Config{}, usage("--scheduler-config: %w", err)
	}
	cfg, err := profile.Parse(raw)
	if err != nil {
		return profile.Config{}, usage("--scheduler-config %s: %w", o.schedulerConfig, err)
	}
	return cfg, nil
}

func newControllers() *cobra.Command {
	return command(&cobra.Command{
		Use:   "controllers",
		Short: "Run the controllers alone",
	}, func(cmd *cobra.Command, o *options) error {
		c, err := o.cluster()
		if err != nil {
			return err
		}
		if err := o.checkControllers(); err != nil {
			return err
		}
		var key crypto.Signer
		if o.kubeconfig == "" { // this machine's own cluster
			o.kubeconfig = o.layout.Kubeconfig("controllers")
			if key, err = pki.LoadCAKey(o.layout.PKI()); err != nil {
				return err
			}
		}
		config, err := client.Config{Kubeconfig: o.kubeconfig, Component: "controllers"}.REST()
		if err != nil {
			return usage("%w; name a kubeconfig with --kubeconfig", err)
		}
		sign, err := o.signToken()
		if err != nil {
			return err
		}
		balancer, err := o.loadBalancer()
		if err != nil {
			return err
		}
		work := loop.NewMetrics()
		return run.All(cmd.Context(), o.serveMetrics(work), func(ctx context.Context) error {
			return controllers.Run(ctx, controllers.Config{
				RestConfig: config, ClusterCA: config.CAData, SigningKey: key, PodCIDR: c.pods, NodeCIDRBits: o.nodeCIDRBits, LeaderElect: true, SignToken: sign, Metrics: work, Autoscaling: o.autoscaling, SigningDuration: o.signingDuration,
				NodeMonitorGrace: o.monitorGrace, LoadBalancer: balancer, Ingress: o.ingress.on, IngressService: o.ingress.publish,
			})
		})
	}, commonFlags, clusterFlags, kubeconfigFlag, metricsFlag, autoscalingFlags, signingFlags, controllersFlags, ingressFlag)
}
