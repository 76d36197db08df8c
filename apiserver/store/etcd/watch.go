package etcd

import (
	"context"

	"github.com/coracle-dev/coracle/apiserver/store"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// pendingMost bounds how many events wait for a slow receiver before etcd's own buffers take over.
const pendingMost = 10_000

// watcher is a store.Watcher on either kind of etcd watch.
type watcher struct {
	events  chan []store.Event
	request func(ctx context.Context) error
	err     error
}

func (w *watcher) Events() <-chan []store.Event { return w.events }

func (w *watcher) Err() error { return w.err }

func (w *watcher) RequestProgress(ctx context.Context) error { return w.request(ctx) }

// pump hands what comes from in to the watcher's receiver, together where several responses are at hand. It
// returns nil at the end of ctx.
func pump[T any](ctx context.Context, w *watcher, in <-chan T, convert func([]store.Event, T) ([]store.Event, error)) error {
	var pending []store.Event
	var ended error
	for {
		from, to := in, w.events
		if ended != nil || len(pending) > pendingMost {
			from = nil
		}
		if len(pending) == 0 {
			if to = nil; ended != nil {
				return ended
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case response, ok := <-from:
			if !ok {
				ended = store.ErrUnavailable
				continue
			}
			pending, ended = convert(pending, response)
		case to <- pending:
			pending = nil
		}
	}
}

// run pumps until the watch ends, then tells why. The engine's end ends it with store.ErrUnavailable.
func run[T any](e *Engine, ctx context.Context, w *watcher, in <-chan T, convert func([]store.Event, T) ([]store.Event, error)) {
	defer close(w.events)
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(e.ctx, cancel)
	defer stop()
	w.err = pump(either, w, in, convert)
	switch {
	case ctx.Err() != nil:
		w.err = nil
	case e.ctx.Err() != nil:
		w.err = store.ErrUnavailable
	}
}

// watchEmbedded watches the database of the member in this process.
func (e *Engine) watchEmbedded(kv mvcc.WatchableKV) func(context.Context, string, int64) store.Watcher {
	return func(ctx context.Context, prefix string, after int64) store.Watcher {
		stream := kv.NewWatchStream()
		w := &watcher{events: make(chan []store.Event)}
		end := []byte(clientv3.GetPrefixRangeEnd(prefix))
		id, err := stream.Watch(ctx, clientv3.AutoWatchID, []byte(prefix), end, max(after, 0)+1)
		if err != nil {
			stream.Close()
			w.err = mapError(ctx, err)
			close(w.events)
			return w
		}
		w.request = func(ctx context.Context) error {
			if err := e.begin(); err != nil {
				return err
			}
			defer e.calls.RUnlock()
			stream.RequestProgress(id)
			return ctx.Err()
		}
		e.watches.Go(func() {
			defer stream.Close()
			run(e, ctx, w, stream.Chan(), func(to []store.Event, r mvcc.WatchResponse) ([]store.Event, error) {
				return e.appendEmbedded(ctx, to, r, kv)
			})
		})
		return w
	}
}

func (e *Engine) appendEmbedded(ctx context.Context, to []store.Event, r mvcc.WatchResponse, kv mvcc.WatchableKV) ([]store.Event, error) {
	if r.CompactRevision != 0 {
		return to, store.ErrCompacted
	}
	if len(r.Events) == 0 {
		return append(to, progress(r.Revision)), nil
	}
	for _, ev := range r.Events {
		var prev *mvccpb.KeyValue
		if ev.Type == mvccpb.Event_DELETE {
			// The watch brings no previous values; a read of a revision compacted meanwhile may find none.
			at := mvcc.RangeOptions{Rev: ev.Kv.ModRevision - 1}
			if was, err := kv.Range(ctx, ev.Kv.Key, nil, at); err == nil && len(was.KVs) > 0 {
				prev = was.KVs[0]
			}
		}
		to = append(to, e.event(ev, prev))
	}
	return to, nil
}

// watchRemote watches a cluster elsewhere.
func (e *Engine) watchRemote(client *clientv3.Client) func(context.Context, string, int64) store.Watcher {
	return func(ctx context.Context, prefix string, after int64) store.Watcher {
		// A partitioned member must end the watch rather than leave it silent.
		watchCtx := clientv3.WithRequireLeader(ctx)
		source := clientv3.NewWatcher(client)
		responses := source.Watch(watchCtx, prefix, clientv3.WithPrefix(), clientv3.WithRev(max(after, 0)+1), clientv3.WithPrevKV())
		w := &watcher{events: make(chan []store.Event)}
		w.request = func(ctx context.Context) error {
			return mapError(ctx, source.RequestProgress(clientv3.WithRequireLeader(ctx)))
		}
		e.watches.Go(func() {
			defer source.Close()
			run(e, ctx, w, responses, func(to []store.Event, r clientv3.WatchResponse) ([]store.Event, error) {
				return e.appendRemote(ctx, to, r)
			})
		})
		return w
	}
}

func (e *Engine) appendRemote(ctx context.Context, to []store.Event, r clientv3.WatchResponse) ([]store.Event, error) {
	if r.CompactRevision != 0 {
		return to, store.ErrCompacted
	}
	if err := r.Err(); err != nil {
		return to, mapError(ctx, err)
	}
	if r.IsProgressNotify() {
		return append(to, progress(r.Header.Revision)), nil
	}
	for _, ev := range r.Events {
		to = append(to, e.event((*mvccpb.Event)(ev), ev.PrevKv))
	}
	return to, nil
}

func progress(revision int64) store.Event {
	return store.Event{Type: store.Progress, Entry: store.Entry{Revision: revision}}
}

func (e *Engine) event(ev *mvccpb.Event, prev *mvccpb.KeyValue) store.Event {
	out := store.Event{Type: store.Modified, Entry: e.entry(ev.Kv)}
	switch {
	case ev.Type == mvccpb.Event_DELETE:
		out.Type, out.Value = store.Deleted, nil
	case ev.Kv.CreateRevision == ev.Kv.ModRevision:
		out.Type = store.Created
	}
	if prev != nil {
		out.PrevValue = prev.Value
	}
	return out
}
