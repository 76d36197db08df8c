package loop

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/clock"
)

func start(t *testing.T, cfg Config) *Loop {
	t.Helper()
	cfg.Name, cfg.Log = "test", slog.New(slog.NewTextHandler(io.Discard, nil))
	l := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l
}

// TestChanges has what an informer tells, a relist's replay and another object by the same name among it.
func TestChanges(t *testing.T) {
	object := func(uid, version string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", UID: types.UID(uid), ResourceVersion: version}}
	}
	show := func(m *corev1.ConfigMap) string {
		if m == nil {
			return "none"
		}
		return string(m.UID) + m.ResourceVersion
	}
	var seen []string
	h := handler(func(old, cur *corev1.ConfigMap) { seen = append(seen, show(old)+">"+show(cur)) })
	h.OnAdd(object("a", "1"), true)
	h.OnUpdate(object("a", "1"), object("a", "1"))
	h.OnUpdate(object("a", "1"), object("a", "2"))
	h.OnUpdate(object("a", "2"), object("b", "3"))
	h.OnDelete(cache.DeletedFinalStateUnknown{Obj: object("b", "3")})
	h.OnAdd("nonsense", false)
	if got, want := strings.Join(seen, " "), "none>a1 a1>a2 a2>none none>b3 b3>none"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFailuresAndPanicsAreRetried(t *testing.T) {
	var calls atomic.Int32
	done := make(chan struct{})
	l := start(t, Config{Sync: func(context.Context, string) error {
		switch calls.Add(1) {
		case 1:
			return errors.New("no")
		case 2:
			panic("bad object")
		}
		close(done)
		return nil
	}})
	l.Add("a/b")
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("not retried")
	}
}

func TestOneKeyIsNeverSyncedTwiceAtOnce(t *testing.T) {
	var mu sync.Mutex
	busy := map[string]bool{}
	var calls atomic.Int32
	l := start(t, Config{Workers: 8, Sync: func(_ context.Context, key string) error {
		mu.Lock()
		if busy[key] {
			t.Error("synced twice at once")
		}
		busy[key] = true
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		busy[key] = false
		mu.Unlock()
		calls.Add(1)
		return nil
	}})
	for range 50 {
		l.Add("a")
		l.Add("b")
		time.Sleep(200 * time.Microsecond)
	}
	deadline := time.Now().Add(5 * time.Second)
	for calls.Load() < 4 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := calls.Load(); n < 4 || n > 100 {
		t.Fatalf("%d syncs", n)
	}
}

func TestLag(t *testing.T) {
	c := clock.NewManual(time.Unix(1000, 0))
	l := NewLag(c)
	if l.Behind("k") != 0 {
		t.Fatal("behind without a write")
	}
	l.Saw("5")
	l.Wrote("k", "9")
	l.Wrote("k", "7")
	if l.Behind("k") == 0 || l.Behind("other") != 0 {
		t.Fatal("not behind its own write")
	}
	l.Saw("8")
	if l.Behind("k") == 0 {
		t.Fatal("caught up too early")
	}
	l.Saw("10")
	if l.Behind("k") != 0 {
		t.Fatal("still behind")
	}
	l.Wrote("k", "99")
	c.Advance(lagLimit)
	if l.Behind("k") != 0 {
		t.Fatal("waits for ever")
	}
}

func TestLagOfDeletions(t *testing.T) {
	l := NewLag(clock.NewManual(time.Unix(1000, 0)))
	if l.Deleting("k") {
		t.Fatal("deleting nothing")
	}
	l.Deleted("k", "u1")
	if !l.Deleting("k") || l.Deleting("other") {
		t.Fatal("does not know what was deleted")
	}
	alive := map[types.UID]bool{"u1": true, "u2": true}
	if d := l.Doomed("k", alive); !d["u1"] || d["u2"] {
		t.Fatalf("doomed %v", d)
	}
	if d := l.Doomed("k", map[types.UID]bool{"u2": true}); len(d) != 0 {
		t.Fatalf("doomed %v", d)
	}
	if len(l.keys) != 0 {
		t.Fatal("remembers what has happened")
	}
}

// TestSpaces asks at certain times and looks at what is to wait.
func TestSpaces(t *testing.T) {
	l := New(Config{Name: "test"})
	at := time.Unix(1000, 0)
	const pace = 100 * time.Millisecond
	for _, c := range []struct {
		at, wait time.Duration
		needed   bool
	}{
		{0, 0, true},
		{10, 90, true},
		{50, 0, false}, // the one at 100 will do
		{100, 100, true},
		{150, 0, false},
		{199, 0, false},
		{290, 10, true},
		{1000, 0, true},
	} {
		ms := time.Millisecond
		if wait, needed := l.space("k", pace, at.Add(c.at*ms)); needed != c.needed || needed && wait != c.wait*ms {
			t.Errorf("at %d: %v %v, want %v %v", c.at, wait, needed, c.wait*ms, c.needed)
		}
	}
	if wait, needed := l.space("other", pace, at); wait != 0 || !needed {
		t.Error("keys wait for each other")
	}
}

func TestPace(t *testing.T) {
	const pace = 100 * time.Millisecond
	synced := make(chan time.Time, 5000)
	l := start(t, Config{Pace: pace, Sync: func(context.Context, string) error {
		synced <- time.Now()
		return nil
	}})
	begin := time.Now()
	for range 20 {
		l.AddPaced("k")
	}
	if took := time.Since(begin); took > pace {
		t.Skipf("the burst itself took %v", took)
	}
	<-synced
	if d := (<-synced).Sub(begin); d < pace {
		t.Fatalf("the second came after %v", d)
	}
	select {
	case <-synced:
		t.Fatal("a burst of 20 made three syncs")
	case <-time.After(2 * pace):
	}
	for i := range 2000 {
		l.AddPaced(strconv.Itoa(i))
		if i == 1000 {
			time.Sleep(pace + 10*time.Millisecond)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.paced); n > 1500 {
		t.Fatalf("%d keys remembered", n)
	}
}
