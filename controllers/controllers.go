// Package controllers runs the cluster's controllers: each one watches, decides purely, and writes with a precondition.
//
// Invariants: all share one set of informers; an idle cluster costs no request but lease renewals; with leader election only
// one process of a cluster writes.
package controllers

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/controllers/autoscale"
	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/loadbalancer"
	"github.com/coracle-dev/coracle/controllers/serviceaccounttoken"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// Config says which controllers run, and how.
type Config struct {
	// RestConfig leads to the API server. Required.
	RestConfig *rest.Config
	// Client replaces the one made from RestConfig.
	Client kubernetes.Interface
	// Shared, inside the server's process, is where pods and nodes come from.
	Shared client.Shared
	// ClusterCA is the PEM bundle published as ConfigMap kube-root-ca.crt in every namespace; empty publishes none.
	ClusterCA []byte
	// SigningKey is the key of the first certificate in ClusterCA; with it, approved certificate requests to the cluster's own
	// signers are signed. Nil signs none.
	SigningKey crypto.Signer
	// SigningDuration is how long a certificate is valid at most, and where the request does not say; a year when zero.
	SigningDuration time.Duration
	// SignToken makes the tokens in Secrets of type kubernetes.io/service-account-token; nil leaves those Secrets alone.
	SignToken serviceaccounttoken.Sign
	// PodCIDR is cut into one range a node; the zero value assigns none.
	PodCIDR netip.Prefix
	// NodeCIDRBits is the prefix length of a node's range; 24 when zero (64 for IPv6).
	NodeCIDRBits int
	// NodeMonitorGrace is how long a node's lease may go unrenewed before the node counts as lost; 50 s when zero.
	NodeMonitorGrace time.Duration
	// TerminatedPodThreshold is how many ended pods may stay before the oldest are removed; 12500 when zero, none
	// are ever removed when negative.
	TerminatedPodThreshold int
	// Ingress keeps the status of Ingresses that nodes serve: the nodes' addresses, or those of the Service that IngressService names as
	// namespace/name.
	Ingress        bool
	IngressService string
	// Autoscaling is how HorizontalPodAutoscalers work.
	Autoscaling autoscale.Config
	// LoadBalancer is where services of type LoadBalancer have their addresses from.
	LoadBalancer loadbalancer.Config
	// Enabled names the controllers to run, as Names lists them; all when empty. "-name" leaves one out.
	Enabled []string
	// LeaderElect makes the process wait for the lease kube-system/coracle-controllers; Client is then made from RestConfig.
	LeaderElect bool
	Log         *slog.Logger
	// Metrics count the controllers' work; nil counts nothing.
	Metrics *loop.Metrics
	// Clock is the machine's when nil.
	Clock clock.Clock
}

func (c Config) withDefaults() (Config, error) {
	if c.RestConfig == nil {
		return c, errors.New("controllers: no RestConfig")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Log = c.Log.With("component", "controllers")
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.NodeMonitorGrace == 0 {
		c.NodeMonitorGrace = 50 * time.Second
	}
	if c.TerminatedPodThreshold == 0 {
		c.TerminatedPodThreshold = 12500
	}
	cfg, err := client.Config{RestConfig: c.RestConfig, Component: "controllers"}.REST()
	if err != nil {
		return c, err
	}
	c.RestConfig = cfg
	if c.Client == nil {
		c.Client, err = kubernetes.NewForConfig(cfg)
	}
	return c, err
}

// Names lists all controllers.
func Names() []string {
	names := make([]string, 0, len(table))
	for _, e := range table {
		names = append(names, e.name)
	}
	return names
}

// enabled tells whether a controller is to run.
func (c Config) enabled(name string) bool {
	var positive bool
	for _, e := range c.Enabled {
		switch {
		case e == "-"+name:
			return false
		case e == name || e == "*":
			return true
		}
		positive = positive || !strings.HasPrefix(e, "-")
	}
	return !positive
}

func (c Config) checkNames() error {
	for _, e := range c.Enabled {
		if name := strings.TrimPrefix(e, "-"); e != "*" && !slices.Contains(Names(), name) {
			return fmt.Errorf("controllers: no controller is called %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	return nil
}

// Run works until ctx ends, or until leadership is lost, which is an error. It may be called again afterwards.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.checkNames(); err != nil {
		return err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if cfg.LeaderElect {
		return cfg.lead(ctx)
	}
	return cfg.work(ctx)
}

// work runs the controllers themselves.
func (c Config) work(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(sink(c.Client))
	e := env.Env{Client: c.Client, Informers: c.Shared.Informers(c.Client, trim), Events: events, Log: c.Log, Clock: c.Clock, Metrics: c.Metrics}
	var fns []func(context.Context) error
	for _, entry := range table {
		if !c.enabled(entry.name) {
			continue
		}
		started, err := entry.start(c, e)
		if err != nil {
			cancel()
			return fmt.Errorf("controllers: %s: %w", entry.name, err)
		}
		if started != nil {
			fns = append(fns, started.Run)
		}
	}
	e.Informers.StartWithContext(ctx)
	defer e.Informers.Shutdown()
	defer cancel()
	return run.All(ctx, fns...)
}
