package leader

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
)

// cut is a connection that is cut while down is set.
type cut struct {
	next http.RoundTripper
	down *atomic.Bool
}

var errCut = errors.New("cut")

func (c cut) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.down.Load() {
		return nil, errCut
	}
	return c.next.RoundTrip(r)
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no ", what)
		}
	}
}

// TestOneAtATime has three candidates, whose leader is stopped in turn: never do two work at once.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	config := apiservertest.Start(t)
	var working, turns atomic.Int32
	done := make(chan error, 3)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			done <- Run(ctx, Config{RestConfig: config, Name: "turns", Duration: 3 * time.Second}, func(ctx context.Context, _ *rest.Config) error {
				if n := working.Add(1); n > 1 {
					t.Errorf("%d work at once", n)
				}
				turns.Add(1)
				cancel()
				<-ctx.Done()
				time.Sleep(50 * time.Millisecond) // what is under way ends later
				working.Add(-1)
				return nil
			})
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if turns.Load() != 3 {
		t.Errorf("%d of 3 had their turn", turns.Load())
	}
}

// TestCutOff loses the way to the API server: the work ends, its writes are refused before another can lead, and another does lead.
func TestCutOff(t *testing.T) {
	t.Parallel()
	config := apiservertest.Start(t)
	var down atomic.Bool
	through := rest.CopyConfig(config)
	through.Wrap(func(next http.RoundTripper) http.RoundTripper { return cut{next, &down} })
	leads := make(chan *rest.Config, 2)
	work := func(ctx context.Context, fenced *rest.Config) error {
		leads <- fenced
		<-ctx.Done()
		return nil
	}
	first := make(chan error, 1)
	go func() {
		first <- Run(t.Context(), Config{RestConfig: through, Name: "cut", Duration: 3 * time.Second}, work)
	}()
	fenced := kubernetes.NewForConfigOrDie(<-leads)
	write := func() error {
		_, err := fenced.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-"}}, metav1.CreateOptions{})
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { second <- Run(ctx, Config{RestConfig: config, Name: "cut", Duration: 3 * time.Second}, work) }()
	down.Store(true)
	until(t, "fence", func() bool { return errors.Is(write(), ErrLost) })
	if len(leads) > 0 {
		t.Error("another leads before the first was fenced off")
	}
	if err := <-first; !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	down.Store(false)
	<-leads
	if err := write(); !errors.Is(err, ErrLost) {
		t.Error("an old leader writes:", err)
	}
	if _, err := fenced.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error("reads are fenced off too:", err)
	}
	cancel()
	if err := <-second; err != nil {
		t.Error(err)
	}
}

func TestPassed(t *testing.T) {
	from := time.Now()
	monotonic := from.Add(4 * time.Second)
	asleep := from.Round(0).Add(9 * time.Second) // no monotonic reading: as if that had stood still
	if passed(from, monotonic) != 4*time.Second || passed(from, asleep) != 9*time.Second {
		t.Error(passed(from, monotonic), passed(from, asleep))
	}
}

func TestEndsWithoutLease(t *testing.T) {
	t.Parallel()
	config := apiservertest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	held, stop := make(chan struct{}), make(chan error, 1)
	go func() {
		stop <- Run(ctx, Config{RestConfig: config, Name: "x"}, func(ctx context.Context, _ *rest.Config) error { close(held); <-ctx.Done(); return nil })
	}()
	<-held
	waiting, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if err := Run(waiting, Config{RestConfig: config, Name: "x"}, func(context.Context, *rest.Config) error { t.Error("two lead"); return nil }); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-stop; err != nil {
		t.Error(err)
	}
	lease, err := kubernetes.NewForConfigOrDie(config).CoordinationV1().Leases("kube-system").Get(t.Context(), "x", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "" {
		t.Error("the lease is not given up:", lease, err)
	}
}
