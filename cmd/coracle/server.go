package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	restclient "k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/alloc"
	"github.com/coracle-dev/coracle/apiserver/audit"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/openapi"
	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/apiserver/store/etcd"
	"github.com/coracle-dev/coracle/apiserver/tunnel"
	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/pki"
	"github.com/coracle-dev/coracle/internal/run"
	"github.com/coracle-dev/coracle/scheduler"
	"github.com/coracle-dev/coracle/scheduler/profile"
)

func newServer() *cobra.Command {
	return command(&cobra.Command{
		Use:   "server",
		Short: "Run the API server, scheduler and controllers with their etcd, in the foreground",
	}, func(cmd *cobra.Command, o *options) error {
		if err := o.checkControllers(); err != nil {
			return err
		}
		s, err := openServer(cmd.Context(), o)
		if err != nil {
			return err
		}
		defer s.close()
		return run.All(cmd.Context(), keepSmall, s.runAPI, s.runScheduler, s.runControllers)
	}, commonFlags, serverFlags, clusterFlags, networkFlags, schedulerFlags, autoscalingFlags, signingFlags, controllersFlags)
}

func newAPIServer() *cobra.Command {
	return command(&cobra.Command{
		Use:   "apiserver",
		Short: "Run the API server alone, with its etcd",
	}, func(cmd *cobra.Command, o *options) error {
		s, err := openServer(cmd.Context(), o)
		if err != nil {
			return err
		}
		defer s.close()
		return run.All(cmd.Context(), keepSmall, s.runAPI)
	}, commonFlags, serverFlags, clusterFlags, networkFlags)
}

// server is the opened control plane.
type server struct {
	o       *options
	cluster cluster
	engine  *etcd.Engine
	pki     *pki.PKI
	api     *apiserver.Server
	alloc   *alloc.Allocator
	tokens  *auth.Tokens
	audit   *audit.File // nil without --audit-log-path

	schedules, controls working
	work                *loop.Metrics // of the controllers
	decisions           *scheduler.Metrics
	profiles            profile.Config
}

func (s *server) close() {
	_ = s.engine.Close()
	if s.audit != nil {
		_ = s.audit.Close()
	}
}

// openServer opens the database and composes the API server; its port is bound, so that errors come at once.
func openServer(ctx context.Context, o *options) (*server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	s := &server{o: o, cluster: c, work: loop.NewMetrics(), decisions: scheduler.NewMetrics()}
	if s.profiles, err = o.schedulerProfiles(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.listen)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, neverAgain("%s is taken by another program; choose another port with --listen", o.listen)
	} else if err != nil {
		return nil, neverAgain("cannot listen on %s: %v", o.listen, err)
	}
	advertise, err := o.advertiseAddress()
	if err != nil {
		return nil, err
	}
	if err := s.openPKI(advertise); err != nil {
		return nil, err
	}
	if s.engine, err = openEngine(ctx, o); err != nil {
		return nil, err
	}
	if err := s.compose(ctx, listener, advertise); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func openEngine(ctx context.Context, o *options) (*etcd.Engine, error) {
	if len(o.etcd.endpoints) > 0 {
		return etcd.Open(ctx, etcd.ExternalConfig{Endpoints: o.etcd.endpoints, CAFile: o.etcd.ca, CertFile: o.etcd.cert, KeyFile: o.etcd.key})
	}
	if err := os.MkdirAll(o.layout.Run, 0o711); err != nil {
		return nil, err
	}
	return etcd.OpenEmbedded(ctx, etcd.EmbeddedConfig{DataDir: o.layout.Etcd(), Socket: o.layout.EtcdSocket()})
}

func (s *server) openPKI(advertise netip.Addr) error {
	names := append(pki.HostAddresses(), s.o.tlsSANs...)
	names = append(names, advertise.String())
	var err error
	s.pki, err = pki.Open(pki.Options{Dir: s.o.layout.PKI(), ServiceIP: s.cluster.api, ClusterDomain: s.cluster.domain, Extra: names})
	if err != nil {
		return err
	}
	url, err := s.o.apiURL()
	if err != nil {
		return err
	}
	if err := s.pki.EnsureKubeconfig(s.o.kubeconfigOut, url, pki.Admin); err != nil {
		return fmt.Errorf("write the admin's kubeconfig: %w", err)
	}
	for component, id := range map[string]pki.Identity{
		"scheduler": pki.Scheduler, "controllers": pki.ControllerManager, "proxy": pki.Proxy,
	} {
		if err := s.pki.EnsureKubeconfig(s.o.layout.Kubeconfig(component), url, id); err != nil {
			return err
		}
	}
	name, err := s.o.resolveNodeName()
	if err != nil {
		return err
	}
	return s.pki.EnsureKubeconfig(s.o.layout.Kubeconfig("agent"), url, pki.Node(name))
}

func (s *server) compose(ctx context.Context, listener net.Listener, advertise netip.Addr) error {
	first, last, err := parsePortRange(s.o.nodePorts)
	if err != nil {
		return err
	}
	db, err := s.encryptedStore()
	if err != nil {
		return err
	}
	auditLog, err := s.openAudit()
	if err != nil {
		return err
	}
	watchCache := apiserver.NewCache(db)
	reader := apiserver.NewReader(watchCache)
	s.alloc, err = alloc.New(alloc.Config{Store: db, Reader: reader, ServiceCIDR: s.cluster.services, FirstNodePort: first, LastNodePort: last})
	if err != nil {
		return err
	}
	tokens, err := auth.NewTokens(auth.TokenConfig{
		Issuer: "https://kubernetes.default.svc." + s.cluster.domain, Signer: s.pki.ServiceAccountKey(), Reader: reader})
	if err != nil {
		return err
	}
	spec, err := openapi.New()
	if err != nil {
		return err
	}
	authz := auth.NewAuthorizer(reader)
	proxy := auth.DefaultFrontProxy(s.pki.FrontProxyCAPool())
	s.tokens = tokens
	nodes := tunnel.New()
	_, port, _ := net.SplitHostPort(s.o.listen)
	number, _ := strconv.Atoi(port)
	url := "https://" + net.JoinHostPort(advertise.String(), port)
	issuer, err := tokens.Discovery(url)
	if err != nil {
		return err
	}
	info, err := s.pki.ClusterInfo(url)
	if err != nil {
		return err
	}
	s.api, err = apiserver.New(ctx, apiserver.Config{
		Store: db, Cache: watchCache, Listener: listener, TLS: s.pki.ServerTLS(),
		Authenticator: s.o.limitAnonymous(auth.NewAuthenticator(s.pki.CAPool(), tokens, proxy.Authenticator())),
		Authorizer:    authz,
		Admission:     admission.New(admission.Config{Reader: reader, Quotas: apiserver.NewQuotaWriter(db), Authorizer: authz, Tolerations: &s.o.tolerations}),
		Hooks: map[schema.GroupResource]rest.Hook{
			{Resource: "services"}:                                {BeginCreate: s.alloc.BeginCreate, BeginUpdate: s.alloc.BeginUpdate, AfterDelete: s.alloc.AfterDelete},
			{Group: "networking.k8s.io", Resource: "ipaddresses"}: {AfterDelete: s.alloc.AddressDeleted},
		},
		Tokens:  tokens,
		Reviews: &auth.Reviewer{Authorizer: authz, Tokens: tokens},
		Nodes:   nodes,
		GRPC:    nodes,
		OpenAPI: spec,
		Paths:   map[string]http.Handler{"/.well-known/": issuer, "/openid/": issuer},

		ClusterInfo:    info,
		LocalStorage:   true,
		IngressClass:   s.o.ingress.on,
		Authentication: proxy.AuthenticationConfig(s.pki.CAPEM(), s.pki.FrontProxyCAPEM()),
		Cluster:        s.o.clusterWide(s.cluster),
		Audit:          auditLog, MaxReadInFlight: s.o.maxReads, MaxWriteInFlight: s.o.maxWrites,
		Collectors:     []prometheus.Collector{s.work, s.decisions},
		FrontProxyCert: s.pki.FrontProxyClient("front-proxy-client"),
		Components:     []apiserver.Check{s.schedules.check("scheduler"), s.controls.check("controller-manager")},
		ServiceCIDR:    s.cluster.services, ServiceIP: s.cluster.api.AsSlice(), DNSIP: s.cluster.dns.AsSlice(), Advertise: advertise.AsSlice(), AdvertisePort: number, Several: s.several(),
	})
	return err
}

func parsePortRange(text string) (first, last int32, err error) {
	low, high, found := strings.Cut(text, "-")
	a, err1 := strconv.ParseUint(low, 10, 16)
	b, err2 := strconv.ParseUint(high, 10, 16)
	if !found || err1 != nil || err2 != nil || a == 0 || a > b {
		return 0, 0, usage("--service-node-port-range %q: want FIRST-LAST, as 30000-32767", text)
	}
	return int32(a), int32(b), nil
}

// runAPI serves the API and keeps what belongs to it: allocations, certificates, the database.
func (s *server) runAPI(ctx context.Context) error {
	return run.All(ctx, s.api.Run, s.pki.Run, s.engine.Run, func(ctx context.Context) error {
		if err := s.api.WaitReady(ctx); err != nil {
			return ignoreEnd(ctx, err)
		}
		report, err := s.api.Reporter(ctx, "ipallocator-repair-controller", "ClusterIPAllocation")
		if err != nil {
			return err
		}
		s.alloc.ReportTo(report)
		return s.alloc.Run(ctx)
	})
}

// local gives a component of this process its way to the API server, once that is ready.
func (s *server) local(ctx context.Context, id pki.Identity) (*restclient.Config, error) {
	if err := s.api.WaitReady(ctx); err != nil {
		return nil, err
	}
	return s.api.LocalConfig(localUser(id)), nil
}

// localUser is a component of this process: certificates make a user authenticated; here it is said outright.
func localUser(id pki.Identity) user.Info {
	return &user.DefaultInfo{Name: id.Name, Groups: append([]string{user.AllAuthenticated}, id.Groups...)}
}

// shared gives a component's informers the watch cache's objects.
func (s *server) shared(id pki.Identity) client.Shared {
	return func(resource schema.GroupVersionResource) toolscache.ListerWatcher {
		return s.api.ListWatch(localUser(id), resource)
	}
}

func (s *server) runScheduler(ctx context.Context) error {
	config, err := s.local(ctx, pki.Scheduler)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	defer s.schedules.begin()()
	return scheduler.Run(ctx, scheduler.Config{
		RestConfig: config, Shared: s.shared(pki.Scheduler), Profiles: s.profiles, LeaderElect: s.several(), Metrics: s.decisions,
	})
}

func (s *server) runControllers(ctx context.Context) error {
	config, err := s.local(ctx, pki.ControllerManager)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	balancer, err := s.o.loadBalancer()
	if err != nil {
		return err
	}
	defer s.controls.begin()()
	return controllers.Run(ctx, controllers.Config{RestConfig: config, Shared: s.shared(pki.ControllerManager), ClusterCA: s.pki.CAPEM(), SigningKey: s.pki.CAKey(), PodCIDR: s.cluster.pods, NodeCIDRBits: s.o.nodeCIDRBits, SignToken: s.tokens.Legacy, Metrics: s.work,
		LeaderElect: s.several(), Autoscaling: s.o.autoscaling, SigningDuration: s.o.signingDuration, NodeMonitorGrace: s.o.monitorGrace, LoadBalancer: balancer,
		Ingress: s.o.ingress.on, IngressService: s.o.ingress.publish})
}

// several tells whether there may be other servers of the cluster: an embedded etcd is this one's alone.
func (s *server) several() bool { return len(s.o.etcd.endpoints) > 0 }

// ignoreEnd makes the end of ctx a regular one.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// working tells whether a component of this process is at work.
type working struct{ now atomic.Bool }

func (w *working) begin() (end func()) {
	w.now.Store(true)
	return func() { w.now.Store(false) }
}

func (w *working) check(name string) apiserver.Check {
	return apiserver.Check{Name: name, Check: func(context.Context) error {
		if !w.now.Load() {
			return errors.New("it does not run in this process")
		}
		return nil
	}}
}
