// Package ingress serves Ingresses on the node's own addresses: it routes requests by host and path to the endpoints of Services, ends TLS,
// and balances over endpoints itself, without the Services' addresses.
//
// Invariants: nothing is listened on while there is no Ingress to serve; a request sees one table from beginning to end; a change of
// Ingresses, endpoints or certificates ends no request and no connection.
package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// Config is what New needs.
type Config struct {
	Client kubernetes.Interface
	// Factory gives Ingresses, IngressClasses, Services and EndpointSlices; the caller starts it.
	Factory informers.SharedInformerFactory
	// NodeName is whose events these are.
	NodeName string
	// Addresses are the node's own, to listen on.
	Addresses []netip.Addr
	// HTTPPort and HTTPSPort are where; 80 and 443 when zero.
	HTTPPort, HTTPSPort int
	// TrustedProxies are clients whose X-Forwarded headers are believed and added to.
	TrustedProxies []netip.Prefix
	// AccessLog logs every request.
	AccessLog bool
	// Metrics count requests; nil counts where nobody looks.
	Metrics *Metrics
}

// Server serves Ingresses.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *Metrics

	ingresses networkinglisters.IngressLister
	classes   networkinglisters.IngressClassLister
	services  corelisters.ServiceLister
	slices    cache.SharedIndexInformer
	synced    []cache.InformerSynced

	// What requests look at.
	table      atomic.Pointer[table]
	certs      atomic.Pointer[certificates]
	transports transports
	exchanges  sync.Pool
	buffers    buffers
	unrouted   *routeMetrics
	collector  collector

	// What has changed since it was last applied.
	mu      sync.Mutex
	changed changes
	wake    chan struct{}

	// watched has the Services that an Ingress leads to, for the informers' handlers.
	watched sync.Map

	// The rest is the loop's alone.
	builder   *builder
	upstreams map[upstreamKey]*upstream
	endpoints map[string]*endpoint
	secrets   *secretStore
	doors     [2]door                                    // for HTTP and HTTPS
	told      map[types.NamespacedName]map[string]string // what an Ingress's events have told of a matter
	events    func() record.EventRecorder
	// complete: all certificates' Secrets have been looked at.
	complete bool
	// waitCerts is until when HTTPS waits for the first look at certificates.
	waitCerts time.Time
}

// changes are the keys of objects that are not what they were.
type changes struct {
	ingresses, services map[types.NamespacedName]bool
	classes, secrets    bool
}

func newChanges() changes {
	return changes{ingresses: map[types.NamespacedName]bool{}, services: map[types.NamespacedName]bool{}}
}

// settle is how long changes are collected before they are applied together; retryPort after what time a port that is taken is tried again;
// firstCerts how long HTTPS waits for certificates after a start.
const (
	settle     = 5 * time.Millisecond
	retryPort  = 5 * time.Second
	firstCerts = 3 * time.Second
)

// New prepares a Server; call it before the factory is started.
func New(cfg Config) (*Server, error) {
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = 80
	}
	if cfg.HTTPSPort == 0 {
		cfg.HTTPSPort = 443
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	f := cfg.Factory
	s := &Server{
		cfg: cfg, log: slog.With("component", "ingress"), metrics: cfg.Metrics,
		ingresses: f.Networking().V1().Ingresses().Lister(), classes: f.Networking().V1().IngressClasses().Lister(),
		services: f.Core().V1().Services().Lister(), slices: f.Discovery().V1().EndpointSlices().Informer(),
		changed: newChanges(), wake: make(chan struct{}, 1), upstreams: map[upstreamKey]*upstream{}, endpoints: map[string]*endpoint{}, told: map[types.NamespacedName]map[string]string{},
		transports: transports{dial: (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext},
		unrouted:   cfg.Metrics.route(routeLabels{}),
	}
	s.exchanges.New = func() any { return newExchange(s) }
	s.builder = newBuilder(s.bind)
	s.table.Store(s.builder.table)
	s.secrets = &secretStore{client: cfg.Client, entries: map[types.NamespacedName]*secretEntry{}, changed: func() {
		s.note(func(c *changes) { c.secrets = true })
	}}
	s.doors = [2]door{{addresses: cfg.Addresses, port: cfg.HTTPPort, log: s.log, make: s.makePlain}, {addresses: cfg.Addresses, port: cfg.HTTPSPort, log: s.log, make: s.makeSecure}}
	return s, s.watch()
}

func (s *Server) makePlain() (*http.Server, error) {
	return newServer(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, false) }, nil, s.log), nil
}

func (s *Server) makeSecure() (*http.Server, error) {
	spare, err := fallback()
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if cert := s.certs.Load().choose(hello.ServerName); cert != nil {
			return cert, nil
		}
		return spare, nil
	}}
	return newServer(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, true) }, config, s.log), nil
}

// note tells the loop of a change.
func (s *Server) note(add func(*changes)) {
	s.mu.Lock()
	add(&s.changed)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (s *Server) watch() error {
	f := s.cfg.Factory
	service := func(namespace, name string) {
		key := types.NamespacedName{Namespace: namespace, Name: name}
		if _, ours := s.watched.Load(key); ours {
			s.note(func(c *changes) { c.services[key] = true })
		}
	}
	var failed []error
	add := func(informer cache.SharedIndexInformer, changed func(obj any)) {
		_, err := informer.AddEventHandler(handler(changed))
		failed = append(failed, err)
		s.synced = append(s.synced, informer.HasSynced)
	}
	add(f.Networking().V1().Ingresses().Informer(), func(obj any) {
		if i, ok := obj.(*networkingv1.Ingress); ok {
			s.note(func(c *changes) { c.ingresses[types.NamespacedName{Namespace: i.Namespace, Name: i.Name}] = true })
		}
	})
	add(f.Networking().V1().IngressClasses().Informer(), func(any) { s.note(func(c *changes) { c.classes = true }) })
	add(f.Core().V1().Services().Informer(), func(obj any) {
		if v, ok := obj.(*corev1.Service); ok {
			service(v.Namespace, v.Name)
		}
	})
	add(f.Discovery().V1().EndpointSlices().Informer(), func(obj any) {
		if v, ok := obj.(*discoveryv1.EndpointSlice); ok {
			service(v.Namespace, v.Labels[discoveryv1.LabelServiceName])
		}
	})
	return errors.Join(failed...)
}

// handler calls fn with the object of any event, and with both where one replaces the other.
func handler(fn func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    fn,
		UpdateFunc: func(old, obj any) { fn(old); fn(obj) },
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			fn(obj)
		},
	}
}

// Run serves until ctx ends, and then until the requests that are on their way have ended, for a time.
func (s *Server) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	s.events = sync.OnceValue(func() record.EventRecorder {
		events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.cfg.Client.CoreV1().Events("")})
		return events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "ingress", Host: s.cfg.NodeName})
	})
	defer func() {
		for i := range s.doors {
			s.doors[i].close()
		}
		for i := range s.doors {
			s.doors[i].draining.Wait()
		}
		s.transports.closeIdle()
	}()
	s.collector.watch(ctx)
	s.note(func(c *changes) { c.classes = true }) // all Ingresses
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-again:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
		again = nil
		if wait := s.apply(ctx); wait > 0 {
			again = time.After(wait)
		}
	}
}

// apply makes what is served what it should be. It gives the time after which it is to be called again; zero: when something changes.
func (s *Server) apply(ctx context.Context) time.Duration {
	s.mu.Lock()
	c := s.changed
	s.changed = newChanges()
	s.mu.Unlock()
	if s.rebuild(&c) {
		s.sweep()
		c.secrets = true
	}
	for key, u := range s.upstreams {
		if c.services[key.service()] {
			s.resolve(u)
		}
	}
	s.forget()
	if c.secrets {
		s.certificates(ctx)
	}
	return s.listen(ctx)
}

// rebuild takes over the Ingresses that changed, and tells whether any did that is served here.
func (s *Server) rebuild(c *changes) bool {
	if c.classes {
		all, err := s.ingresses.List(labels.Everything())
		if err == nil { // a lister of an informer's store has none
			for _, i := range all {
				c.ingresses[types.NamespacedName{Namespace: i.Namespace, Name: i.Name}] = true
			}
		}
	}
	changed := false
	for key := range c.ingresses {
		var rules *ingress.Rules
		if i, err := s.ingresses.Ingresses(key.Namespace).Get(key.Name); err == nil && ingress.Ours(i, s.served) {
			rules, _ = ingress.Parse(i) // what is wrong with it is the controller's to tell
		}
		if reflect.DeepEqual(rules, s.builder.rules[key]) {
			continue // nothing that matters here, such as its status
		}
		if rules == nil {
			delete(s.told, key)
		}
		s.builder.set(key, rules)
		changed = true
	}
	if changed {
		s.table.Store(s.builder.build())
		s.metrics.routes.Set(float64(len(s.builder.rules)))
	}
	return changed
}

func (s *Server) served(class string) bool {
	c, err := s.classes.Get(class)
	return err == nil && c.Spec.Controller == ingress.Controller
}

// bind gives a route what its requests need.
func (s *Server) bind(r *route) {
	key := upstreamKey{r.rules.Key.Namespace, r.Backend}
	u := s.upstreams[key]
	if u == nil {
		u = &upstream{key: key}
		s.upstreams[key] = u
		s.watched.Store(key.service(), true) // before it is looked at, so that no change is missed
		s.resolve(u)
	}
	r.upstream, r.metrics = u, s.metrics.route(labelsOf(r))
}

func labelsOf(r *route) routeLabels {
	return routeLabels{r.rules.Key.Namespace, r.rules.Key.Name, r.Host, r.Path.Path, r.Backend.String()}
}

// resolve looks up what a backend leads to now.
func (s *Server) resolve(u *upstream) {
	key := u.key.service()
	service, err := s.services.Services(key.Namespace).Get(key.Name)
	if err != nil {
		service = nil // there is none
	}
	t := resolve(u.key.Backend, service, s.slicesOf(key))
	p := &pool{protocol: t.protocol, endpoints: make([]*endpoint, 0, len(t.addresses))}
	for _, address := range t.addresses {
		e := s.endpoints[address]
		if e == nil {
			e = newEndpoint(address)
			s.endpoints[address] = e
		}
		p.endpoints = append(p.endpoints, e)
	}
	u.pool.Store(p)
}

// serviceIndex finds EndpointSlices by the namespace/name of their Service.
const serviceIndex = "ingress-service"

// slicesOf are a Service's EndpointSlices. Their index is made when it is first needed: there may never be an Ingress.
func (s *Server) slicesOf(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	if s.slices.GetIndexer().GetIndexers()[serviceIndex] == nil {
		err := s.slices.AddIndexers(cache.Indexers{serviceIndex: func(obj any) ([]string, error) {
			v, ok := obj.(*discoveryv1.EndpointSlice)
			if !ok || v.Labels[discoveryv1.LabelServiceName] == "" {
				return nil, nil
			}
			return []string{v.Namespace + "/" + v.Labels[discoveryv1.LabelServiceName]}, nil
		}})
		if err != nil {
			return nil // the informer has stopped
		}
	}
	found, err := s.slices.GetIndexer().ByIndex(serviceIndex, service.String())
	if err != nil {
		return nil
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, obj := range found {
		if v, ok := obj.(*discoveryv1.EndpointSlice); ok {
			out = append(out, v)
		}
	}
	return out
}

// forget drops the endpoints that no backend leads to, once they are as many as the others.
func (s *Server) forget() {
	used := 0
	for _, u := range s.upstreams {
		if p := u.pool.Load(); p != nil {
			used += len(p.endpoints)
		}
	}
	if len(s.endpoints) <= 2*used+64 {
		return
	}
	live := map[string]*endpoint{}
	for _, u := range s.upstreams {
		if p := u.pool.Load(); p != nil {
			for _, e := range p.endpoints {
				live[e.address] = e
			}
		}
	}
	s.endpoints = live
}

// sweep forgets the backends and series of routes that are no more.
func (s *Server) sweep() {
	upstreams, series, watched := map[upstreamKey]bool{}, map[routeLabels]bool{{}: true}, map[types.NamespacedName]bool{}
	for r := range s.table.Load().routes() {
		upstreams[r.upstream.key], series[labelsOf(r)], watched[r.upstream.key.service()] = true, true, true
	}
	maps.DeleteFunc(s.upstreams, func(k upstreamKey, _ *upstream) bool { return !upstreams[k] })
	s.watched.Range(func(key, _ any) bool {
		if !watched[key.(types.NamespacedName)] {
			s.watched.Delete(key)
		}
		return true
	})
	s.metrics.keep(series)
}

// certificates takes over what the Secrets hold.
func (s *Server) certificates(ctx context.Context) {
	want := map[types.NamespacedName]bool{}
	names := s.table.Load().certs
	for _, m := range []map[string]types.NamespacedName{names.exact, names.wild} {
		for _, secret := range m {
			want[secret] = true
		}
	}
	if names.other.Name != "" {
		want[names.other] = true
	}
	s.secrets.keep(ctx, want)
	loaded, failed, complete := s.secrets.load()
	s.complete = complete
	s.certs.Store(&certificates{names: names, loaded: loaded})
	for key, rules := range s.builder.rules {
		for _, t := range rules.TLS {
			secret := types.NamespacedName{Namespace: key.Namespace, Name: t.Secret}
			text := ""
			if err := failed[secret]; err != nil {
				text = fmt.Sprintf("the certificate of Secret %s cannot be used, clients get one that they do not trust: %v", t.Secret, err)
			}
			s.tell(key, "certificate "+t.Secret, "CertificateNotUsable", text)
		}
	}
}

// listen opens the ports that are needed and closes the others. A port that cannot be had is tried again after some time.
func (s *Server) listen(ctx context.Context) time.Duration {
	want := [2]bool{len(s.builder.rules) > 0, s.table.Load().secured}
	var wait time.Duration
	if !want[1] || s.complete {
		s.waitCerts = time.Time{}
	} else if !s.doors[1].listens() {
		if s.waitCerts.IsZero() {
			s.waitCerts = time.Now().Add(firstCerts)
		}
		if wait = time.Until(s.waitCerts); wait > 0 {
			want[1] = false
		}
	}
	for i := range s.doors {
		d, text := &s.doors[i], ""
		if err := d.set(ctx, want[i]); err != nil {
			text = fmt.Sprintf("node %s cannot listen, and tries again: %v", s.cfg.NodeName, err)
			wait = retryPort
		}
		if text != "" && text != d.told {
			s.log.Warn(text)
		}
		d.told = text
		for key, rules := range s.builder.rules {
			if i == 0 || len(rules.TLS) > 0 {
				s.tell(key, d.String(), "PortNotAvailable", text)
			}
		}
	}
	return max(wait, 0)
}

// tell writes a warning to an Ingress, once; an empty text ends what was told of the matter.
func (s *Server) tell(key types.NamespacedName, matter, reason, text string) {
	switch {
	case s.told[key][matter] == text:
		return
	case text == "":
		delete(s.told[key], matter)
		return
	case s.told[key] == nil:
		s.told[key] = map[string]string{}
	}
	s.told[key][matter] = text
	if i, err := s.ingresses.Ingresses(key.Namespace).Get(key.Name); err == nil {
		s.events().Event(i, corev1.EventTypeWarning, reason, text)
	}
}
