package loop

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// eventually waits for what may take long on a busy machine.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// TestOneBadKeyStopsNobody has one key panic for ever, one fail for ever and one block: the other keys of the loop, and another loop, are served.
func TestOneBadKeyStopsNobody(t *testing.T) {
	var bad, good, elsewhere atomic.Int32
	var blocked sync.Once
	entered := make(chan struct{})
	l := start(t, Config{Workers: 2, Sync: func(ctx context.Context, key string) error {
		switch key {
		case "panics":
			bad.Add(1)
			panic("bad object")
		case "fails":
			bad.Add(1)
			return errors.New("no")
		case "blocks":
			blocked.Do(func() { close(entered) })
			<-ctx.Done()
			return ctx.Err()
		}
		good.Add(1)
		return nil
	}})
	other := start(t, Config{Workers: 1, Sync: func(context.Context, string) error {
		elsewhere.Add(1)
		return nil
	}})
	l.Add("blocks")
	<-entered
	l.Add("panics")
	l.Add("fails")
	const keys = 200
	for i := range keys {
		l.Add(strconv.Itoa(i))
		other.Add(strconv.Itoa(i))
	}
	eventually(t, "the other keys are synced", func() bool { return good.Load() >= keys && elsewhere.Load() >= keys })
	eventually(t, "the bad ones are tried again", func() bool { return bad.Load() >= 6 })
	for i := range keys { // and once more, while they go on failing
		l.Add("again" + strconv.Itoa(i))
	}
	eventually(t, "more keys are synced", func() bool { return good.Load() >= 2*keys })
	if n := bad.Load(); n > 100 {
		t.Errorf("keys that fail were tried %d times, without a pause", n)
	}
}

// TestNoWakeIsLost: a key is asked for when its turn has come and the sync has not begun yet, by which both delays are joined, and once more
// behind that sync.
func TestNoWakeIsLost(t *testing.T) {
	l := New(Config{Name: "test", Sync: func(context.Context, string) error { return nil }})
	begin := time.Unix(1000, 0)
	at := func(ms int) (wait time.Duration, needed bool) {
		return l.space("k", 100*time.Millisecond, begin.Add(time.Duration(ms)*time.Millisecond))
	}
	if wait, needed := at(0); wait != 0 || !needed {
		t.Fatal("the first waits")
	}
	if wait, needed := at(10); wait != 90*time.Millisecond || !needed {
		t.Fatal(wait, needed)
	}
	if _, needed := at(20); needed {
		t.Fatal("one that waits is asked for twice")
	}
	if wait, needed := at(101); !needed || wait > 100*time.Millisecond {
		t.Fatal(wait, needed)
	}
	l.began("k", begin.Add(102*time.Millisecond))
	if wait, needed := at(110); !needed || wait > 100*time.Millisecond {
		t.Fatalf("what came behind the sync is lost: %v %v", wait, needed)
	}
}

// TestManyHang has more keys hang than there are workers: others stand in for these, and go when they are needed no more.
func TestManyHang(t *testing.T) {
	release := make(chan struct{})
	var hanging, good atomic.Int32
	l := start(t, Config{Workers: 2, Limit: time.Second, Sync: func(_ context.Context, key string) error {
		if key[0] == 'h' {
			hanging.Add(1)
			<-release
			return nil
		}
		good.Add(1)
		return nil
	}})
	for i := range 5 {
		l.Add("hangs" + strconv.Itoa(i))
	}
	eventually(t, "all hang", func() bool { return hanging.Load() == 5 })
	l.Add("a")
	eventually(t, "another key is synced", func() bool { return good.Load() == 1 })
	close(release)
	n := 0
	eventually(t, "those that stood in have ended", func() bool {
		n++
		l.Add("more" + strconv.Itoa(n)) // who waits for a key learns with the next one
		return l.spares.Load() == 0
	})
}

// TestWhatHangsIsTriedAgain: a sync's context ends, and its key is not lost.
func TestWhatHangsIsTriedAgain(t *testing.T) {
	var calls atomic.Int32
	done := make(chan struct{})
	l := start(t, Config{Workers: 1, Limit: 20 * time.Millisecond, Sync: func(ctx context.Context, _ string) error {
		if calls.Add(1) == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		close(done)
		return nil
	}})
	l.Add("k")
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("not tried again")
	}
}

// TestIdleKeysTakeNoMemory syncs many keys, others in each round, some of which fail at first, and looks at what is left of them.
func TestIdleKeysTakeNoMemory(t *testing.T) {
	const keys, rounds = 20_000, 4
	var synced atomic.Int32
	var failed sync.Map
	l := start(t, Config{Metrics: NewMetrics(), Sync: func(_ context.Context, key string) error {
		if len(key) > 40 && key[len(key)-1] == '7' {
			if _, before := failed.LoadOrStore(key, true); !before {
				return errors.New("at first")
			}
			failed.Delete(key)
		}
		synced.Add(1)
		return nil
	}})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round := func(number int) {
		synced.Store(0)
		for i := range keys {
			l.Add("a-namespace-of-some-length/and-a-name-of-some-length-" + strconv.Itoa(number) + "-" + strconv.Itoa(i))
		}
		eventually(t, "all keys are synced", func() bool { return synced.Load() >= keys })
		eventually(t, "no key waits", func() bool { return l.queue.Len() == 0 })
	}
	for i := range rounds { // the queue's maps grow to the size of a burst
		round(i)
	}
	before := heap()
	for i := range rounds {
		round(rounds + i)
	}
	if after := heap(); after > before+rounds*keys*40 { // a key's name alone has over 50 bytes; the runtime's own tables vary by some hundred kilobytes
		t.Errorf("%d bytes more for %d idle keys", after-before, rounds*keys)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.busy)+len(l.paced) > 0 {
		t.Errorf("%d and %d keys remembered", len(l.busy), len(l.paced))
	}
}

// gather gives the metrics by name and the label "name".
func gather(t *testing.T, m *Metrics) map[string]*dto.Metric {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.Metric{}
	for _, f := range families {
		for _, one := range f.Metric {
			all[f.GetName()+"/"+one.Label[0].GetValue()] = one
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	release, entered := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	l := start(t, Config{Workers: 1, Metrics: m, Sync: func(_ context.Context, key string) error {
		if key == "slow" {
			close(entered)
			<-release
		}
		if calls.Add(1) == 2 {
			return errors.New("no")
		}
		return nil
	}})
	l.Add("slow")
	<-entered
	l.Add("a")
	l.Add("b")
	l.Add("b")
	time.Sleep(10 * time.Millisecond)
	now := gather(t, m)
	if d := now["workqueue_depth/test"].GetGauge().GetValue(); d != 2 {
		t.Errorf("depth %v, want 2", d)
	}
	if u, o := now["workqueue_unfinished_work_seconds/test"].GetGauge().GetValue(), now["workqueue_longest_running_processor_seconds/test"].GetGauge().GetValue(); u < 0.01 || u != o {
		t.Errorf("unfinished %v, longest %v", u, o)
	}
	close(release)
	eventually(t, "all is done", func() bool { return calls.Load() == 4 })
	eventually(t, "all is counted", func() bool {
		return gather(t, m)["workqueue_work_duration_seconds/test"].GetHistogram().GetSampleCount() == 4
	})
	now = gather(t, m)
	for name, want := range map[string]float64{"workqueue_adds_total": 4, "workqueue_retries_total": 1} {
		if got := now[name+"/test"].GetCounter().GetValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if n := now["workqueue_queue_duration_seconds/test"].GetHistogram().GetSampleCount(); n != 4 {
		t.Errorf("%d waits", n)
	}
	if sum := now["workqueue_work_duration_seconds/test"].GetHistogram().GetSampleSum(); sum < 0.01 {
		t.Errorf("worked for %v s", sum)
	}
	for _, holds := range []bool{true, false} {
		m.Leading("lease", holds)
		if got := gather(t, m)["leader_election_master_status/lease"].GetGauge().GetValue() == 1; got != holds {
			t.Errorf("leads: %v, want %v", got, holds)
		}
	}
}

// TestMetricsCostNoTimer: an idle loop that is counted has as many goroutines that wake up as one that is not: the queue's own ticker is not there.
func TestMetricsCostNoTimer(t *testing.T) {
	if (untimed{}).NewTicker(time.Millisecond).C() != nil {
		t.Error("it ticks")
	}
}
