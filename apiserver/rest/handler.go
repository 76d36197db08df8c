package rest

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// NodeDialer opens a connection to a node's API through its tunnel. What speaks at its end is HTTP/1.1 with the
// kubelet's paths. The error says why the node cannot be reached.
type NodeDialer interface {
	DialNode(ctx context.Context, node string) (net.Conn, error)
}

// TokenIssuer makes service account tokens. It fills in the request's status, or returns an API status error.
type TokenIssuer interface {
	Issue(ctx context.Context, namespace, serviceAccount string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Reviewer answers creations of the kinds that are questions, such as access reviews, with an object that holds the
// answer. namespace is the URL's.
type Reviewer interface {
	Review(ctx context.Context, u user.Info, namespace string, obj runtime.Object) (runtime.Object, error)
}

// Config is what a Handler serves and on what.
type Config struct {
	Kinds  []kinds.Kind
	Scheme *runtime.Scheme // knows every served type; tells unknown kinds from misplaced ones
	Store  store.Store
	Cache  *cache.Cache
	// Live answers for kinds that can be read and are not stored. One without has no objects.
	Live map[schema.GroupResource]Live
	// Admission is the whole chain; nil admits everything.
	Admission admission.Plugin
	// Authorizer is asked again where a request does more than its verb says (a patch or update that creates). May be nil.
	Authorizer authorizer.UnconditionalAuthorizer
	Hooks      map[schema.GroupResource]Hook
	Nodes      NodeDialer  // nil: nodes cannot be reached
	Tokens     TokenIssuer // nil: no tokens are issued
	Reviews    Reviewer    // serves the kinds of the table that are not stored, but for bindings; nil: nobody does
	// Settle returns once SetDynamic has been called with what is defined now of a resource that is not served yet;
	// at once where nothing is. Nil: nobody calls SetDynamic.
	Settle func(ctx context.Context, gr schema.GroupResource) error
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// MinWatch is the shortest time after which a watch without timeoutSeconds ends; zero is 30 minutes.
	MinWatch time.Duration
}

// Handler serves the resources of one table. It expects RequestInfo and the user in the request's context.
type Handler struct {
	Config
	static routes
	// routes is what is served now: the static resources and those set by SetDynamic.
	routes     atomic.Pointer[routes]
	change     sync.Mutex // held to put other routes in place
	watches    watchGate
	converters typeConverters
}

// routes finds resources. They are never changed once requests see them.
type routes map[schema.GroupVersionResource]*resource

// New derives what requests need from the table.
func New(cfg Config) *Handler {
	h := &Handler{Config: cfg, static: routes{}}
	if h.Now == nil {
		h.Now = time.Now
	}
	if h.MinWatch == 0 {
		h.MinWatch = 30 * time.Minute
	}
	h.watches.init()
	h.converters.scheme = cfg.Scheme
	h.static.add(h.Kinds, cfg, nil)
	h.routes.Store(&h.static)
	return h
}

// add derives the resources of a table. One that another table held with the same Dynamic.Schema is taken from there.
func (rs routes) add(table []kinds.Kind, cfg Config, known routes) {
	byPrefix := map[string]*resource{}
	var added []*resource
	for i := range table {
		k := &table[i]
		r := newResource(k, cfg.Scheme, cfg.Hooks[k.GroupResource()])
		if k.Dynamic == nil || !k.Dynamic.Stored {
			if old := known[r.gvr]; old.sameSchema(k) {
				if old.Dynamic.Terminating == k.Dynamic.Terminating {
					rs[r.gvr] = old
					continue
				}
				r.life, r.end = old.life, old.end
			}
			rs[r.gvr] = r
			added = append(added, r)
		}
		if stored(k) && k.FromStorage == nil {
			byPrefix[r.prefix] = r
		}
	}
	for _, r := range added {
		if s := byPrefix[r.prefix]; s != nil {
			r.storage, r.stored = s.gr.String(), s
		}
	}
}

// SetDynamic puts kinds in the place of those that an earlier call set; the static ones win where both are there.
// Watches of kinds whose Dynamic.Schema is another now end, and their clients take them up again behind what they
// have seen. Those of kinds that are gone end when the cache removes the resource, not before its last event.
// Their resources must be in the cache (CacheResources).
func (h *Handler) SetDynamic(table []kinds.Kind) {
	h.change.Lock()
	defer h.change.Unlock()
	known := *h.routes.Load()
	next := routes{}
	next.add(table, h.Config, known)
	maps.Copy(next, h.static)
	h.routes.Store(&next)
	for gvr, old := range known {
		if r := next[gvr]; r != nil && r != old && !old.sameSchema(r.Kind) {
			old.end()
		}
	}
}

// sameSchema tells whether objects of the dynamic kind k look as those of r.
func (r *resource) sameSchema(k *kinds.Kind) bool {
	return r != nil && r.Dynamic != nil && k.Dynamic != nil && r.Dynamic.Schema == k.Dynamic.Schema
}

// find gives a resource that is served, or nil.
func (h *Handler) find(gvr schema.GroupVersionResource) *resource { return (*h.routes.Load())[gvr] }

// Serves tells whether a resource is served.
func (h *Handler) Serves(gvr schema.GroupVersionResource) bool { return h.find(gvr) != nil }

// EndWatches ends every watch and other endless request that is being served, and those to come, at shutdown.
func (h *Handler) EndWatches() { h.watches.close() }

// Endless derives a context for a request that takes as long as it takes; EndWatches ends it.
func (h *Handler) Endless(ctx context.Context) (context.Context, context.CancelFunc) {
	return h.watches.endless(ctx)
}

// call is one request on its way through a verb.
type call struct {
	*Handler
	r    *resource
	info *request.RequestInfo
	req  *http.Request
	w    http.ResponseWriter
	out  output
	user user.Info

	options         runtime.Object // CreateOptions, UpdateOptions or DeleteOptions, for admission
	dryRun          bool
	unasked         bool // admission is not asked
	fieldValidation string
	undo            []func(context.Context) // what admission did for a write that is yet to happen
	values          url.Values
}

func (c *call) ctx() context.Context { return c.req.Context() }

func (c *call) query() url.Values {
	if c.values == nil {
		if c.req.URL.RawQuery == "" {
			c.values = url.Values{}
		} else {
			c.values = c.req.URL.Query()
		}
	}
	return c.values
}

func (c *call) warn(text string) { warning.AddWarning(c.ctx(), "", text) }

// ServeHTTP serves one request for a resource.
func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	c := call{Handler: h, req: req, w: w}
	c.info, _ = request.RequestInfoFrom(req.Context())
	c.user, _ = request.UserFrom(req.Context())
	if err := c.serve(); err != nil {
		c.takeBack()
		WriteError(w, req, err)
	}
}

func (c *call) serve() error {
	if c.info == nil || !c.info.IsResourceRequest {
		return notFoundPath()
	}
	if err := c.findResource(); err != nil {
		return err
	}
	if c.r.deprecation != "" {
		c.warn(c.r.deprecation)
	}
	if c.r.Namespaced && c.info.Namespace == "" && c.info.Name != "" && !isWatchPath(c.info) {
		return notFoundPath()
	}
	if c.info.Subresource != "" {
		return c.serveSubresource()
	}
	var err error
	if c.out, err = c.r.negotiate(c.req); err != nil {
		return err
	}
	if !c.r.verbs[c.info.Verb] || !c.r.pathTakes(c.info) {
		return MethodNotAllowed()
	}
	return c.serveVerb()
}

// findResource finds what the request is for. One that is defined already is waited for until it is served: a client may
// have learnt of it from another server.
func (c *call) findResource() error {
	gvr := schema.GroupVersionResource{Group: c.info.APIGroup, Version: c.info.APIVersion, Resource: c.info.Resource}
	c.r = c.find(gvr)
	if c.r == nil && c.Settle != nil {
		if err := c.Settle(c.ctx(), gvr.GroupResource()); err != nil {
			return readError(gvr.GroupResource(), "", 0, err)
		}
		c.r = c.find(gvr)
	}
	if c.r == nil {
		return notFoundPath()
	}
	return nil
}

func isWatchPath(info *request.RequestInfo) bool { return info.Verb == "watch" || info.Verb == "list" }

// pathTakes tells whether the path fits the verb: creation goes to the collection, updates to a name.
func (r *resource) pathTakes(info *request.RequestInfo) bool {
	switch info.Verb {
	case "create":
		return info.Name == "" && (!r.Namespaced || info.Namespace != "")
	case "update", "patch", "delete", "get":
		return info.Name != ""
	case "deletecollection":
		return !r.Namespaced || info.Namespace != ""
	}
	return true
}

func (c *call) serveVerb() error {
	switch {
	case c.r.NotStored && c.info.Verb == "get":
		return c.live()
	case c.r.NotStored && c.info.Verb == "list":
		return c.liveList()
	}
	switch c.info.Verb {
	case "get":
		return c.get()
	case "list", "watch":
		return c.list()
	case "create":
		return c.create()
	case "update":
		return c.update()
	case "patch":
		return c.patch()
	case "delete":
		return c.delete()
	case "deletecollection":
		return c.deleteCollection()
	}
	return MethodNotAllowed()
}
