package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/aggregation"
	"github.com/coracle-dev/coracle/apiserver/audit"
	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/crd"
	"github.com/coracle-dev/coracle/apiserver/discovery"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/podmetrics"
	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/internal/run"
)

// shutdownGrace is how long requests in flight may take once the server is told to stop.
const shutdownGrace = 5 * time.Second

// Config is everything a Server is made of. Store alone is required; what is nil is left out.
type Config struct {
	Store store.Store
	// Cache is the watch cache, where parts below look at live objects through it (NewCache, NewReader). Nil: New
	// makes one. Run runs it in both cases.
	Cache *cache.Cache

	// Listen is the TCP address to serve on; empty serves only Handler and LocalConfig.
	Listen string
	// Listener, if set, is served instead of Listen.
	Listener net.Listener
	// TLS serves HTTPS; nil serves plain HTTP, which is for tests. Clients' certificates must be asked for there.
	TLS *tls.Config

	// Authenticator tells who a request is from; nil makes everyone but in-process clients anonymous.
	Authenticator authenticator.Request
	// Authorizer decides whether they may; nil allows everything.
	Authorizer authorizer.UnconditionalAuthorizer
	Admission  admission.Plugin
	Hooks      map[schema.GroupResource]rest.Hook
	Tokens     rest.TokenIssuer
	Reviews    rest.Reviewer
	Nodes      rest.NodeDialer

	// GRPC takes HTTP/2 requests of content type application/grpc: the node tunnel. Who they are from is in
	// their context (request.UserFrom); what they may is for it to decide.
	GRPC http.Handler
	// OpenAPI takes /openapi/.
	OpenAPI http.Handler
	// Paths takes further paths by their prefix, behind authorisation: "/.well-known/", "/openid/".
	Paths map[string]http.Handler
	// Authentication is what aggregated API servers are told of how this one authenticates: the data of the ConfigMap
	// kube-system/extension-apiserver-authentication (auth.FrontProxy.AuthenticationConfig); nil keeps no such ConfigMap.
	Authentication map[string]string
	// Cluster is what all nodes of the cluster must agree on, by the names of their flags: the data of the ConfigMap
	// kube-system/coracle-cluster, which nodes read when they start; nil keeps no such ConfigMap.
	Cluster map[string]string
	// FrontProxyCert is the certificate by which aggregated API servers know this one; nil shows them none.
	FrontProxyCert func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// ClusterInfo is the kubeconfig, without credentials, by which machines that want to join find the cluster: the ConfigMap
	// kube-public/cluster-info, which anybody may read. Empty keeps no such ConfigMap.
	ClusterInfo string
	// LocalStorage gives a new cluster the storage class "local" as its default one. Who deletes or changes it is respected.
	LocalStorage bool
	// IngressClass keeps the class "coracle" of the Ingresses that nodes serve.
	IngressClass bool
	// Audit notes requests; nil notes none.
	Audit *audit.Log
	// Checks are further conditions of /readyz.
	Checks []Check

	// Collectors are the other parts of this process whose metrics are shown among the server's.
	Collectors []prometheus.Collector

	// Components are what componentstatuses shows beside the store.
	Components []Check

	// ServiceCIDR is the range of cluster IPs, shown by the ServiceCIDR "kubernetes"; invalid keeps no such object.
	ServiceCIDR netip.Prefix
	// ServiceIP is the address of the Service default/kubernetes; invalid keeps no such Service.
	ServiceIP net.IP
	// DNSIP is the address of the Service kube-system/kube-dns; nil keeps no such Service.
	DNSIP net.IP
	// Advertise is where nodes reach this server: the endpoint of that Service.
	Advertise net.IP
	// Several says that other servers may share the store: the endpoints of that Service are those of all that live.
	Several bool
	// AdvertisePort is its port; zero is the one served on.
	AdvertisePort int

	// MaxReadInFlight and MaxWriteInFlight are together how many requests are served at the same time, divided among priority
	// levels, watches only while they begin; zero is 400 and 200.
	MaxReadInFlight, MaxWriteInFlight int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Server is the API server.
type Server struct {
	cfg         Config
	cache       *cache.Cache
	rest        *rest.Handler
	discovery   *discovery.Handler
	definitions *crd.Controller
	external    *aggregation.Controller
	usage       *podmetrics.Collector
	handler     http.Handler
	listener    net.Listener
	health      *health
	metrics     *metrics
	access      *access
	flows       *flowControl
	told        bool // ClusterInfo was written since the start
	log         *slog.Logger
	scheme      *runtime.Scheme
}

// NewCache makes the watch cache of every stored kind.
func NewCache(st store.Store) *cache.Cache {
	return cache.New(st, rest.CacheResources(kinds.All(), kinds.Scheme()))
}

// New composes a server and binds its address, so that a port that is taken is an error here.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, errors.New("apiserver: no store configured")
	}
	if cfg.Cache == nil {
		cfg.Cache = NewCache(cfg.Store)
	}
	cfg.Hooks = adminAccessHooks(stampHooks(cfg.Hooks, cfg.Now), NewReader(cfg.Cache))
	s := &Server{cfg: cfg, cache: cfg.Cache, log: slog.With("component", "apiserver"), metrics: newMetrics(cfg.Collectors)}
	table, scheme := slices.Concat(kinds.All(), podmetrics.Kinds()), kinds.Scheme()
	s.usage = podmetrics.New(podmetrics.Config{Reader: NewReader(cfg.Cache), Nodes: cfg.Nodes, Now: cfg.Now})
	s.access = newAccess(s)
	s.flows = newFlowControl(s)
	admit, err := s.admission()
	if err != nil {
		return nil, err
	}
	s.rest = rest.New(rest.Config{
		Kinds: table, Scheme: scheme, Store: cfg.Store, Cache: cfg.Cache, Admission: admit, Live: s.live(),
		Authorizer: cfg.Authorizer, Hooks: s.access.hooks(cfg.Hooks), Nodes: cfg.Nodes, Tokens: cfg.Tokens, Reviews: cfg.Reviews, Now: cfg.Now,
		Settle: func(ctx context.Context, gr schema.GroupResource) error { return s.definitions.Settle(ctx, gr) },
	})
	s.metrics.served = s.rest.Serves
	if s.discovery, err = discovery.New(table); err != nil {
		return nil, err
	}
	s.scheme = scheme
	s.health = newHealth(s)
	s.handler = s.chain(http.HandlerFunc(s.route))
	if s.definitions, err = s.newDefinitions(); err != nil {
		return nil, err
	}
	if s.external, err = s.newAggregation(); err != nil {
		return nil, err
	}
	return s, s.bind(ctx)
}

func (s *Server) bind(ctx context.Context) error {
	s.listener = s.cfg.Listener
	if s.listener != nil || s.cfg.Listen == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("serve the API on %s: %w", s.cfg.Listen, err)
	}
	s.listener = l
	return nil
}

// Handler is the whole server as a handler.
func (s *Server) Handler() http.Handler { return s.handler }

// Cache is the watch cache that the server reads from.
func (s *Server) Cache() *cache.Cache { return s.cache }

// Addr is where the server listens; nil where it does not.
func (s *Server) Addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// WaitReady waits until the server can answer: the cache is filled and the objects it keeps are there.
func (s *Server) WaitReady(ctx context.Context) error {
	if err := s.cache.WaitReady(ctx); err != nil {
		return err
	}
	return s.health.waitBoot(ctx)
}

// Run serves until ctx ends: then readiness fails, watches end, requests in flight are given a moment.
func (s *Server) Run(ctx context.Context) error {
	// The cache outlives the requests that read from it.
	cacheCtx, stopCache := context.WithCancel(context.WithoutCancel(ctx))
	cacheDone := make(chan error, 1)
	go func() { cacheDone <- s.cache.Run(cacheCtx) }()
	err := run.All(ctx, s.serve, s.definitions.Run, s.aggregate, s.access.run, s.flows.run, s.keep, s.keepServers, s.usage.Run)
	s.rest.EndWatches()
	stopCache()
	return errors.Join(err, <-cacheDone)
}

func (s *Server) serve(ctx context.Context) error {
	if s.listener == nil {
		<-ctx.Done()
		s.health.stopping.Store(true)
		return nil
	}
	srv := s.httpServer()
	done := make(chan error, 1)
	go func() { done <- s.shutdown(ctx, srv) }()
	var err error
	if s.cfg.TLS != nil {
		err = srv.ServeTLS(s.listener, "", "")
	} else {
		err = srv.Serve(s.listener)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return <-done
}

func (s *Server) httpServer() *http.Server {
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         s.cfg.TLS,
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          1000,
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			SendPingTimeout:               30 * time.Second,
		},
	}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	return srv
}

// shutdown waits for ctx's end and takes the server down in order.
func (s *Server) shutdown(ctx context.Context, srv *http.Server) error {
	<-ctx.Done()
	s.health.stopping.Store(true)
	s.rest.EndWatches()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		s.log.Debug("requests cut off at shutdown", "error", err)
		_ = srv.Close()
	}
	return nil
}

// Scheme knows every served type.
func (s *Server) Scheme() *runtime.Scheme { return s.scheme }

// live answers for what is not stored.
func (s *Server) live() map[schema.GroupResource]rest.Live {
	return map[schema.GroupResource]rest.Live{
		{Resource: "componentstatuses"}: rest.Components(s.components),
		podmetrics.NodesResource:        podmetrics.Nodes{Collector: s.usage},
		podmetrics.PodsResource:         podmetrics.Pods{Collector: s.usage},
	}
}

// components asks the parts of the control plane how they are.
func (s *Server) components(ctx context.Context) []corev1.ComponentStatus {
	var found []corev1.ComponentStatus
	for _, c := range s.cfg.Components {
		found = append(found, rest.Healthy(c.Name, c.Check(ctx)))
	}
	_, err := s.cache.StoreRevision(ctx)
	return append(found, rest.Healthy("etcd-0", err))
}
