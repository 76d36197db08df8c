package apiserver

import (
	"context"
	"io"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver/auth"
)

// LocalConfig gives clients inside this process a way to the server that needs neither TCP nor TLS. Requests
// are u's and pass the whole chain. There is no client-side rate limit.
func (s *Server) LocalConfig(u user.Info) *restclient.Config {
	return &restclient.Config{
		Host:      "http://coracle.local",
		QPS:       -1,
		UserAgent: u.GetName(),
		Transport: &localTransport{handler: s.handler, user: u},
		ContentConfig: restclient.ContentConfig{
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			ContentType:        "application/vnd.kubernetes.protobuf",
		},
	}
}

// localTransport hands requests to a handler in this process.
type localTransport struct {
	handler http.Handler
	user    user.Info
}

// RoundTrip implements http.RoundTripper. The handler runs in a goroutine of its own, so that bodies stream; it
// ends when the request's context does or the body is closed.
func (t *localTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(auth.WithLocalUser(ctx, t.user))
	in.RequestURI = req.URL.RequestURI()
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/1.1", 1, 1
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &localResponse{header: http.Header{}, started: make(chan struct{})}
	w.body.cond.L = &w.body.mu
	w.body.cancel = cancel
	stop := context.AfterFunc(ctx, func() { w.body.fail(context.Cause(ctx)) })
	go func() {
		defer cancel()
		defer in.Body.Close()
		defer w.finish(stop)
		t.handler.ServeHTTP(w, in)
	}()
	select {
	case <-w.started:
		return w.response(req), nil
	case <-ctx.Done():
		// The handler may have answered in the same moment.
		select {
		case <-w.started:
			return w.response(req), nil
		default:
			return nil, ctx.Err()
		}
	}
}

// localResponse is the handler's end of a response.
type localResponse struct {
	header  http.Header
	sent    http.Header // as it was when the handler began to answer
	code    int
	once    sync.Once
	started chan struct{}
	body    localBody
}

func (w *localResponse) response(req *http.Request) *http.Response {
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &w.body, ContentLength: -1, Request: req,
	}
}

// Header implements http.ResponseWriter.
func (w *localResponse) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Small bodies are there before the client sees the headers.
func (w *localResponse) WriteHeader(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	w.sent = w.header.Clone()
	if w.sent.Get("Content-Length") == "" {
		w.start()
	}
}

func (w *localResponse) start() { w.once.Do(func() { close(w.started) }) }

// Write implements http.ResponseWriter.
func (w *localResponse) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.body.size() > localBuffer/2 {
		w.start()
	}
	return w.body.write(b)
}

// Flush implements http.Flusher.
func (w *localResponse) Flush() {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.start()
}

// finish ends the body.
func (w *localResponse) finish(stop func() bool) {
	if p := recover(); p != nil {
		w.body.fail(io.ErrUnexpectedEOF)
	}
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	stop()
	w.body.fail(io.EOF)
	w.start()
}

// localBuffer is how many bytes a handler may be ahead of the client.
const localBuffer = 1 << 20

// localBody is a buffered pipe.
type localBody struct {
	mu     sync.Mutex
	cond   sync.Cond
	buf    []byte
	off    int
	err    error // why there will be no more
	closed bool
	cancel context.CancelFunc
}

func (b *localBody) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.buf) - b.off
}

func (b *localBody) write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.buf)-b.off > localBuffer && b.err == nil && !b.closed {
		b.cond.Wait()
	}
	switch {
	case b.closed:
		return 0, io.ErrClosedPipe
	case b.err != nil:
		return 0, b.err
	}
	b.compact()
	b.buf = append(b.buf, p...)
	b.cond.Broadcast()
	return len(p), nil
}

// idleBuffer is how large a buffer, in bytes, is kept while nothing is in it: most bodies are watches, and most
// watches are quiet.
const idleBuffer = 16 << 10

// compact keeps the buffer from growing by what has been read.
func (b *localBody) compact() {
	switch {
	case b.off == len(b.buf):
		b.buf, b.off = b.buf[:0], 0
	case b.off > len(b.buf)/2:
		b.buf, b.off = b.buf[:copy(b.buf, b.buf[b.off:])], 0
	}
}

// fail ends the body with err once what is buffered is read.
func (b *localBody) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.cond.Broadcast()
}

// Read implements io.Reader.
func (b *localBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.off == len(b.buf) && b.err == nil && !b.closed {
		b.cond.Wait()
	}
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.off == len(b.buf) {
		return 0, b.err
	}
	n := copy(p, b.buf[b.off:])
	b.off += n
	if b.off == len(b.buf) && cap(b.buf) > idleBuffer {
		b.buf, b.off = nil, 0
	}
	b.cond.Broadcast()
	return n, nil
}

// Close implements io.Closer: it ends the handler's context.
func (b *localBody) Close() error {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.buf, b.off = nil, 0
	b.cond.Broadcast()
	return nil
}
