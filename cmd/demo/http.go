package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This is as much of HTTP/1.1 (RFC 9112) as a demo needs: net/http would make up two thirds of the image.

// request is one that was read completely; its body is dropped.
type request struct {
	method, remote string
	url            *url.URL
	header         textproto.MIMEHeader
	close          bool // the client wants no further request on the connection
}

// response is what a handler returns.
type response struct {
	code int // 200 if zero
	kind string
	body string
}

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 75 * time.Second
	maxBody       = 1 << 20
)

// server answers requests with handle until shutdown.
type server struct {
	handle func(*request) response

	mu       sync.Mutex
	listener net.Listener
	draining bool
	conns    map[net.Conn]bool // true while a request is being answered
	active   sync.WaitGroup    // open connections
}

func (s *server) listenAndServe(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.listener, s.conns = l, map[net.Conn]bool{}
	s.mu.Unlock()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if s.track(conn, false) {
			s.active.Add(1)
			go s.serve(conn)
		}
	}
}

// track notes whether a connection is busy; it is false if an idle one is to be closed.
func (s *server) track(conn net.Conn, busy bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = busy
	return busy || !s.draining
}

func (s *server) serve(conn net.Conn) {
	defer s.active.Done()
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	in := bufio.NewReader(conn)
	for first := true; ; first = false {
		wait := idleTimeout
		if first {
			wait = headerTimeout
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		if _, err := in.Peek(1); err != nil {
			return
		}
		s.track(conn, true)
		_ = conn.SetReadDeadline(time.Now().Add(headerTimeout))
		req, err := readRequest(in)
		resp := response{code: 400, body: "bad request\n"}
		if err == nil {
			req.remote = conn.RemoteAddr().String()
			resp = s.handle(req)
		}
		s.mu.Lock()
		last := err != nil || req.close || s.draining
		s.mu.Unlock()
		if writeResponse(conn, req, resp, last) != nil || last || !s.track(conn, false) {
			return
		}
	}
}

func readRequest(in *bufio.Reader) (*request, error) {
	tp := textproto.NewReader(in)
	line, err := tp.ReadLine()
	if err != nil {
		return nil, err
	}
	f := strings.Fields(line)
	if len(f) != 3 || !strings.HasPrefix(f[2], "HTTP/1.") {
		return nil, errors.New("not HTTP/1")
	}
	req := &request{method: f[0]}
	if req.url, err = url.ParseRequestURI(f[1]); err != nil {
		return nil, err
	}
	if req.header, err = tp.ReadMIMEHeader(); err != nil {
		return nil, err
	}
	connection := strings.ToLower(req.header.Get("Connection"))
	req.close = strings.Contains(connection, "close") || f[2] == "HTTP/1.0" && !strings.Contains(connection, "keep-alive")
	if req.header.Get("Transfer-Encoding") != "" {
		req.close = true // its end is not looked for
		return req, nil
	}
	if n, err := strconv.ParseInt(req.header.Get("Content-Length"), 10, 64); err == nil && n > 0 {
		if n > maxBody {
			return nil, errors.New("body too large")
		}
		_, err = io.CopyN(io.Discard, in, n)
		return req, err
	}
	return req, nil
}

var reasons = map[int]string{200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}

func writeResponse(w io.Writer, req *request, resp response, last bool) error {
	if resp.code == 0 {
		resp.code = 200
	}
	if resp.kind == "" {
		resp.kind = "text/plain; charset=utf-8"
	}
	connection := "keep-alive"
	if last {
		connection = "close"
	}
	body := resp.body
	if req != nil && req.method == "HEAD" {
		body = ""
	}
	_, err := fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nDate: %s\r\nConnection: %s\r\n\r\n%s",
		resp.code, reasons[resp.code], resp.kind, len(resp.body), time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), connection, body)
	return err
}

// shutdown stops listening, closes idle connections and waits for the others until ctx ends.
func (s *server) shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	if s.listener != nil {
		s.listener.Close()
	}
	for conn, busy := range s.conns {
		if !busy {
			conn.Close()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.active.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get asks for a URL without TLS and returns the status code and the body.
func get(raw string, timeout time.Duration) (code int, body io.ReadCloser, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return 0, nil, err
	}
	if u.Scheme != "http" || u.Host == "" {
		return 0, nil, fmt.Errorf("%q: only http:// is known here", raw)
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "80")
	}
	conn, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return 0, nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: demo\r\nConnection: close\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		conn.Close()
		return 0, nil, err
	}
	a, err := readAnswer(bufio.NewReader(conn))
	if err != nil {
		conn.Close()
		return 0, nil, err
	}
	return a.code, struct {
		io.Reader
		io.Closer
	}{a.body, conn}, nil
}

// answer is a response to read; last says that the server closes the connection after it.
type answer struct {
	code int
	body io.Reader
	last bool
}

func readAnswer(in *bufio.Reader) (answer, error) {
	tp := textproto.NewReader(in)
	line, err := tp.ReadLine()
	if err != nil {
		return answer{}, err
	}
	var version string
	var code int
	if _, err := fmt.Sscan(line, &version, &code); err != nil || !strings.HasPrefix(version, "HTTP/") {
		return answer{}, fmt.Errorf("no HTTP response: %q", line)
	}
	header, err := tp.ReadMIMEHeader()
	if err != nil {
		return answer{}, err
	}
	a := answer{code: code, body: in, last: strings.EqualFold(header.Get("Connection"), "close")}
	if strings.EqualFold(header.Get("Transfer-Encoding"), "chunked") {
		r, w := io.Pipe()
		go func() { w.CloseWithError(copyChunks(w, in)) }()
		a.body = r
	} else if n, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64); err == nil {
		a.body = io.LimitReader(in, n)
	} else {
		a.last = true // its end is the connection's
	}
	return a, nil
}

func copyChunks(w io.Writer, in *bufio.Reader) error {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil || n <= 0 {
			return err
		}
		if _, err := io.CopyN(w, in, n); err != nil {
			return err
		}
		if _, err := in.ReadString('\n'); err != nil {
			return err
		}
	}
}
