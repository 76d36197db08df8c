package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// compactEvery is how long history is kept at least.
	compactEvery = 5 * time.Minute
	// compactKey is where the servers of one etcd agree on who compacts: upstream's key, so that its API
	// servers can take part. It holds the revision last compacted to; its version counts the compactions.
	compactKey = "compact_rev_key"

	// The database file is rewritten when it is larger than defragSize and less than half of it is in use.
	defragSize = 64 << 20
)

// Run compacts the history every five minutes and, on an embedded etcd, gives unused space back, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	c := compactor{kv: e.kv}
	for {
		if err := e.maintain(ctx, &c); err != nil && ctx.Err() == nil {
			e.log.Warn("database maintenance failed, trying again in five minutes", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (e *Engine) maintain(ctx context.Context, c *compactor) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.calls.RUnlock()
	if err := c.step(ctx); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	if e.defragment == nil {
		return nil
	}
	if err := e.defragment(); err != nil { // of what earlier compactions freed
		return fmt.Errorf("defragment: %w", err)
	}
	return nil
}

// compactor agrees with the other servers by a counter: who raises it from the value all have seen compacts,
// to the revision seen one interval before.
type compactor struct {
	kv      clientv3.KV
	version int64 // of compactKey, as last seen
	seen    int64 // the store's revision then
}

func (c *compactor) step(ctx context.Context) error {
	resp, err := c.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", c.version)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(c.seen, 10))).
		Else(clientv3.OpGet(compactKey)).
		Commit()
	if err != nil {
		return mapError(ctx, err)
	}
	seen := c.seen
	c.seen = resp.Header.Revision
	if !resp.Succeeded {
		c.version = 0
		if kv := only(resp); kv != nil {
			c.version = kv.Version
		}
		return nil
	}
	c.version++
	if seen == 0 {
		return nil
	}
	if _, err = c.kv.Compact(ctx, seen); errors.Is(mapError(ctx, err), store.ErrCompacted) {
		return nil
	}
	return mapError(ctx, err)
}
