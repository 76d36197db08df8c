package cache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/etcd"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"k8s.io/apimachinery/pkg/fields"
)

// benchCache is a cache whose feed is the benchmark itself.
func benchCache(b *testing.B) *Cache {
	b.Helper()
	c := New(memory.New(), testResources())
	if err := c.load(b.Context()); err != nil {
		b.Fatal(err)
	}
	return c
}

func podEvent(t store.EventType, path, node string, rev int64) store.Event {
	ns, name := split(path)
	return store.Event{Type: t, Entry: store.Entry{
		Key: podPrefix + path, Revision: rev, Value: value(ns, name, withNode(node)),
	}}
}

// BenchmarkFanOut delivers every event to 200 watchers; a delivery is one event at one watcher.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 200
	c := benchCache(b)
	event := podEvent(store.Created, "a/x", "n", 0)
	var wg sync.WaitGroup
	for range watchers {
		w, err := c.Watch(b.Context(), "pods", WatchOptions{})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			for seen := 0; seen < b.N; {
				events, err := w.Next(context.Background())
				if err != nil {
					b.Error(err)
					return
				}
				seen += len(events)
			}
		})
	}
	b.ResetTimer()
	for i := range b.N {
		event.Revision = int64(i) + 2
		c.apply([]store.Event{event})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)*watchers/b.Elapsed().Seconds(), "deliveries/s")
}

// BenchmarkFanOutNodes has 1,000 watchers of one node each: an event concerns one of them.
func BenchmarkFanOutNodes(b *testing.B) {
	const watchers = 1000
	c := benchCache(b)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range watchers {
		node := fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint(i))
		w, err := c.Watch(b.Context(), "pods", WatchOptions{Fields: node})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			for {
				if _, err := w.Next(ctx); err != nil {
					return
				}
			}
		})
	}
	var events []store.Event
	for i := range watchers {
		events = append(events, podEvent(store.Created, fmt.Sprint("a/", i), fmt.Sprint(i), 0))
	}
	b.ResetTimer()
	for i := range b.N {
		e := events[i%watchers]
		e.Revision = int64(i) + 2
		c.apply([]store.Event{e})
	}
	cancel()
	wg.Wait()
}

func fill(b *testing.B, c *Cache, n int) {
	for i := range n {
		e := podEvent(store.Created, fmt.Sprintf("ns-%d/pod-%05d", i%10, i), fmt.Sprint("node-", i%100), int64(i)+2)
		c.apply([]store.Event{e})
	}
}

func BenchmarkList5000(b *testing.B) {
	c := benchCache(b)
	fill(b, c, 5000)
	for _, bench := range []struct {
		name string
		opts ListOptions
	}{
		{"all", ListOptions{}},
		{"namespace", ListOptions{Scope: "ns-3/"}},
		{"node", ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", "node-7")}},
		{"page", ListOptions{Limit: 500}},
		{"name", ListOptions{Scope: "ns-7/", Fields: fields.OneTermEqualSelector("metadata.name", "pod-00007")}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.List(b.Context(), "pods", bench.opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	c := benchCache(b)
	fill(b, c, 5000)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.Get(context.Background(), "pods", podPrefix+"ns-7/pod-00007", 0); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkApply is the feed alone: decoding, index and history.
func BenchmarkApply(b *testing.B) {
	c := benchCache(b)
	fill(b, c, 5000)
	e := podEvent(store.Modified, "ns-7/pod-00007", "node-7", 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e.Revision = int64(i) + 10_000
		c.apply([]store.Event{e})
	}
}

// BenchmarkOnEtcd is the cache on an embedded etcd, with writes synced to disk.
func BenchmarkOnEtcd(b *testing.B) {
	e, err := etcd.OpenEmbedded(b.Context(), etcd.EmbeddedConfig{DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	c := New(e, testResources())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go c.Run(ctx)
	if err := c.WaitReady(ctx); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	create := func(b *testing.B) string {
		key := fmt.Sprint(podPrefix, "a/", n.Add(1))
		if _, err := e.Create(ctx, key, value("a", key[len(podPrefix)+2:]), store.CreateOptions{}); err != nil {
			b.Error(err)
		}
		return key
	}
	get := func(b *testing.B, key string) {
		if _, err := c.Get(ctx, "pods", key, Newest); err != nil {
			b.Error(err)
		}
	}
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			create(b)
		}
	})
	b.Run("create-and-get", func(b *testing.B) {
		for b.Loop() {
			get(b, create(b))
		}
	})
	b.Run("16-creators", func(b *testing.B) {
		b.SetParallelism(8)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				get(b, create(b))
			}
		})
	})
	b.Run("get-consistent", func(b *testing.B) {
		key := create(b)
		b.SetParallelism(8)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				get(b, key)
			}
		})
	})
}
