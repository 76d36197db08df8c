package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// simple makes a world with one backend, which serves every host.
func simple(t *testing.T, h http.Handler, annotations string, change ...func(*Config)) (*world, *http.Client) {
	t.Helper()
	w := newWorld(t, change...)
	w.pod("10.1.0.1:8080", h)
	w.service("web", nil, "10.1.0.1")
	w.ingress("web", "- / web\n"+annotations)
	w.until(func() error {
		if w.server.table.Load().match("x", "/") == nil || refused(w.server.cfg.HTTPPort) == nil {
			return errors.New("not served yet")
		}
		return nil
	})
	return w, w.web(nil)
}

// show answers with what it was asked: the URI, and the headers named.
func show(names ...string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, r.Method, r.RequestURI, r.Host)
		for _, n := range names {
			fmt.Fprintf(rw, "%s=%q\n", n, r.Header[n])
		}
	})
}

func do(c *http.Client, r *http.Request) (string, error) {
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestHeaders(t *testing.T) {
	names := []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip", "Forwarded", "Connection", "X-Drop", "Keep-Alive", "Te", "X-Keep", "User-Agent"}
	ask := func(w *world, c *http.Client) string {
		t.Helper()
		r, _ := http.NewRequest("GET", "http://x.example.com/a%2Fb//c;d?q=%zz;x&y", nil)
		for name, value := range map[string]string{
			"X-Forwarded-For": "1.2.3.4, 10.0.0.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil", "X-Forwarded-Port": "1", "X-Real-Ip": "1.2.3.4", "Forwarded": "for=1.2.3.4",
			"Connection": "X-Drop", "X-Drop": "1", "Keep-Alive": "timeout=5", "Te": "trailers", "X-Keep": "1", "User-Agent": "",
		} {
			r.Header.Set(name, value)
		}
		got, err := do(c, r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	const tail = `Forwarded=[]
Connection=[]
X-Drop=[]
Keep-Alive=[]
Te=["trailers"]
X-Keep=["1"]
User-Agent=[]
`
	const head = "GET /a%2Fb//c;d?q=%zz;x&y x.example.com\n"
	t.Run("of anybody", func(t *testing.T) {
		w, c := simple(t, show(names...), "")
		want := head + fmt.Sprintf("X-Forwarded-For=[\"127.0.0.1\"]\nX-Forwarded-Proto=[\"http\"]\nX-Forwarded-Host=[\"x.example.com\"]\nX-Forwarded-Port=[\"%d\"]\nX-Real-Ip=[\"127.0.0.1\"]\n", w.server.cfg.HTTPPort) + tail
		if got := ask(w, c); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("of a trusted proxy", func(t *testing.T) {
		w, c := simple(t, show(names...), "", func(c *Config) {
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
		})
		want := head + "X-Forwarded-For=[\"1.2.3.4, 10.0.0.7, 127.0.0.1\"]\nX-Forwarded-Proto=[\"https\"]\nX-Forwarded-Host=[\"evil\"]\nX-Forwarded-Port=[\"1\"]\nX-Real-Ip=[\"1.2.3.4\"]\n" + tail
		if got := ask(w, c); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// raw sends bytes and gives the status lines of all answers.
func raw(t *testing.T, port int, text string) []string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	var all []string
	for in := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return all
		}
		all = append(all, resp.Status)
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

// TestSmuggling: what two servers might read differently is refused, or reaches the backend in one form alone.
func TestSmuggling(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	w, _ := simple(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Upgrade") != "" {
			t.Errorf("an upgrade to %s was sent on", r.Header["Upgrade"])
		}
		mu.Lock()
		seen = append(seen, fmt.Sprintf("%s %s %q %d", r.Method, r.RequestURI, body, r.ContentLength))
		mu.Unlock()
	}), "")
	const end = "Connection: close\r\n\r\n"
	for _, c := range []struct {
		name, text string
		answers    []string
		backend    string
	}{
		{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n" + end + "abcd", []string{"400 Bad Request"}, ""},
		{"both framings", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n" + end + "3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", []string{"200 OK"}, `POST / "abc" -1`},
		{"unknown framing", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n" + end, []string{"501 Not Implemented"}, ""},
		{"two framings", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + end + "0\r\n\r\n", []string{"501 Not Implemented"}, ""},
		{"space before a colon", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n" + end, []string{"400 Bad Request: invalid header name"}, ""},
		{"two hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + end, []string{"400 Bad Request"}, ""},
		{"no host", "GET / HTTP/1.1\r\n" + end, []string{"400 Bad Request: missing required Host header"}, ""},
		{"a bad length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n" + end + "abc", []string{"400 Bad Request"}, ""},
		{"a line break in a header", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n" + end, []string{"400 Bad Request"}, ""},
		{"a large header", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 80<<10) + "\r\n" + end, []string{"431 Request Header Fields Too Large"}, ""},
		{"CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n" + end, []string{"404 Not Found"}, ""},
		{"the server as a whole", "OPTIONS * HTTP/1.1\r\nHost: x\r\n" + end, []string{"200 OK"}, ""},
		{"an upgrade to HTTP/2", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\r\n", []string{"200 OK"}, `GET / "" 0`},
		{"a URL", "GET http://x/absolute HTTP/1.1\r\nHost: other\r\n" + end, []string{"200 OK"}, `GET /absolute "" 0`},
	} {
		mu.Lock()
		seen = nil
		mu.Unlock()
		got := raw(t, w.server.cfg.HTTPPort, c.text)
		if !slices.Equal(got, c.answers) {
			t.Errorf("%s: %q, want %q", c.name, got, c.answers)
		}
		mu.Lock()
		if strings.Join(seen, ", ") != c.backend {
			t.Errorf("%s: the backend got %q", c.name, seen)
		}
		mu.Unlock()
	}
}

func TestTLS(t *testing.T) {
	w := newWorld(t)
	w.pod("10.1.0.1:8080", show("X-Forwarded-Proto", "X-Forwarded-Port"))
	w.service("web", nil, "10.1.0.1")
	roots := w.certificate("one", "one.example.com")
	wild := w.certificate("wild", "*.wild.example.com")
	w.ingress("web", "one.example.com / web\nx.wild.example.com / web\n- / web\ntls one one.example.com\ntls wild *.wild.example.com")
	one, two := w.web(roots), w.web(wild)
	want := fmt.Sprintf("200 GET / one.example.com\nX-Forwarded-Proto=[\"https\"]\nX-Forwarded-Port=[\"%d\"]", w.server.cfg.HTTPSPort)
	w.eventually(one, "https://one.example.com/", want)
	w.eventually(two, "https://x.wild.example.com/", strings.ReplaceAll(want, "one.", "x.wild."))
	if got, err := get(one, "https://other.example.com/"); err == nil {
		t.Errorf("trusted for another host: %s", got)
	}
	w.eventually(w.web(nil), "https://other.example.com/", strings.ReplaceAll(want, "one.", "other."))
	resp, err := one.Get("https://one.example.com/")
	if err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()

	// Where there is a certificate, HTTP leads to HTTPS.
	for host, code := range map[string]string{"one.example.com": "308", "x.wild.example.com": "308", "other.example.com": "200"} {
		resp, err := one.Get("http://" + host + "/path?q=1")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if location := fmt.Sprintf("https://%s:%d/path?q=1", host, w.server.cfg.HTTPSPort); !strings.HasPrefix(resp.Status, code) || code == "308" && resp.Header.Get("Location") != location {
			t.Errorf("%s: %s, %s", host, resp.Status, resp.Header.Get("Location"))
		}
	}

	// A changed certificate is used from the next handshake on, under load and without any request that fails.
	reloaded := load(w, func() (*http.Client, string) { return w.web(nil), "https://one.example.com/" })
	roots = w.certificate("one", "one.example.com")
	w.eventually(w.web(roots), "https://one.example.com/", want)
	reloaded()
	// What is no certificate is told of, and the others stay.
	secret := &corev1.Secret{}
	secret.Name, secret.Type, secret.Data = "broken", corev1.SecretTypeTLS, map[string][]byte{"tls.crt": []byte("x"), "tls.key": []byte("y")}
	must[*corev1.Secret](w)(w.client.CoreV1().Secrets("default").Create(w.Context(), secret, metav1.CreateOptions{}))
	w.ingress("broken", "broken.example.com / web\ntls broken broken.example.com\ntls absent absent.example.com")
	w.until(func() error {
		return eventOf(w.client, "broken", "CertificateNotUsable", "the certificate of Secret broken cannot be used")
	})
	w.until(func() error {
		return eventOf(w.client, "broken", "CertificateNotUsable", "the certificate of Secret absent cannot be used")
	})
	w.eventually(w.web(nil), "https://broken.example.com/", strings.ReplaceAll(want, "one.", "broken."))
	w.certificate("absent", "absent.example.com")
	w.until(func() error {
		if w.server.certs.Load().choose("absent.example.com") == nil {
			return errors.New("the certificate that came later is not used")
		}
		return nil
	})
	w.eventually(w.web(roots), "https://one.example.com/", want)
	w.ingress("web", "one.example.com / web\ntls one one.example.com\n@ssl-redirect false")
	w.eventually(one, "http://one.example.com/", strings.ReplaceAll(strings.Replace(want, "https", "http", 1), fmt.Sprint(w.server.cfg.HTTPSPort), fmt.Sprint(w.server.cfg.HTTPPort)))
	w.ingress("web", "- / web\n@force-ssl-redirect true")
	w.eventually(one, "http://any/", "308 Permanent Redirect")
}

// load asks all the time, on new connections and on old ones, until the function that it gives is called; that reports what failed.
func load(w *world, next func() (*http.Client, string)) (stop func()) {
	ctx, cancel := context.WithCancel(w.Context())
	var wg sync.WaitGroup
	var count atomic.Int64
	for n := range 4 {
		wg.Go(func() {
			c, url := next()
			for ctx.Err() == nil {
				if got, err := get(c, url); err != nil || !strings.HasPrefix(got, "200") {
					w.Errorf("%s: %q, %v", url, got, err)
					return
				}
				count.Add(1)
				if n%2 == 0 {
					c.CloseIdleConnections()
				}
			}
		})
	}
	return func() {
		w.until(func() error {
			if count.Load() < 20 && !w.Failed() {
				return errors.New("no load")
			}
			return nil
		})
		cancel()
		wg.Wait()
	}
}

// TestStreams: what either side sends arrives before it has sent all.
func TestStreams(t *testing.T) {
	arrived := make(chan string)
	_, c := simple(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/up" {
			first := make([]byte, 5)
			_, _ = io.ReadFull(r.Body, first)
			arrived <- string(first)
			rest, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprint(rw, len(rest))
			return
		}
		_, _ = io.WriteString(rw, "first")
		_ = http.NewResponseController(rw).Flush()
		<-arrived
		_, _ = io.WriteString(rw, " last")
	}), "")
	resp, err := c.Get("http://x/down")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("%q, %v", first, err)
	}
	arrived <- "go on"
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != " last" {
		t.Errorf("%q, %v", rest, err)
	}
	body, in := io.Pipe()
	answer := make(chan string, 1)
	go func() {
		r, _ := http.NewRequest("POST", "http://x/up", body)
		got, err := do(c, r)
		answer <- fmt.Sprint(got, err)
	}()
	_, _ = io.WriteString(in, "begin")
	if got := <-arrived; got != "begin" {
		t.Errorf("%q", got)
	}
	_, _ = in.Write(make([]byte, 3<<20)) // more than any buffer
	_ = in.Close()
	if got := <-answer; got != "3145728<nil>" {
		t.Errorf("%s", got)
	}
}

// TestBackendTLS: HTTPS to backends, whose certificates are their own.
func TestBackendTLS(t *testing.T) {
	w := newWorld(t)
	w.pod("10.1.0.1:8080", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(rw, r.Proto) }), func(s *httptest.Server) {
		s.TLS, s.EnableHTTP2 = &tls.Config{}, true
	})
	w.service("web", func(s *corev1.Service) { app := "https"; s.Spec.Ports[0].AppProtocol = &app }, "10.1.0.1")
	w.service("plain", nil, "10.1.0.1")
	w.ingress("web", "a.example.com / web")
	w.ingress("plain", "b.example.com / plain\n@backend-protocol HTTPS")
	w.eventually(w.web(nil), "http://a.example.com/", "200 HTTP/2.0")
	w.eventually(w.web(nil), "http://b.example.com/", "200 HTTP/2.0")
}

func TestAffinity(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.pod(fmt.Sprintf("10.1.0.%d:8080", i+1), named(fmt.Sprint(i)))
	}
	w.service("web", nil, "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5")
	w.ingress("web", "- / web\n@affinity cookie\n@session-cookie-name stay")
	c := w.web(nil)
	w.until(func() error { _, err := get(c, "http://x/"); return err })
	resp, err := c.Get("http://x/")
	if err != nil || len(resp.Cookies()) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	cookie := resp.Cookies()[0]
	first, _ := io.ReadAll(resp.Body)
	if cookie.Name != "stay" || !cookie.HttpOnly || cookie.Path != "/" || strings.Contains(cookie.Value, "10.1") {
		t.Errorf("cookie %+v", cookie)
	}
	ask := func() (string, []*http.Cookie) {
		r, _ := http.NewRequest("GET", "http://x/", nil)
		r.AddCookie(cookie)
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body), resp.Cookies()
	}
	for range 10 {
		if got, again := ask(); got != string(first) || len(again) != 0 {
			t.Errorf("%s, then %s, %v", first, got, again)
		}
	}
	w.pod("10.1.0.7:8080", named("other"))
	w.endpoints("web", "10.1.0.7")
	w.until(func() error {
		if got, again := ask(); got != "other" || len(again) != 1 {
			return fmt.Errorf("the endpoint has gone, and the answer is %s, %v", got, again)
		}
		return nil
	})
}

// TestMetrics: by route as it is in the Ingress, and gone with it.
func TestMetrics(t *testing.T) {
	w, c := simple(t, named("web"), "")
	for _, url := range []string{"http://x/a", "http://y/b", "http://z/"} {
		w.eventually(c, url, "200 web")
	}
	series := func() map[string]uint64 { return gather(t, w.server.metrics) }
	w.until(func() error { // counted when the answer has been sent
		if n := series()[`coracle_ingress_requests_total{code="200",host="",ingress="web",namespace="default",path="",service="web:80"}`]; n != 3 {
			return fmt.Errorf("%d requests in %v", n, series())
		}
		return nil
	})
	if n := series()[`coracle_ingress_request_duration_seconds{host="",ingress="web",namespace="default",path="",service="web:80"}`]; n != 3 {
		t.Errorf("%d observations", n)
	}
	w.ingress("web", "a.example.com /a web")
	w.eventually(c, "http://x/", "404 Not Found")
	w.eventually(c, "http://a.example.com/a", "200 web")
	w.until(func() error {
		for _, s := range slices.Collect(maps.Keys(series())) {
			if strings.Contains(s, `host="",ingress="web"`) {
				return fmt.Errorf("%s is still there", s)
			}
		}
		if series()[`coracle_ingress_requests_total{code="404",host="",ingress="",namespace="",path="",service=""}`] == 0 {
			return fmt.Errorf("no route: %v", series())
		}
		return nil
	})
}

func TestResolve(t *testing.T) {
	// Ports by name and number, by the Service's port's name; see TestRouting for the conditions of endpoints.
	w := newWorld(t)
	w.pod("10.1.0.1:8080", named("web"))
	w.service("web", func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Port: 80, Protocol: corev1.ProtocolUDP}, {Name: "http", Port: 81}, {Name: "none", Port: 82}}
	}, "10.1.0.1")
	resolved := func(b ingress.Backend) []string {
		b.Service = "web"
		u := &upstream{key: upstreamKey{"default", b}}
		w.server.resolve(u)
		var all []string
		for _, e := range u.pool.Load().endpoints {
			all = append(all, e.address)
		}
		return all
	}
	w.until(func() error {
		if got := resolved(ingress.Backend{Port: "http"}); len(got) != 1 || got[0] != "10.1.0.1:8080" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	for b, want := range map[ingress.Backend]int{{Number: 81}: 1, {Number: 80}: 0, {Port: "dns"}: 0, {Port: "none"}: 0, {Number: 8080}: 0, {Port: "absent"}: 0} {
		if got := resolved(b); len(got) != want {
			t.Errorf("%+v: %v", b, got)
		}
	}
	if key := (upstreamKey{"ns", ingress.Backend{Service: "s"}}).service(); key != (types.NamespacedName{Namespace: "ns", Name: "s"}) {
		t.Error(key)
	}
}

func TestFallbackCertificate(t *testing.T) {
	cert, err := fallback()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil || parsed.NotAfter.Before(time.Now().AddDate(0, 11, 0)) || parsed.IsCA {
		t.Errorf("%+v, %v", parsed, err)
	}
	if (*certificates)(nil).choose("x") != nil {
		t.Error("a certificate of nothing")
	}
}
