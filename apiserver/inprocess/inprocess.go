// Package inprocess lets an HTTP client reach a handler of the same process without a connection. Its
// invariant: a client sees what it would see over a connection: bodies stream, closing a body or cancelling a
// request ends the handler's context, and a handler is held back by a client that does not read.
package inprocess

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// Transport hands requests to a handler in this process.
type Transport struct {
	Handler http.Handler
	// Context prepares the context that the handler sees.
	Context func(context.Context) context.Context
}

// RoundTrip implements http.RoundTripper. The handler runs in a goroutine of its own, so that bodies stream; it
// ends when the request's context does or the body is closed.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(t.Context(ctx))
	in.RequestURI = req.URL.RequestURI()
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/1.1", 1, 1
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &response{header: http.Header{}, started: make(chan struct{})}
	w.body.cond.L = &w.body.mu
	w.body.cancel = cancel
	stop := context.AfterFunc(ctx, func() { w.body.fail(context.Cause(ctx)) })
	go func() {
		defer cancel()
		defer in.Body.Close()
		defer w.finish(req.Context(), stop)
		t.Handler.ServeHTTP(w, in)
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

// response is the handler's end of a response.
type response struct {
	header  http.Header
	sent    http.Header // as it was when the handler began to answer
	code    int
	once    sync.Once
	started chan struct{}
	body    body
}

func (w *response) response(req *http.Request) *http.Response {
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &w.body, ContentLength: -1, Request: req,
	}
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Small bodies are there before the client sees the headers.
func (w *response) WriteHeader(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	w.sent = w.header.Clone()
	if w.sent.Get("Content-Length") == "" {
		w.start()
	}
}

func (w *response) start() { w.once.Do(func() { close(w.started) }) }

// Write implements http.ResponseWriter.
func (w *response) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.body.size() > maxAhead/2 {
		w.start()
	}
	return w.body.write(b)
}

// Flush implements http.Flusher.
func (w *response) Flush() {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.start()
}

// finish ends the body.
func (w *response) finish(asked context.Context, stop func() bool) {
	if p := recover(); p != nil {
		w.body.fail(io.ErrUnexpectedEOF)
	}
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	stop()
	if err := asked.Err(); err != nil {
		w.body.fail(err)
	}
	w.body.fail(io.EOF)
	w.start()
}

// maxAhead is how many bytes a handler may be ahead of the client.
const maxAhead = 1 << 20

// body is a buffered pipe.
type body struct {
	mu     sync.Mutex
	cond   sync.Cond
	buf    []byte
	off    int
	err    error // why there will be no more
	closed bool
	cancel context.CancelFunc
}

func (b *body) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.buf) - b.off
}

func (b *body) write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.buf)-b.off > maxAhead && b.err == nil && !b.closed {
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
func (b *body) compact() {
	switch {
	case b.off == len(b.buf):
		b.buf, b.off = b.buf[:0], 0
	case b.off > len(b.buf)/2:
		b.buf, b.off = b.buf[:copy(b.buf, b.buf[b.off:])], 0
	}
}

// fail ends the body with err once what is buffered is read.
func (b *body) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.cond.Broadcast()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
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
func (b *body) Close() error {
	b.mu.Lock()
	b.closed = true
	b.buf, b.off = nil, 0
	b.cond.Broadcast()
	b.mu.Unlock()
	b.cancel()
	return nil
}
