package etcd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestCompactor has two servers compact one store: each interval one of them does, to the revision seen an
// interval before.
func TestCompactor(t *testing.T) {
	e, _ := openEmbedded(t)
	ctx := t.Context()
	a, b := compactor{kv: e.kv}, compactor{kv: e.kv}
	rev, err := e.Create(ctx, "/registry/x", []byte("0"), store.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var marks []int64 // the store's revision as of each interval
	for range 4 {
		if rev, err = e.Update(ctx, "/registry/x", []byte("1"), rev); err != nil {
			t.Fatal(err)
		}
		marks = append(marks, rev)
		for _, c := range []*compactor{&a, &b} {
			if err := c.step(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if a.version != b.version || a.version > int64(len(marks)) {
		t.Errorf("after %d intervals the servers are at %d and %d", len(marks), a.version, b.version)
	}
	last := len(marks) - 1
	if _, err := e.Get(ctx, "/registry/x", marks[last-2]); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a read from three intervals ago gives %v", err)
	}
	if _, err := e.Get(ctx, "/registry/x", marks[last-1]+3); err != nil {
		t.Errorf("a read from within the last interval gives %v", err)
	}
}

func TestLeasePool(t *testing.T) {
	var granted []int64
	now := time.Unix(0, 0)
	p := leasePool{
		now:   func() time.Time { return now },
		byTTL: map[time.Duration]*sharedLease{},
		grant: func(_ context.Context, seconds int64) (clientv3.LeaseID, error) {
			granted = append(granted, seconds)
			return clientv3.LeaseID(len(granted)), nil
		},
	}
	get := func(ttl time.Duration, want clientv3.LeaseID) {
		t.Helper()
		got, err := p.forTTL(t.Context(), ttl)
		if err != nil || got != want {
			t.Fatalf("lease %d (%v), want %d", got, err, want)
		}
	}
	get(0, clientv3.NoLease)
	get(time.Hour, 1)
	now = now.Add(59 * time.Second)
	get(time.Hour, 1)
	get(time.Minute, 2)
	now = now.Add(2 * time.Second)
	get(time.Hour, 3)
	for range leaseKeysMost - 1 {
		get(time.Hour, 3)
	}
	get(time.Hour, 4)
	if p.lost(4, errors.New("other")) || !p.lost(4, rpctypes.ErrLeaseNotFound) {
		t.Error("lost leases are not told apart")
	}
	get(time.Hour, 5)
	if granted[0] != 3660 || granted[1] != 63 {
		t.Errorf("granted %v", granted)
	}
}

// TestLostLease: a lease revoked behind the pool's back is replaced.
func TestLostLease(t *testing.T) {
	e, cfg := openEmbedded(t)
	opts := store.CreateOptions{TTL: time.Hour}
	if _, err := e.Create(t.Context(), "/registry/a", nil, opts); err != nil {
		t.Fatal(err)
	}
	id := e.leases.byTTL[time.Hour].id
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + cfg.Socket}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get(t.Context(), "/registry/a", 0); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the key outlived its lease: %v", err)
	}
	if _, err := e.Create(t.Context(), "/registry/b", nil, opts); err != nil {
		t.Fatal(err)
	}
}

func TestClosed(t *testing.T) {
	e, err := OpenEmbedded(t.Context(), EmbeddedConfig{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := e.Watch(t.Context(), store.Root, 0)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for range w.Events() {
	}
	if !errors.Is(w.Err(), store.ErrUnavailable) {
		t.Errorf("the watch ended with %v", w.Err())
	}
	if _, err := e.Get(t.Context(), "/registry/a", 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a read gives %v", err)
	}
	if _, err := e.Create(t.Context(), "/registry/a", nil, store.CreateOptions{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a write gives %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, ExternalConfig{Endpoints: []string{"unix:///nonexistent"}}); err == nil {
		t.Fatal("connected to nothing")
	} else {
		t.Log(err)
	}
	if _, err := Open(ctx, ExternalConfig{Endpoints: []string{"unix:///x"}, CAFile: "/nonexistent"}); err == nil {
		t.Fatal("a missing CA file went unnoticed")
	} else {
		t.Log(err)
	}
}

// TestDefragment: the file shrinks once most of it is unused, and not before.
func TestDefragment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e, err := OpenEmbedded(t.Context(), EmbeddedConfig{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var rev int64
	big := make([]byte, 1<<20)
	for i := range 80 {
		if i == 0 {
			rev, err = e.Create(t.Context(), "/registry/big", big, store.CreateOptions{})
		} else {
			rev, err = e.Update(t.Context(), "/registry/big", big, rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := e.defragment(); err != nil {
		t.Fatal(err)
	}
	before := size(t, dir)
	for end := time.Now().Add(5 * time.Second); before < defragSize; before = size(t, dir) {
		if time.Now().After(end) {
			t.Fatalf("the file holds %d bytes while all of it is in use", before)
		}
		time.Sleep(10 * time.Millisecond) // the file is written now and then
	}
	if _, err := e.kv.Compact(t.Context(), rev, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	// What is in use is counted at the backend's next commit.
	after := before
	for end := time.Now().Add(20 * time.Second); after > before/4 && time.Now().Before(end); after = size(t, dir) {
		if err := e.defragment(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if after > before/4 {
		t.Errorf("the file went from %d to %d bytes only", before, after)
	}
	got, err := e.Get(t.Context(), "/registry/big", 0)
	if err != nil || got.Revision != rev || len(got.Value) != len(big) {
		t.Errorf("read %d bytes at %d: %v", len(got.Value), got.Revision, err)
	}
}

func size(t *testing.T, dataDir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dataDir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
