// Package etcd is the store engine on etcd v3: a single member inside this process (OpenEmbedded), or a cluster
// elsewhere (Open). Its invariant: etcd's revision is the store's, and keys and values are stored untouched,
// so that any etcd client reads them.
package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/coracle-dev/coracle/apiserver/store"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// maxRequest is the largest request etcd takes, in bytes: its own default, and what upstream clusters run with.
	maxRequest = 1.5 * 1024 * 1024
	// maxValue leaves room for the key and the transaction around a value.
	maxValue = maxRequest - 4096
)

// Engine is an etcd store. It is made by OpenEmbedded or Open, and must be closed.
type Engine struct {
	kv         clientv3.KV
	leases     leasePool
	prefix     string // before every key
	read       []clientv3.OpOption
	revision   func(ctx context.Context) (int64, error)
	watch      func(ctx context.Context, prefix string, after int64) store.Watcher
	defragment func() error // nil for a cluster that is not ours
	log        *slog.Logger

	ctx       context.Context // ends with Close
	calls     sync.RWMutex    // held for reading by every call, so that Close waits for them
	watches   sync.WaitGroup
	closeOnce sync.Once
	close     func() error
	closeErr  error
}

var (
	_ store.Store      = (*Engine)(nil)
	_ store.Revisioner = (*Engine)(nil)
)

// Close ends all watches and stops the engine. What was acknowledged stays.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() { e.closeErr = e.close() })
	return e.closeErr
}

// begin starts a call; unless it fails, the caller releases e.calls in the end.
func (e *Engine) begin() error {
	e.calls.RLock()
	if e.ctx.Err() != nil {
		e.calls.RUnlock()
		return fmt.Errorf("%w: closed", store.ErrUnavailable)
	}
	return nil
}

// get reads at a revision, zero for the newest.
func (e *Engine) get(ctx context.Context, k string, revision int64, ops ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.calls.RUnlock()
	ops = append(ops, e.read...)
	if revision > 0 {
		ops = append(ops, clientv3.WithRev(revision))
	}
	resp, err := e.kv.Get(ctx, k, ops...)
	return resp, mapError(ctx, err)
}

// Create implements store.Store.
func (e *Engine) Create(ctx context.Context, key string, value []byte, opts store.CreateOptions) (int64, error) {
	if len(value) > maxValue {
		return 0, store.ErrTooLarge
	}
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.calls.RUnlock()
	k := e.prefix + key
	for {
		lease, err := e.leases.forTTL(ctx, opts.TTL)
		if err != nil {
			return 0, mapError(ctx, err)
		}
		put := clientv3.OpPut(k, string(value), clientv3.WithLease(lease))
		resp, err := e.txn(ctx, clientv3.Compare(clientv3.ModRevision(k), "=", 0), put, clientv3.OpGet(k))
		if err != nil {
			if e.leases.lost(lease, err) {
				continue
			}
			return 0, mapError(ctx, err)
		}
		if !resp.Succeeded {
			return 0, &store.ExistsError{Current: e.entry(only(resp))}
		}
		return resp.Header.Revision, nil
	}
}

// Get implements store.Store.
func (e *Engine) Get(ctx context.Context, key string, revision int64) (store.Entry, error) {
	resp, err := e.get(ctx, e.prefix+key, revision)
	if err != nil {
		return store.Entry{}, err
	}
	if len(resp.Kvs) == 0 {
		return store.Entry{}, store.ErrNotFound
	}
	return e.entry(resp.Kvs[0]), nil
}

// Update implements store.Store.
func (e *Engine) Update(ctx context.Context, key string, value []byte, expected int64) (int64, error) {
	if len(value) > maxValue {
		return 0, store.ErrTooLarge
	}
	k := e.prefix + key
	ttl := store.TTLOf(ctx)
	if ttl == 0 {
		return e.replace(ctx, k, expected, clientv3.OpPut(k, string(value), clientv3.WithIgnoreLease()))
	}
	for {
		lease, err := e.leases.forTTL(ctx, ttl)
		if err != nil {
			return 0, mapError(ctx, err)
		}
		revision, err := e.replace(ctx, k, expected, clientv3.OpPut(k, string(value), clientv3.WithLease(lease)))
		if err == nil || !e.leases.lost(lease, err) {
			return revision, err
		}
	}
}

// Delete implements store.Store.
func (e *Engine) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	k := e.prefix + key
	return e.replace(ctx, k, expected, clientv3.OpDelete(k))
}

func (e *Engine) replace(ctx context.Context, k string, expected int64, op clientv3.Op) (int64, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.calls.RUnlock()
	if expected <= 0 {
		expected = -1 // zero would mean absence to etcd
	}
	resp, err := e.txn(ctx, clientv3.Compare(clientv3.ModRevision(k), "=", expected), op, clientv3.OpGet(k))
	if err != nil {
		return 0, mapError(ctx, err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	current := only(resp)
	if current == nil {
		return 0, store.ErrNotFound
	}
	return 0, &store.ConflictError{Current: e.entry(current)}
}

func (e *Engine) txn(ctx context.Context, cond clientv3.Cmp, then, otherwise clientv3.Op) (*clientv3.TxnResponse, error) {
	return e.kv.Txn(ctx).If(cond).Then(then).Else(otherwise).Commit()
}

// only is the key read by a transaction's one operation, or nil.
func only(resp *clientv3.TxnResponse) *mvccpb.KeyValue {
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// List implements store.Store.
func (e *Engine) List(ctx context.Context, prefix string, opts store.ListOptions) (store.List, error) {
	p := e.prefix + prefix
	start := p
	if after := e.prefix + opts.After; after >= p {
		start = after + "\x00"
	}
	ops := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(p))}
	if opts.Limit > 0 {
		ops = append(ops, clientv3.WithLimit(opts.Limit))
	}
	if opts.CountOnly {
		ops = append(ops, clientv3.WithCountOnly())
	}
	resp, err := e.get(ctx, start, opts.Revision, ops...)
	if err != nil {
		return store.List{}, err
	}
	l := store.List{Revision: opts.Revision, Remaining: resp.Count - int64(len(resp.Kvs))}
	if l.Revision == 0 {
		l.Revision = resp.Header.Revision
	}
	if len(resp.Kvs) > 0 {
		l.Entries = make([]store.Entry, len(resp.Kvs))
		for i, kv := range resp.Kvs {
			l.Entries[i] = e.entry(kv)
		}
	}
	return l, nil
}

// Revision implements store.Revisioner.
func (e *Engine) Revision(ctx context.Context) (int64, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.calls.RUnlock()
	return e.revision(ctx)
}

// Watch implements store.Store.
func (e *Engine) Watch(ctx context.Context, prefix string, after int64) store.Watcher {
	if err := e.begin(); err != nil {
		w := &watcher{events: make(chan []store.Event), err: err}
		close(w.events)
		return w
	}
	defer e.calls.RUnlock()
	return e.watch(ctx, e.prefix+prefix, after)
}

// Compact drops the history before revision, on the whole etcd cluster.
func (e *Engine) Compact(ctx context.Context, revision int64) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.calls.RUnlock()
	_, err := e.kv.Compact(ctx, revision)
	return mapError(ctx, err)
}

func (e *Engine) entry(kv *mvccpb.KeyValue) store.Entry {
	return store.Entry{Key: string(kv.Key[len(e.prefix):]), Value: kv.Value, Revision: kv.ModRevision}
}
