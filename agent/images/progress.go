package images

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// stallAfter is for how long a registry may send nothing of what it was asked for before a pull is given up.
const stallAfter = 5 * time.Minute

// watch sees whether a pull gets on: whether bytes come while requests are open. Unpacking, during which none are, may take its time.
type watch struct {
	limit time.Duration
	open  atomic.Int64
	last  atomic.Int64 // Unix nanoseconds
}

// guard ends the context it returns when the pull stalls, with the reason as its cause.
func (w *watch) guard(ctx context.Context) (context.Context, context.CancelFunc) {
	w.touch()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		ticker := time.NewTicker(w.limit / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if w.open.Load() > 0 && time.Since(time.Unix(0, w.last.Load())) > w.limit {
				cancel(fmt.Errorf("the registry has sent nothing for %s", w.limit))
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (w *watch) touch() { w.last.Store(time.Now().UnixNano()) }

// wrap has a client's requests watched.
func (w *watch) wrap(c *http.Client) error {
	c.Transport = watched{w, c.Transport}
	return nil
}

type watched struct {
	watch *watch
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t watched) RoundTrip(r *http.Request) (*http.Response, error) {
	t.watch.touch()
	t.watch.open.Add(1)
	resp, err := t.next.RoundTrip(r)
	t.watch.touch()
	if err != nil {
		t.watch.open.Add(-1)
		return nil, err
	}
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: t.watch}
	return resp, nil
}

// watchedBody is open until it is closed or read to its end.
type watchedBody struct {
	io.ReadCloser
	watch *watch
	over  atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.touch()
	}
	if err != nil {
		b.end()
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func (b *watchedBody) end() {
	if !b.over.Swap(true) {
		b.watch.open.Add(-1)
	}
}
