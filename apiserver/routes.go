package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"runtime"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/internal/version"
)

// route serves a request that has passed the chain.
func (s *Server) route(w http.ResponseWriter, req *http.Request) {
	if h := s.external.Handler(req.URL.Path); h != nil {
		rest.Begun(req.Context()) // the work is another server's
		h.ServeHTTP(w, req)
		return
	}
	if info, ok := request.RequestInfoFrom(req.Context()); ok && info.IsResourceRequest {
		s.rest.ServeHTTP(w, req)
		return
	}
	path := req.URL.Path
	if trimmed := strings.TrimSuffix(path, "/"); s.discovery.Serves(trimmed) {
		readOnly(s.discovery).ServeHTTP(w, req)
		return
	}
	switch {
	case path == "/" || path == "":
		readOnly(http.HandlerFunc(s.rootPaths)).ServeHTTP(w, req)
	case path == "/version" || path == "/version/":
		readOnly(http.HandlerFunc(serveVersion)).ServeHTTP(w, req)
	case path == "/metrics":
		readOnly(s.metrics.handler).ServeHTTP(w, req)
	case strings.HasPrefix(path, "/debug/pprof"):
		readOnly(http.HandlerFunc(serveProfile)).ServeHTTP(w, req)
	case strings.HasPrefix(path, flowDumps):
		readOnly(http.HandlerFunc(s.flows.dump)).ServeHTTP(w, req)
	case s.health.serves(path):
		s.health.ServeHTTP(w, req)
	case s.cfg.OpenAPI != nil && strings.HasPrefix(path, "/openapi/"):
		s.cfg.OpenAPI.ServeHTTP(w, req)
	default:
		s.otherPath(w, req)
	}
}

func (s *Server) otherPath(w http.ResponseWriter, req *http.Request) {
	for prefix, h := range s.cfg.Paths {
		if strings.HasPrefix(req.URL.Path, prefix) {
			h.ServeHTTP(w, req)
			return
		}
	}
	rest.WriteError(w, req, &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}})
}

// readOnly refuses other methods than GET and HEAD.
func readOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			rest.WriteError(w, req, rest.MethodNotAllowed())
			return
		}
		h.ServeHTTP(w, req)
	})
}

// rootPaths lists what there is.
func (s *Server) rootPaths(w http.ResponseWriter, _ *http.Request) {
	paths := append(s.discovery.Paths(), "/healthz", "/livez", "/metrics", "/readyz", "/version")
	for _, c := range s.health.checks {
		paths = append(paths, "/healthz/"+c.Name, "/livez/"+c.Name, "/readyz/"+c.Name)
	}
	if s.cfg.OpenAPI != nil {
		paths = append(paths, "/openapi/v2", "/openapi/v3")
	}
	slices.Sort(paths)
	writeJSON(w, metav1.RootPaths{Paths: paths})
}

// serveProfile serves Go's profiles, as upstream's servers do to administrators.
func serveProfile(w http.ResponseWriter, req *http.Request) {
	switch strings.TrimPrefix(req.URL.Path, "/debug/pprof/") {
	case "profile":
		pprof.Profile(w, req)
	case "trace":
		pprof.Trace(w, req)
	case "cmdline":
		pprof.Cmdline(w, req)
	case "symbol":
		pprof.Symbol(w, req)
	default:
		pprof.Index(w, req)
	}
}

func serveVersion(w http.ResponseWriter, _ *http.Request) {
	major, minor, _ := strings.Cut(strings.TrimPrefix(version.KubernetesVersion, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	writeJSON(w, apiversion.Info{
		Major: major, Minor: minor, GitVersion: version.Git(), GitCommit: version.Commit, GitTreeState: "clean",
		BuildDate: "1970-01-01T00:00:00Z", GoVersion: runtime.Version(), Compiler: runtime.Compiler,
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	})
}

// writeJSON answers with a document that is not an API object, indented as upstream does.
func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
