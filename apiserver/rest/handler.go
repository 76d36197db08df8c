package rest

import (
	"context"
	"net"
	"net/http"
	"net/url"
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
	// Admission is the whole chain; nil admits everything.
	Admission admission.Plugin
	// Authorizer is asked again where a request does more than its verb says (a patch or update that creates). May be nil.
	Authorizer authorizer.UnconditionalAuthorizer
	Hooks      map[schema.GroupResource]Hook
	Nodes      NodeDialer  // nil: nodes cannot be reached
	Tokens     TokenIssuer // nil: no tokens are issued
	Reviews    Reviewer    // serves the kinds of the table that are not stored, but for bindings; nil: nobody does
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// MinWatch is the shortest time after which a watch without timeoutSeconds ends; zero is 30 minutes.
	MinWatch time.Duration
}

// Handler serves the resources of one table. It expects RequestInfo and the user in the request's context.
type Handler struct {
	Config
	resources map[schema.GroupVersionResource]*resource
	// storage finds the resource that holds the stored version, by cache name.
	storage map[string]*resource
	watches watchGate
}

// New derives what requests need from the table.
func New(cfg Config) *Handler {
	h := &Handler{
		Config:    cfg,
		resources: map[schema.GroupVersionResource]*resource{},
		storage:   map[string]*resource{},
	}
	if h.Now == nil {
		h.Now = time.Now
	}
	if h.MinWatch == 0 {
		h.MinWatch = 30 * time.Minute
	}
	h.watches.init()
	byPrefix := map[string]*resource{}
	for i := range cfg.Kinds {
		k := &h.Kinds[i]
		r := newResource(k, cfg.Scheme, cfg.Hooks[k.GroupResource()])
		h.resources[r.gvr] = r
		if stored(k) && k.FromStorage == nil {
			byPrefix[r.prefix] = r
			h.storage[r.gr.String()] = r
		}
	}
	for _, r := range h.resources {
		if s := byPrefix[r.prefix]; s != nil {
			r.storage, r.stored = s.gr.String(), s
		}
	}
	return h
}

// Serves tells whether a resource is one of the table's.
func (h *Handler) Serves(gvr schema.GroupVersionResource) bool { return h.resources[gvr] != nil }

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
	fieldValidation string
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
		WriteError(w, req, err)
	}
}

func (c *call) serve() error {
	if c.info == nil || !c.info.IsResourceRequest {
		return notFoundPath()
	}
	c.r = c.resources[schema.GroupVersionResource{Group: c.info.APIGroup, Version: c.info.APIVersion, Resource: c.info.Resource}]
	if c.r == nil {
		return notFoundPath()
	}
	if c.r.Namespaced && c.info.Namespace == "" && c.info.Name != "" && !isWatchPath(c.info) {
		return notFoundPath()
	}
	if c.info.Subresource != "" {
		return c.serveSubresource()
	}
	var err error
	if c.out, err = negotiate(c.req); err != nil {
		return err
	}
	if !c.r.verbs[c.info.Verb] || !c.r.pathTakes(c.info) {
		return MethodNotAllowed()
	}
	return c.serveVerb()
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
