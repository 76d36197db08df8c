package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// mostAttempts is at how many endpoints a request is tried.
const mostAttempts = 3

// statusGone is how requests are counted whose client went away before there was an answer; it is sent to nobody.
const statusGone = 499

// errNoEndpoint: nobody is there to answer. errClient: the client went away, or broke off its request; no endpoint is to blame.
var (
	errNoEndpoint = errors.New("no endpoint is ready")
	errClient     = errors.New("the client went away")
)

// exchange is one request and its answer. Its own parts are used again for later ones.
type exchange struct {
	proxy   httputil.ReverseProxy // for upgrades
	server  *Server
	route   *route
	pool    *pool
	in      *http.Request
	host    string // without port, in lower case
	secure  bool
	took    *endpoint
	tried   []*endpoint
	status  int
	upgrade time.Duration // how long the answer took that upgraded the connection; 0 none did
	started time.Time
}

func newExchange(s *Server) *exchange {
	x := &exchange{server: s}
	x.proxy = httputil.ReverseProxy{
		Rewrite: x.rewrite, Transport: x, ModifyResponse: func(r *http.Response) error { x.answer(r); return nil }, ErrorHandler: x.fail, BufferPool: &s.buffers,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return x
}

// serve answers a request that came by HTTPS if secure.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, secure bool) {
	x := s.exchanges.Get().(*exchange)
	x.started, x.in, x.secure, x.host, x.route = time.Now(), r, secure, hostOf(r.Host), nil
	x.took, x.tried, x.status, x.upgrade = nil, x.tried[:0], 0, 0
	s.collector.served.Add(1)
	defer x.end() // also where the answer breaks off, which panics
	x.do(w)
}

func (x *exchange) do(w http.ResponseWriter) {
	x.route = x.server.table.Load().match(x.host, x.in.URL.Path)
	switch {
	case x.route == nil:
		x.plain(w, http.StatusNotFound)
	case !x.secure && x.redirects():
		w.Header().Set("Location", "https://"+x.server.secureHost(x.in.Host)+x.in.URL.RequestURI())
		x.plain(w, http.StatusPermanentRedirect)
	default:
		x.pool = x.route.upstream.pool.Load()
		if upgrades(x.in.Header) {
			x.proxy.ServeHTTP(w, x.in)
			return
		}
		x.forward(w)
	}
}

func (x *exchange) redirects() bool {
	r := x.route
	if r.rules.ForceRedirect {
		return true
	}
	return r.rules.Redirect && len(r.rules.TLS) > 0 && (r.secured || r.rules.Secured(x.host))
}

// plain answers by a status alone.
func (x *exchange) plain(w http.ResponseWriter, code int) {
	x.status = code
	http.Error(w, http.StatusText(code), code)
}

// end counts the request, and leaves the exchange to the next one: the proxy holds nothing of it once it has returned.
func (x *exchange) end() {
	if x.took != nil {
		x.took.pending.Add(-1)
	}
	took := time.Since(x.started)
	if x.upgrade != 0 {
		took = x.upgrade
	}
	metrics := x.server.unrouted
	if x.route != nil {
		metrics = x.route.metrics
	}
	metrics.done(x.status, took)
	if x.server.cfg.AccessLog {
		x.log(took)
	}
	x.in, x.route, x.pool, x.took = nil, nil, nil, nil
	clear(x.tried[:cap(x.tried)])
	x.server.exchanges.Put(x)
}

func (x *exchange) log(took time.Duration) {
	to := ""
	if x.took != nil {
		to = x.took.address
	}
	x.server.log.Info("request", "from", x.in.RemoteAddr, "method", x.in.Method, "host", x.in.Host, "uri", x.in.RequestURI, "proto", x.in.Proto,
		"status", x.status, "took", took, "endpoint", to, "agent", x.in.UserAgent())
}

// rewrite makes the request of an upgrade.
func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.RawQuery = x.in.URL.RawQuery // as it came, whatever it is
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"} {
		if values := x.in.Header[name]; len(values) > 0 {
			p.Out.Header[name] = values
		}
	}
	x.identify(p.Out.Header)
}

// identify says in a header where the request comes from. What the client says of that is dropped, unless it is a proxy that is trusted.
func (x *exchange) identify(h http.Header) {
	client, _, err := net.SplitHostPort(x.in.RemoteAddr)
	if err != nil {
		client = x.in.RemoteAddr
	}
	proto, port := "http", x.server.cfg.HTTPPort
	if x.secure {
		proto, port = "https", x.server.cfg.HTTPSPort
	}
	forwarded, host, number := client, x.in.Host, strconv.Itoa(port)
	if len(x.server.cfg.TrustedProxies) > 0 && x.server.trusts(client) {
		if before := h["X-Forwarded-For"]; len(before) > 0 {
			forwarded = strings.Join(before, ", ") + ", " + client
			client = x.server.originOf(forwarded)
		}
		proto, host, number = first(h, "X-Forwarded-Proto", proto), first(h, "X-Forwarded-Host", host), first(h, "X-Forwarded-Port", number)
	}
	delete(h, "Forwarded")
	values := [...]string{forwarded, proto, host, number, client} // one allocation for all
	h["X-Forwarded-For"], h["X-Forwarded-Proto"], h["X-Forwarded-Host"] = values[0:1:1], values[1:2:2], values[2:3:3]
	h["X-Forwarded-Port"], h["X-Real-Ip"] = values[3:4:4], values[4:5:5]
}

func first(h http.Header, key, otherwise string) string {
	if v := h[key]; len(v) > 0 && v[0] != "" {
		return v[0]
	}
	return otherwise
}

// trusts tells whether an address is that of a proxy whose word counts.
func (s *Server) trusts(address string) bool {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	for _, p := range s.cfg.TrustedProxies {
		if p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// originOf is the last address of a list that is not of a proxy that is trusted.
func (s *Server) originOf(forwarded string) string {
	all := strings.Split(forwarded, ",")
	for i := len(all) - 1; i > 0; i-- {
		if a := strings.TrimSpace(all[i]); !s.trusts(a) {
			return a
		}
	}
	return strings.TrimSpace(all[0])
}

// RoundTrip sends the request to an endpoint, and to another one where that is safe. It implements http.RoundTripper.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	var body *requestBody
	if out.Body != nil && out.Body != http.NoBody {
		body = &requestBody{from: out.Body}
		out.Body, out.GetBody = body, body.again
	}
	protocol := x.route.rules.Protocol
	if protocol == "" {
		protocol = x.pool.protocol
	}
	transport := x.server.transports.of(protocol, x.route.rules.ReadTimeout)
	out.URL.Scheme = "http"
	if protocol == ingress.HTTPS {
		out.URL.Scheme = "https"
	}
	failure := errNoEndpoint
	for range mostAttempts {
		e := x.pick()
		if e == nil {
			return nil, failure
		}
		if len(x.tried) > 0 {
			x.route.metrics.retried()
		}
		out.URL.Host = e.address
		e.pending.Add(1)
		answer, err := transport.RoundTrip(out)
		if err == nil {
			e.succeeded()
			x.took = e
			return answer, nil
		}
		e.pending.Add(-1)
		if out.Context().Err() != nil || body != nil && body.broken.Load() {
			return nil, errClient
		}
		e.failed(time.Now())
		x.server.metrics.ejected.Inc()
		x.tried, failure = append(x.tried, e), err
		if !repeatable(out, body, err) {
			return nil, err
		}
	}
	return nil, failure
}

// pick chooses the endpoint for the next attempt: the client's own where it has one.
func (x *exchange) pick() *endpoint {
	if name := x.route.rules.Cookie; name != "" && len(x.tried) == 0 {
		if c, err := x.in.Cookie(name); err == nil {
			if e := x.pool.sticky(c.Value, x.started); e != nil {
				return e
			}
		}
	}
	return x.pool.pick(x.tried, x.started)
}

// repeatable tells whether a request that failed may be sent again: nobody has got any of it, or it may be repeated by its method, and
// all of it is still there. One that took too long is not: it would take as long elsewhere.
func repeatable(r *http.Request, body *requestBody, err error) bool {
	if body != nil && body.read.Load() {
		return false
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	if isTimeout(err) {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// answer looks at an answer before it is sent.
func (x *exchange) answer(r *http.Response) {
	x.status = r.StatusCode
	if r.StatusCode == http.StatusSwitchingProtocols {
		x.upgrade = time.Since(x.started)
	}
	name := x.route.rules.Cookie
	if name == "" {
		return
	}
	if c, err := x.in.Cookie(name); err != nil || c.Value != x.took.cookie {
		r.Header.Add("Set-Cookie", (&http.Cookie{Name: name, Value: x.took.cookie, Path: "/", HttpOnly: true, Secure: x.secure, SameSite: http.SameSiteLaxMode}).String())
	}
}

// fail answers a request that could not be sent on.
func (x *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, errNoEndpoint):
		x.plain(w, http.StatusServiceUnavailable)
		return
	case errors.Is(err, errClient) || r.Context().Err() != nil:
		x.status = statusGone
		panic(http.ErrAbortHandler)
	case isTimeout(err):
		x.plain(w, http.StatusGatewayTimeout)
	default:
		x.plain(w, http.StatusBadGateway)
	}
	x.server.log.Debug("no answer", "ingress", x.route.rules.Key, "host", x.in.Host, "backend", x.route.Backend, "error", err)
}

// hostOf is the host that a request is for: without port, in lower case.
func hostOf(host string) string {
	if strings.IndexByte(host, ':') >= 0 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// secureHost is where a request for a host belongs that came by HTTP.
func (s *Server) secureHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	}
	if s.cfg.HTTPSPort != 443 {
		host += ":" + strconv.Itoa(s.cfg.HTTPSPort)
	}
	return host
}

// requestBody is a request's body that notes whether anything of it was read, and outlives the attempts to send it.
type requestBody struct {
	from io.Reader
	// read: some of it was; broken: the client did not send all.
	read, broken atomic.Bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	if !b.read.Load() {
		b.read.Store(true)
	}
	n, err := b.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.broken.Store(true)
	}
	return n, err
}

// Close does nothing: an attempt that fails before anything was read closes it, and the server closes what it is from.
func (b *requestBody) Close() error { return nil }

// again gives the body for another attempt by the transport itself.
func (b *requestBody) again() (io.ReadCloser, error) {
	if b.read.Load() {
		return nil, errors.New("the request's body was sent in part")
	}
	return b, nil
}

// buffers are those that bodies are copied through.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) {
	if len(p) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(p))
	}
}

// transports are the connections to endpoints, by what is spoken and how long an answer may take.
type transports struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	all  sync.Map // of *http.Transport, by transportKey
}

type transportKey struct {
	protocol ingress.Protocol
	timeout  time.Duration
}

// Connections to endpoints: how long one may take to be made, and how many are kept, for how long.
const (
	dialTimeout    = 5 * time.Second
	idlePerBackend = 256
	idleBackend    = 30 * time.Second
	// silentBackend is after what time without a word one of HTTP/2 is asked whether it is there.
	silentBackend = 15 * time.Second
)

func (t *transports) of(p ingress.Protocol, timeout time.Duration) *http.Transport {
	key := transportKey{p, timeout}
	if have, ok := t.all.Load(key); ok {
		return have.(*http.Transport)
	}
	made := &http.Transport{
		DialContext: t.dial, DisableCompression: true, MaxIdleConnsPerHost: idlePerBackend, IdleConnTimeout: idleBackend,
		ResponseHeaderTimeout: timeout, ExpectContinueTimeout: time.Second, TLSHandshakeTimeout: dialTimeout, Protocols: &http.Protocols{},
		HTTP2: &http.HTTP2Config{SendPingTimeout: silentBackend, PingTimeout: dialTimeout},
		// What a backend's certificate says of names is about other clients: it is reached by its address, which the API server vouches for.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	switch p {
	case ingress.H2C:
		made.Protocols.SetUnencryptedHTTP2(true)
	case ingress.HTTPS:
		made.Protocols.SetHTTP1(true)
		made.Protocols.SetHTTP2(true)
	default:
		made.Protocols.SetHTTP1(true)
	}
	have, _ := t.all.LoadOrStore(key, made)
	return have.(*http.Transport)
}

// closeIdle closes the connections that no request uses.
func (t *transports) closeIdle() {
	t.all.Range(func(_, v any) bool { v.(*http.Transport).CloseIdleConnections(); return true })
}
