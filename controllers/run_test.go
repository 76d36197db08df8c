package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers"
)

// counter notes the requests that pass through it.
type counter struct {
	next http.RoundTripper
	mu   sync.Mutex
	seen []string
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.seen = append(c.seen, r.Method+" "+r.URL.RequestURI())
	c.mu.Unlock()
	return c.next.RoundTrip(r)
}

func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

func TestIdleIsSilent(t *testing.T) {
	requests := &counter{}
	c := start(t, func(cfg *controllers.Config) {
		cfg.RestConfig = rest.CopyConfig(cfg.RestConfig)
		cfg.RestConfig.Wrap(func(rt http.RoundTripper) http.RoundTripper { requests.next = rt; return requests })
	})
	c.node("n1")
	_, err := c.client.CoreV1().Services("default").Create(c.ctx, service("web"), metav1.CreateOptions{})
	c.must(err)
	c.deploy(deployment(3))
	c.endpoints("web", "endpointslice-controller.k8s.io", 3)
	writes := map[string]int{}
	for quiet := 0; quiet < 5; quiet++ { // until nothing has been asked for half a second
		time.Sleep(100 * time.Millisecond)
		for _, r := range requests.take() {
			quiet = 0
			if !strings.HasPrefix(r, "GET ") && !strings.HasSuffix(r, "/events") {
				writes[r]++
			}
		}
	}
	for r, n := range writes {
		if n > 12 || n > 1 && strings.HasPrefix(r, "PATCH /apis/apps/") {
			t.Errorf("%d times %s", n, r)
		}
	}
	time.Sleep(1500 * time.Millisecond)
	if seen := requests.take(); len(seen) > 0 {
		t.Fatalf("idle controllers ask: %q", seen)
	}
}

func TestUnknownController(t *testing.T) {
	err := controllers.Run(context.Background(), controllers.Config{RestConfig: &rest.Config{}, Enabled: []string{"deploiment"}})
	if err == nil || !strings.Contains(err.Error(), `no controller is called "deploiment"`) {
		t.Fatal(err)
	}
}

func TestOnlyTheLeaderWorks(t *testing.T) {
	c := start(t, func(cfg *controllers.Config) { cfg.LeaderElect = true })
	c.eventually("a leader", func() error {
		lease, err := c.client.CoordinationV1().Leases("kube-system").Get(c.ctx, "coracle-controllers", metav1.GetOptions{})
		if err == nil && ptr.Deref(lease.Spec.HolderIdentity, "") == "" {
			return fmt.Errorf("nobody holds the lease")
		}
		return err
	})
	second, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() { done <- controllers.Run(second, controllers.Config{RestConfig: c.config, LeaderElect: true}) }()
	c.node("n1")
	c.deploy(deployment(2))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestNeverTooMany scales a set up and down under restarts of its controller and watches that there is never a pod too many.
func TestNeverTooMany(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	d := deployment(0)
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	c.deploy(d)
	w, err := c.client.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{})
	c.must(err)
	defer w.Stop()
	var live, most atomic.Int32
	go func() {
		for event := range w.ResultChan() {
			switch event.Type {
			case watch.Added:
				most.Store(max(most.Load(), live.Add(1)))
			case watch.Deleted:
				live.Add(-1)
			}
		}
	}()
	begin := time.Now()
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](300) })
	for range 3 {
		time.Sleep(15 * time.Millisecond)
		c.restart()
	}
	c.rolledOut("web")
	t.Logf("300 pods available after %v", time.Since(begin))
	if n := most.Load(); n > 300 {
		t.Fatalf("%d pods at once", n)
	}
	begin = time.Now()
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](10) })
	c.podCount("", 10)
	t.Logf("10 left after %v", time.Since(begin))
	time.Sleep(100 * time.Millisecond)
	c.podCount("", 10)
}
