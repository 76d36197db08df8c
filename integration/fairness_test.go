package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// answers counts a client's answers that turned it away.
type answers struct {
	http.RoundTripper
	refused, withoutDelay atomic.Int64
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		a.refused.Add(1)
		if resp.Header.Get("Retry-After") == "" {
			a.withoutDelay.Add(1)
		}
	}
	return resp, err
}

// userOf is a client as some user, who may do everything.
func userOf(t *testing.T, c *cluster.Cluster, name string) (*kubernetes.Clientset, *answers) {
	t.Helper()
	config, err := c.REST()
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: []string{"everybody"}}
	count := &answers{}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { count.RoundTripper = rt; return count })
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client, count
}

// TestFairness floods a server of few seats with long lists of one user: another user's requests and the renewal of leases go on, and
// who is given a small level without queues is turned away.
func TestFairness(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer("--max-requests-inflight=10", "--max-mutating-requests-inflight=10")
	ctx := t.Context()
	admin := c.Client()
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "everybody"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "everybody"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // 2 MB
		if _, err := admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)},
			Data: map[string]string{"a": strings.Repeat("b", 20<<10)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	jane, janes := userOf(t, c, "jane")
	scheduler, renewals := userOf(t, c, "system:kube-scheduler")
	lease, err := scheduler.CoordinationV1().Leases("kube-system").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "some-leader"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	stop, lists, _ := flood(t, c, "flooder", 60)
	var gets, updates []time.Duration
	for range 20 {
		start := time.Now()
		if _, err := jane.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		gets, start = append(gets, time.Since(start)), time.Now()
		lease.Spec.RenewTime = &metav1.MicroTime{Time: start}
		if lease, err = scheduler.CoordinationV1().Leases("kube-system").Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		updates = append(updates, time.Since(start))
	}
	stop()
	t.Logf("under the flood: get %v, renewal %v, list %v (medians)", median(gets), median(updates), median(*lists))
	if list := median(*lists); median(gets) > list/2 || median(updates) > list/2 {
		t.Errorf("a get takes %v, a renewal %v, a list of the flood %v", median(gets), median(updates), list)
	}
	if a, b := janes.refused.Load(), renewals.refused.Load(); a+b > 0 {
		t.Errorf("turned away: %d gets, %d renewals", a, b)
	}

	document, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "fairness.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, manifest, _ := strings.Cut(string(document), "```yaml\n")
	manifest, _, _ = strings.Cut(manifest, "```")
	manifest = strings.Replace(manifest, "{type: Queue, queuing: {queues: 16, handSize: 4, queueLengthLimit: 50}}", "{type: Reject}", 1)
	c.KubectlIn(manifest, "apply", "-f", "-")
	cluster.Eventually(t, 10*time.Second, func() error {
		return cluster.Want("missing level", c.Kubectl("get", "flowschema", "batch", "-o", "jsonpath={.status.conditions[0].status}"), "False")
	})
	stop, _, turned := flood(t, c, "system:serviceaccount:jobs:batch", 20)
	cluster.Eventually(t, 30*time.Second, func() error {
		if turned.refused.Load() == 0 {
			return fmt.Errorf("nobody was turned away")
		}
		return nil
	})
	stop()
	if n := turned.withoutDelay.Load(); n > 0 {
		t.Errorf("%d were turned away without Retry-After", n)
	}
	rejected := `apiserver_flowcontrol_rejected_requests_total{flow_schema="batch",priority_level="batch",reason="concurrency-limit"}`
	if metrics := c.Kubectl("get", "--raw", "/metrics"); !strings.Contains(metrics, rejected) {
		t.Errorf("metrics lack %s", rejected)
	}
	for _, command := range regexp.MustCompile(`(?m)^\$ kubectl (.*)$`).FindAllStringSubmatch(string(document), -1) {
		if out := c.Kubectl(strings.Fields(command[1])...); !strings.Contains(out, "exempt") && !strings.Contains(out, "PriorityLevelName") {
			t.Errorf("kubectl %s:\n%s", command[1], out)
		}
	}
}

// flood has a user list all ConfigMaps, many at the same time, until stop.
func flood(t *testing.T, c *cluster.Cluster, user string, parallel int) (stop func(), took *[]time.Duration, count *answers) {
	t.Helper()
	client, count := userOf(t, c, user)
	ctx, cancel := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	var mu sync.Mutex
	took = new([]time.Duration)
	for range parallel {
		crowd.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				if client.RESTClient().Get().AbsPath("/api/v1/configmaps").Do(ctx).Error() == nil {
					mu.Lock()
					*took = append(*took, time.Since(start))
					mu.Unlock()
				}
			}
		})
	}
	stop = func() { cancel(); crowd.Wait() }
	t.Cleanup(stop)
	cluster.Eventually(t, 30*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(*took) < 10 {
			return fmt.Errorf("%d lists were served", len(*took))
		}
		return nil
	})
	return stop, took, count
}

func median(of []time.Duration) time.Duration {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}
