package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/coracle-dev/coracle/apiserver/cache"
)

const newest = cache.Newest

// maxNodeError bounds how much of a node's error text is passed on, in bytes.
const maxNodeError = 64 << 10

// nodeStream is one request to a node, over a connection of its own.
type nodeStream struct {
	conn net.Conn
	in   *bufio.Reader
	resp *http.Response
	done func()
}

// askNode sends a request to a node and reads the head of its answer. The connection ends with the request's context.
func (c *call) askNode(node string, req *http.Request) (*nodeStream, error) {
	if c.Nodes == nil {
		return nil, apierrors.NewServiceUnavailable("this server has no way to reach nodes")
	}
	ctx, end := c.watches.endless(c.ctx())
	conn, err := c.Nodes.DialNode(ctx, node)
	if err != nil {
		end()
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q cannot be reached: %v", node, err))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	s := &nodeStream{conn: conn, in: bufio.NewReader(conn), done: func() { stop(); conn.Close(); end() }}
	if err = req.Write(conn); err == nil {
		s.resp, err = http.ReadResponse(s.in, req)
	}
	if err != nil {
		s.done()
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q did not answer: %v", node, err))
	}
	return s, nil
}

func nodeRequest(method, node string, target *url.URL, header http.Header) *http.Request {
	u := *target
	u.Scheme, u.Host = "http", node
	return &http.Request{
		Method: method, URL: &u, Host: node, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
	}
}

// copyFromNode streams a node's plain answer to the client.
func (c *call) copyFromNode(node string, target *url.URL, follow bool) error {
	s, err := c.askNode(node, nodeRequest(http.MethodGet, node, target, http.Header{}))
	if err != nil {
		return err
	}
	defer s.done()
	defer s.resp.Body.Close()
	if err := c.nodeError(s.resp); err != nil {
		return err
	}
	if wsstream.IsWebSocketRequest(c.req) {
		// An error is the client's: it has gone, or speaks another protocol than those of logs, and was told so.
		_ = wsstream.NewReader(lateEnd{s.resp.Body}, true, wsstream.NewDefaultReaderProtocols()).Copy(c.w, c.req)
		return nil
	}
	mediaType := s.resp.Header.Get("Content-Type")
	if mediaType == "" {
		mediaType = "text/plain"
	}
	c.w.Header().Set("Content-Type", mediaType)
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	var out io.Writer = c.w
	if f, ok := c.w.(http.Flusher); ok && follow {
		f.Flush()
		out = flushWriter{c.w, f}
	}
	_, _ = io.CopyBuffer(onlyWriter{out}, s.resp.Body, make([]byte, 32<<10))
	return nil
}

// lateEnd tells of the end only after all data, which the WebSocket library takes for granted.
type lateEnd struct{ io.Reader }

func (r lateEnd) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		err = nil
	}
	return n, err
}

// flushWriter sends every write on at once.
type flushWriter struct {
	w io.Writer
	f http.Flusher
}

func (w flushWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.f.Flush()
	return n, err
}

// onlyWriter hides ReadFrom, which would wait for a full buffer.
type onlyWriter struct{ io.Writer }

// nodeError is the error a node answered with, if it did: a Status as it is, or any node's plain text.
func (c *call) nodeError(resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxNodeError))
	var status metav1.Status
	if json.Unmarshal(b, &status) == nil && status.Kind == "Status" && int(status.Code) == resp.StatusCode {
		return &apierrors.StatusError{ErrStatus: status}
	}
	text := strings.TrimSuffix(string(b), "\n")
	if err != nil || text == "" {
		text = "unknown"
	}
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, c.req.Method, c.r.gr, c.info.Name, text, 0, false)
}

// hopHeaders are not the node's business.
var hopHeaders = []string{"Authorization", "Cookie", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding"}

// upgradeToNode connects the client with the node, byte for byte: SPDY and WebSocket are between those two.
func (c *call) upgradeToNode(node string, target *url.URL) error {
	if c.req.Header.Get("Upgrade") == "" {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	header := c.req.Header.Clone()
	for _, name := range hopHeaders {
		header.Del(name)
	}
	s, err := c.askNode(node, nodeRequest(c.req.Method, node, target, header))
	if err != nil {
		return err
	}
	defer s.done()
	if s.resp.StatusCode != http.StatusSwitchingProtocols {
		defer s.resp.Body.Close()
		return c.notSwitched(node, s.resp)
	}
	client, buffered, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("take over the connection: %w", err))
	}
	defer client.Close()
	if err := writeSwitch(client, s.resp); err != nil {
		return nil // the client is gone
	}
	join(connStream{client, buffered.Reader}, connStream{s.conn, s.in})
	return nil
}

// notSwitched passes on why a node does not stream: plain text as it is, which clients show behind "unable to upgrade connection".
func (c *call) notSwitched(node string, resp *http.Response) error {
	if resp.StatusCode < http.StatusBadRequest {
		return apierrors.NewInternalError(fmt.Errorf("node %q did not switch protocols: %s", node, resp.Status))
	}
	mediaType := resp.Header.Get("Content-Type")
	if !strings.HasPrefix(mediaType, "text/plain") {
		return c.nodeError(resp)
	}
	c.w.Header().Set("Content-Type", mediaType)
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(c.w, io.LimitReader(resp.Body, maxNodeError))
	return nil
}

func writeSwitch(w io.Writer, resp *http.Response) error {
	bw := bufio.NewWriter(w)
	fmt.Fprintf(bw, "HTTP/1.1 101 %s\r\n", http.StatusText(http.StatusSwitchingProtocols))
	if err := resp.Header.Write(bw); err != nil {
		return err
	}
	_, _ = bw.WriteString("\r\n")
	return bw.Flush()
}

// connStream is a connection of which some may have been read ahead.
type connStream struct {
	net.Conn
	in *bufio.Reader
}

// join copies both ways until either side ends.
func join(a, b connStream) {
	done := make(chan struct{}, 2)
	pipe := func(to, from connStream) {
		_, _ = io.Copy(to.Conn, from.in)
		// The other direction has no use any more: both protocols end as a whole.
		to.Conn.Close()
		from.Conn.Close()
		done <- struct{}{}
	}
	go pipe(a, b)
	go pipe(b, a)
	<-done
	<-done
}
