// Package dns answers for the cluster's names from the informers' events, after the Kubernetes DNS-based
// service discovery specification 1.1, and forwards all other names to the machine's own servers.
//
// Invariant: what the cluster knows is answered without waiting for anything and without allocating; only a name that another server must be
// asked for leaves the loop that reads the socket.
package dns

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/handover"
	"github.com/coracle-dev/coracle/internal/run"
)

// Config is what New needs.
type Config struct {
	// Factory gives Services and EndpointSlices; the caller starts it.
	Factory informers.SharedInformerFactory
	// Slices lists a service's EndpointSlices, by its namespace/name, from Factory's informer.
	Slices func(key string) []*discoveryv1.EndpointSlice
	// Client watches the ConfigMap kube-system/coracle-dns; nil takes none.
	Client kubernetes.Interface
	// Addr is the address to serve on, port 53, UDP and TCP; metrics on port 9153.
	Addr netip.Addr
	// Domain is the cluster's, as cluster.local.
	Domain string
	// ResolvConf names the upstream servers; empty: /etc/resolv.conf.
	ResolvConf string
	// Clients are the addresses of pods. They and this machine may ask for names outside of the cluster; none: everybody may.
	Clients []netip.Prefix
	// Metrics counts what is asked; nil counts for nobody to see.
	Metrics *Metrics
	// Sockets keeps the sockets open over a restart; nil closes them.
	Sockets *handover.Queue
}

// Server answers.
type Server struct {
	cfg       Config
	suffix    name
	index     *index
	settings  atomic.Pointer[settings]
	forwarder *forwarder
	clients   clients
	metrics   *Metrics
	asking    chan struct{} // holds one for each question that waits for other servers
	synced    []cache.InformerSynced
	now       func() time.Time
	shift     func() uint // by how many places an answer's addresses are turned
	log       *slog.Logger
}

// New prepares a Server; call it before the factory is started.
func New(cfg Config) (*Server, error) {
	suffix := wireName(strings.ToLower(cfg.Domain))
	if len(suffix) <= 1 {
		return nil, fmt.Errorf("dns: %q is no domain", cfg.Domain)
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	s := &Server{
		cfg: cfg, suffix: nameOf(suffix), index: newIndex(wireText(string(suffix))), metrics: cfg.Metrics,
		clients: clients{prefixes: cfg.Clients, own: []netip.Addr{cfg.Addr}},
		asking:  make(chan struct{}, maxAsked), now: time.Now, shift: func() uint { return uint(rand.Uint32()) }, log: slog.With("component", "dns"),
	}
	s.settings.Store(&settings{})
	s.forwarder = &forwarder{
		settings: &s.settings, resolver: &resolvConf{path: cfg.ResolvConf, self: cfg.Addr}, cache: newAnswers(),
		metrics: s.metrics, now: s.now, log: s.log,
	}
	s.metrics.serve(cfg.Addr, s.forwarder.cache)
	return s, s.watch()
}

// watch keeps the index by the informers' events.
func (s *Server) watch() error {
	services := s.cfg.Factory.Core().V1().Services()
	lister := services.Lister()
	update := func(namespace, name string) {
		if name == "" {
			return // a slice of no service
		}
		s.index.update(namespace+"/"+name, func() (*corev1.Service, []*discoveryv1.EndpointSlice) {
			object, err := lister.Services(namespace).Get(name)
			if err != nil {
				return nil, nil // deleted
			}
			return object, s.cfg.Slices(namespace + "/" + name)
		}, s.now())
	}
	byService, err := services.Informer().AddEventHandler(handler(func(obj any) {
		if o, ok := obj.(*corev1.Service); ok {
			update(o.Namespace, o.Name)
		}
	}))
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	bySlice, err := s.cfg.Factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(handler(func(obj any) {
		if o, ok := obj.(*discoveryv1.EndpointSlice); ok {
			update(o.Namespace, o.Labels[discoveryv1.LabelServiceName])
		}
	}))
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	s.synced = []cache.InformerSynced{byService.HasSynced, bySlice.HasSynced}
	return nil
}

// handler calls fn with the object of any event, and with both where a change moves it from one to the other.
func handler(fn func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: fn,
		UpdateFunc: func(old, obj any) {
			fn(obj)
			a, wasSlice := old.(*discoveryv1.EndpointSlice)
			b, isSlice := obj.(*discoveryv1.EndpointSlice)
			if wasSlice && isSlice && a.Labels[discoveryv1.LabelServiceName] != b.Labels[discoveryv1.LabelServiceName] {
				fn(old)
			}
		},
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			fn(obj)
		},
	}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	return run.All(ctx, s.followConfig, s.listen, s.serveMetrics)
}

// followConfig keeps the settings as the ConfigMap has them. Where it may not be read there are none: a cluster that is not ours may refuse.
func (s *Server) followConfig(ctx context.Context) error {
	if s.cfg.Client == nil {
		return nil
	}
	factory := client.Informers(s.cfg.Client, informers.WithNamespace(metav1.NamespaceSystem), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		client.Newest(o)
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, configName).String()
	}))
	informer := factory.Core().V1().ConfigMaps().Informer()
	if err := informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		s.log.Debug("cannot watch the ConfigMap of DNS", "name", configName, "error", err)
	}); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.configure(obj) },
		UpdateFunc: func(_, obj any) { s.configure(obj) },
		DeleteFunc: func(any) { s.configure(nil) },
	})
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	return nil
}

// configure takes the ConfigMap's settings. Ones that cannot be read change nothing.
func (s *Server) configure(obj any) {
	object, _ := obj.(*corev1.ConfigMap)
	next, err := parseSettings(object, s.cfg.Addr)
	if err != nil {
		s.log.Error("ConfigMap kube-system/"+configName+" is not as it should be; what held before still does", "error", err)
		return
	}
	s.settings.Store(next)
	s.forwarder.cache.clear()
	s.log.Info("settings of DNS", "stubDomains", len(next.stubs), "upstreamNameservers", len(next.upstream), "hosts", len(next.hosts.addrs))
}
