// Package aggregation serves groups that other API servers implement, as APIService objects say: it proxies to them, tells
// whether they can be reached, and merges what they tell of themselves. Its invariant: a request goes to another server only
// while the newest APIService of its version names a Service, and never before this server has authenticated and authorised it.
package aggregation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coracle-dev/coracle/apiserver/discovery"
	"github.com/coracle-dev/coracle/apiserver/reach"
)

// resource names the objects that say which server serves what.
var resource = schema.GroupResource{Group: apiregistrationv1.GroupName, Resource: "apiservices"}

// Config is what a Controller needs.
type Config struct {
	// Reader looks at live objects, which are not to be changed.
	Reader reach.Reader
	// Nodes lead to servers that are pods; nil: there are none.
	Nodes  reach.Nodes
	Client apiregistration.APIServiceInterface
	// Discovery is told what the others serve.
	Discovery *discovery.Handler
	// OpenAPI publishes their documents; nil: nobody does.
	OpenAPI func(source string, v3 map[string]*spec3.OpenAPI, v2 []*spec.Swagger)
	// Certificate is the one by which they know this server; nil: it shows none.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Dial connects to a port of a Service; nil goes to its endpoints.
	Dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)
}

// Controller decides by APIServices who serves what, and serves what others do.
type Controller struct {
	Config
	log    *slog.Logger
	routes atomic.Pointer[map[schema.GroupVersion]*remote]
	reach  reach.Dialer

	local      []schema.GroupVersion // what APIServices were kept for last
	looked     bool                  // that was done once
	registered bool                  // those of groups that are always served were made
	published  string                // what discovery and OpenAPI were told of
	hasOpenAPI bool
}

// How often is looked: at objects, and at the other servers themselves where they answer and where they do not.
const (
	lookEvery  = time.Second
	checkEvery = 30 * time.Second
	retryEvery = 5 * time.Second
)

// New makes a controller that serves nothing until it runs.
func New(cfg Config) *Controller {
	c := &Controller{Config: cfg, log: slog.With("component", "aggregation"), reach: reach.Dialer{Nodes: cfg.Nodes, Reader: cfg.Reader}}
	c.routes.Store(&map[schema.GroupVersion]*remote{})
	if c.Dial == nil {
		c.Dial = c.reach.DialService
	}
	return c
}

// Run keeps the routes and the APIServices until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("cannot keep APIServices", "error", err)
		}
		select {
		case <-ctx.Done():
			for _, r := range *c.routes.Load() {
				r.transport.CloseIdleConnections()
			}
			return nil
		case <-tick.C:
		}
	}
}

// look makes everything follow from the objects as they are.
func (c *Controller) look(ctx context.Context) error {
	services, err := c.services(ctx)
	if err != nil {
		return err
	}
	keepErr := c.keepLocal(ctx, services)
	c.route(services)
	checks, bounded := errgroup.WithContext(ctx)
	checks.SetLimit(8)
	for _, r := range *c.routes.Load() {
		checks.Go(func() error { return c.check(bounded, r) })
	}
	err = checks.Wait()
	c.publish()
	return errors.Join(keepErr, err)
}

func (c *Controller) services(ctx context.Context) (map[string]*apiregistrationv1.APIService, error) {
	objs, _, err := c.Reader.List(ctx, resource, "")
	if err != nil {
		return nil, err
	}
	services := map[string]*apiregistrationv1.APIService{}
	for _, obj := range objs {
		if s, ok := obj.(*apiregistrationv1.APIService); ok {
			services[s.Name] = s
		}
	}
	return services, nil
}

// route makes the routes those of the APIServices that name a Service.
func (c *Controller) route(services map[string]*apiregistrationv1.APIService) {
	old := *c.routes.Load()
	next := map[schema.GroupVersion]*remote{}
	same := true
	for _, s := range services {
		if s.Spec.Service == nil || s.DeletionTimestamp != nil {
			continue
		}
		gv := schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
		if r := old[gv]; r != nil && r.serves(s) {
			r.service.Store(s)
			next[gv] = r
			continue
		}
		next[gv] = c.newRemote(s)
		same = false
	}
	if same && len(next) == len(old) {
		return
	}
	c.routes.Store(&next)
	for gv, r := range old {
		if next[gv] != r {
			r.transport.CloseIdleConnections()
		}
	}
}

// publish tells discovery and OpenAPI what the others serve, where that is news.
func (c *Controller) publish() {
	var externals []discovery.External
	v3 := map[string]*spec3.OpenAPI{}
	var v2 []*spec.Swagger
	var state []string
	for gv, r := range *c.routes.Load() {
		service := r.service.Load()
		known := r.known.Load()
		externals = append(externals, discovery.External{
			GroupVersion: gv, GroupPriority: service.Spec.GroupPriorityMinimum, VersionPriority: service.Spec.VersionPriority,
			Resources: known.resources, Stale: !r.available(),
		})
		if known.v3 != nil {
			v3["apis/"+gv.String()] = known.v3
		}
		if known.v2 != nil {
			v2 = append(v2, known.v2)
		}
		state = append(state, fmt.Sprint(gv, service.Spec.GroupPriorityMinimum, service.Spec.VersionPriority, r.available(), known.hash))
	}
	slices.Sort(state)
	now := strings.Join(state, "\n")
	if now == c.published {
		return
	}
	c.published = now
	slices.SortFunc(externals, func(a, b discovery.External) int {
		return strings.Compare(a.GroupVersion.String(), b.GroupVersion.String())
	})
	if err := c.Discovery.SetExternal(externals); err != nil {
		c.log.Error("discovery does not show all groups", "error", err)
	}
	if c.OpenAPI != nil && (c.hasOpenAPI || len(v3)+len(v2) > 0) {
		c.hasOpenAPI = len(v3)+len(v2) > 0
		c.OpenAPI("apiservices", v3, v2)
	}
}

// available tells whether an APIService's condition says that its server answers.
func available(s *apiregistrationv1.APIService) *apiregistrationv1.APIServiceCondition {
	for i := range s.Status.Conditions {
		if s.Status.Conditions[i].Type == apiregistrationv1.Available {
			return &s.Status.Conditions[i]
		}
	}
	return nil
}

// setCondition writes a condition where it is another one than there is.
func (c *Controller) setCondition(ctx context.Context, s *apiregistrationv1.APIService, want apiregistrationv1.APIServiceCondition) error {
	want.Type = apiregistrationv1.Available
	have := available(s)
	if have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
		return nil
	}
	want.LastTransitionTime = metav1.Now()
	next := s.DeepCopy()
	if have := available(next); have != nil {
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
	} else {
		next.Status.Conditions = append(next.Status.Conditions, want)
	}
	_, err := c.Client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	return ignoreRaces(err)
}
