package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/coracle-dev/coracle/apiserver/audit"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/rest"
)

// requestTimeout is the longest that a request that is not endless may take.
const requestTimeout = 60 * time.Second

// chain wraps the routes. From the outside in: recovery, request info, metrics, deadline, authentication, audit,
// impersonation, priority and fairness, authorisation.
func (s *Server) chain(routes http.Handler) http.Handler {
	infos := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if s.cfg.GRPC != nil && isGRPC(req) {
			s.serveGRPC(rw, req)
			return
		}
		w := &response{ResponseWriter: rw}
		defer s.recovered(w, req)
		w.Header().Set("Cache-Control", "no-cache, private")
		info, err := infos.NewRequestInfo(req)
		if err != nil {
			rest.WriteError(w, req, apierrors.NewInternalError(fmt.Errorf("failed to create RequestInfo: %w", err)))
			return
		}
		endless := isEndless(info, req)
		defer s.metrics.begin(info, endless).end(w)
		ctx := request.WithRequestInfo(req.Context(), info)
		ctx = warning.WithWarningRecorder(ctx, &warnings{header: w.Header()})
		if !endless {
			timeout, err := timeoutOf(req)
			if err != nil {
				rest.WriteError(w, req, err)
				return
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
			if req.ContentLength != 0 { // a body that trickles in must not hold its place for longer either
				_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(timeout))
			}
		}
		req, err = s.identify(req.WithContext(ctx))
		var out http.ResponseWriter = w
		var record *audit.Record
		if s.cfg.Audit != nil {
			var done func()
			record, out, req, done = s.audited(w, req, info, endless, err)
			defer done()
		}
		if err == nil {
			req, err = s.impersonate(req, info, record)
		}
		if err == nil {
			var release func()
			if req, release, err = s.flows.begin(w, req, info, endless); err == nil {
				defer release()
				u, _ := request.UserFrom(req.Context())
				err = s.allow(req.Context(), attributes(u, info), record)
			}
		}
		if err != nil {
			rest.WriteError(out, req, err)
			return
		}
		if slog.Default().Enabled(ctx, slog.LevelDebug) {
			defer s.logRequest(req, w, time.Now())
		}
		routes.ServeHTTP(out, req)
	})
}

func (s *Server) logRequest(req *http.Request, w *response, start time.Time) {
	s.log.Debug("request", "verb", req.Method, "uri", req.URL.RequestURI(), "code", w.code(), "latency", time.Since(start), "agent", req.UserAgent())
}

// serveGRPC hands a call on with its user.
func (s *Server) serveGRPC(w http.ResponseWriter, req *http.Request) {
	u, err := s.authenticate(req)
	if err != nil {
		rest.WriteError(w, req, apierrors.NewUnauthorized("Unauthorized"))
		return
	}
	ctx, end := s.rest.Endless(request.WithUser(req.Context(), u))
	defer end()
	s.cfg.GRPC.ServeHTTP(w, req.WithContext(ctx))
}

func isGRPC(req *http.Request) bool {
	return req.ProtoMajor == 2 && strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc")
}

// recovered turns a panic into a 500, where the response has not begun.
func (s *Server) recovered(w *response, req *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.log.Error("panic while serving", "uri", req.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	rest.WriteError(w, req, apierrors.NewInternalError(errors.New("this request caused apiserver to panic. Look in the logs for details")))
}

// isEndless tells the requests that take as long as they take.
func isEndless(info *request.RequestInfo, req *http.Request) bool {
	if !info.IsResourceRequest {
		return false
	}
	switch info.Subresource {
	case "log", "exec", "attach", "portforward", "proxy":
		return true
	}
	return info.Verb == "watch" || req.Header.Get("Upgrade") != ""
}

// timeoutOf reads ?timeout, which can only shorten the deadline.
func timeoutOf(req *http.Request) (time.Duration, error) {
	if !strings.Contains(req.URL.RawQuery, "timeout=") {
		return requestTimeout, nil
	}
	text := req.URL.Query().Get("timeout")
	if text == "" {
		return requestTimeout, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %s", err))
	}
	if d <= 0 || d > requestTimeout {
		d = requestTimeout
	}
	return d, nil
}

// identify authenticates. It returns the request with its user.
func (s *Server) identify(req *http.Request) (*http.Request, error) {
	u, err := s.authenticate(req)
	if err != nil {
		s.log.Debug("authentication failed", "error", err)
		return req, apierrors.NewUnauthorized("Unauthorized")
	}
	return req.WithContext(request.WithUser(req.Context(), u)), nil
}

// impersonate returns the request with the user as whom it is to be done.
func (s *Server) impersonate(req *http.Request, info *request.RequestInfo, record *audit.Record) (*http.Request, error) {
	req.Header.Del("Authorization")
	u, _ := request.UserFrom(req.Context())
	a := attributes(u, info)
	as, constraint, err := auth.Impersonate(req, a, func(a authorizer.AttributesRecord) error { return s.allow(req.Context(), a, nil) })
	if err != nil {
		return req, err
	}
	if as != u {
		record.Impersonated(as, constraint)
		req = req.WithContext(request.WithUser(req.Context(), as))
	}
	return req, nil
}

// allow asks the authorizer; a refusal is an API status error.
func (s *Server) allow(ctx context.Context, a authorizer.AttributesRecord, record *audit.Record) error {
	if s.cfg.Authorizer == nil {
		return nil
	}
	decision, reason, err := s.cfg.Authorizer.Authorize(ctx, a)
	switch {
	case decision == authorizer.DecisionAllow:
		record.Annotate("authorization.k8s.io/decision", "allow")
		record.Annotate("authorization.k8s.io/reason", reason)
		return nil
	case err != nil:
		record.Annotate("authorization.k8s.io/reason", "internal error")
		return apierrors.NewInternalError(err)
	}
	record.Annotate("authorization.k8s.io/decision", "forbid")
	record.Annotate("authorization.k8s.io/reason", reason)
	return rest.Forbidden(a, reason)
}

func (s *Server) authenticate(req *http.Request) (user.Info, error) {
	if s.cfg.Authenticator == nil {
		if resp, ok, _ := auth.NewAuthenticator(nil, nil).AuthenticateRequest(req); ok {
			return resp.User, nil
		}
		return &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, nil
	}
	resp, ok, err := s.cfg.Authenticator.AuthenticateRequest(req)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("no credentials")
	}
	return resp.User, nil
}

func attributes(u user.Info, info *request.RequestInfo) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{
		User: u, Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name, Path: info.Path,
		ResourceRequest: info.IsResourceRequest,
	}
	if info.FieldSelector != "" { // a node may list the pods that are bound to it, and no others
		selector, err := fields.ParseSelector(info.FieldSelector)
		if a.FieldSelectorParsingErr = err; err == nil {
			a.FieldSelectorRequirements = selector.Requirements()
		}
	}
	if info.LabelSelector != "" { // and so the volumes that were made on it
		selector, err := labels.Parse(info.LabelSelector)
		if a.LabelSelectorParsingErr = err; err == nil {
			a.LabelSelectorRequirements, _ = selector.Requirements()
		}
	}
	return a
}

func isRead(verb string) bool { return slices.Contains([]string{"get", "list", "watch"}, verb) }

// warnings adds Warning headers to a response, each text once.
type warnings struct {
	mu     sync.Mutex
	header http.Header
	said   map[string]bool
}

// maxWarnings bounds the headers of one response.
const maxWarnings = 64

// AddWarning implements warning.Recorder.
func (w *warnings) AddWarning(agent, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == "" || w.said[text] || len(w.said) == maxWarnings {
		return
	}
	if w.said == nil {
		w.said = map[string]bool{}
	}
	w.said[text] = true
	if agent == "" {
		agent = "-"
	}
	if h, err := utilnet.NewWarningHeader(299, agent, text); err == nil {
		w.header.Add("Warning", h)
	}
}

// response remembers the status, for metrics and recovery.
type response struct {
	http.ResponseWriter
	status   int
	hijacked bool
}

func (w *response) code() int {
	switch {
	case w.hijacked:
		return http.StatusSwitchingProtocols
	case w.status == 0:
		return http.StatusOK
	}
	return w.status
}

func (w *response) WriteHeader(code int) {
	if w.status == 0 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (w *response) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Hijack implements http.Hijacker where the connection can be taken over.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	w.hijacked = true
	return h.Hijack()
}
