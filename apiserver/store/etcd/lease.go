package etcd

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Bounds of the sharing of leases: keys created within a minute (but at most a twentieth of their time to
// live) share one lease, a thousand at most, so that thousands of events do not cost thousands of leases.
const (
	leaseShareMost = time.Minute
	leaseSharePart = 20
	leaseKeysMost  = 1000
)

// leasePool grants shared leases by time to live.
type leasePool struct {
	grant func(ctx context.Context, seconds int64) (clientv3.LeaseID, error)
	now   func() time.Time

	mu    sync.Mutex
	byTTL map[time.Duration]*sharedLease
}

type sharedLease struct {
	id    clientv3.LeaseID
	until time.Time // no new keys from then on
	keys  int
}

func newLeasePool(l clientv3.Lease) leasePool {
	return leasePool{
		now:   time.Now,
		byTTL: map[time.Duration]*sharedLease{},
		grant: func(ctx context.Context, seconds int64) (clientv3.LeaseID, error) {
			resp, err := l.Grant(ctx, seconds)
			if err != nil {
				return clientv3.NoLease, err
			}
			return resp.ID, nil
		},
	}
}

// forTTL is a lease that lives for ttl at least; no lease for a ttl of zero.
func (p *leasePool) forTTL(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	if ttl <= 0 {
		return clientv3.NoLease, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if l := p.byTTL[ttl]; l != nil && now.Before(l.until) && l.keys < leaseKeysMost {
		l.keys++
		return l.id, nil
	}
	share := min(leaseShareMost, ttl/leaseSharePart)
	id, err := p.grant(ctx, int64(math.Ceil((ttl + share).Seconds())))
	if err != nil {
		return clientv3.NoLease, err
	}
	p.byTTL[ttl] = &sharedLease{id: id, until: now.Add(share), keys: 1}
	return id, nil
}

// lost tells whether err means that the lease is gone, and forgets it then.
func (p *leasePool) lost(id clientv3.LeaseID, err error) bool {
	if id == clientv3.NoLease || !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for ttl, l := range p.byTTL {
		if l.id == id {
			delete(p.byTTL, ttl)
		}
	}
	return true
}
