package apiserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/alloc"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// serving is an API server that gives Services addresses of the range.
func serving(t *testing.T, st store.Store, cidr string, nodePorts int32) *kubernetes.Clientset {
	t.Helper()
	c := apiserver.NewCache(st)
	prefix := netip.MustParsePrefix(cidr)
	a, err := alloc.New(alloc.Config{Store: st, Reader: apiserver.NewReader(c), ServiceCIDR: prefix, FirstNodePort: 30000, LastNodePort: 30000 + nodePorts - 1})
	if err != nil {
		t.Fatal(err)
	}
	s := apiservertest.StartServer(t, apiserver.Config{Store: st, Cache: c, ServiceCIDR: prefix, Hooks: map[schema.GroupResource]rest.Hook{
		{Resource: "services"}:                                {BeginCreate: a.BeginCreate, BeginUpdate: a.BeginUpdate, AfterDelete: a.AfterDelete},
		{Group: "networking.k8s.io", Resource: "ipaddresses"}: {AfterDelete: a.AddressDeleted},
	}})
	return kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
}

// crashing loses the answers of some writes: the write is done, or not, and the server cannot tell.
type crashing struct {
	store.Store
	mu sync.Mutex
	n  int
}

// lost tells which writes end in the dark, and which of these are done all the same.
func (c *crashing) lost() (lost, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n%29 == 0, c.n%2 == 0
}

func (c *crashing) Create(ctx context.Context, key string, value []byte, opts store.CreateOptions) (int64, error) {
	if !strings.HasPrefix(key, store.Root+"services/") {
		return c.Store.Create(ctx, key, value, opts)
	}
	lost, done := c.lost()
	if lost && !done {
		return 0, store.ErrUnavailable
	}
	revision, err := c.Store.Create(ctx, key, value, opts)
	if lost {
		return 0, store.ErrUnavailable
	}
	return revision, err
}

// TestServiceAddressesOfTwoServers: clients of two servers on one store create and delete Services at once, some writes end
// in the dark, and no two Services that are there have one address or port.
func TestServiceAddressesOfTwoServers(t *testing.T) {
	shared := memory.New()
	clients := []*kubernetes.Clientset{serving(t, &crashing{Store: shared}, "10.0.0.0/26", 40), serving(t, shared, "10.0.0.0/26", 40)}
	ctx := t.Context()
	var wg sync.WaitGroup
	for i, client := range clients {
		services := client.CoreV1().Services("default")
		for j := range 4 {
			wg.Go(func() {
				for k := range 25 {
					name := fmt.Sprintf("s-%d-%d-%d", i, j, k)
					svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
					_, err := services.Create(ctx, svc, metav1.CreateOptions{})
					if apierrors.IsInvalid(err) {
						t.Error(err)
					}
					l, err := services.List(ctx, metav1.ListOptions{})
					if err != nil {
						t.Error(err)
						return
					}
					distinct(t, l.Items)
					if k%4 != 0 {
						_ = services.Delete(ctx, name, metav1.DeleteOptions{})
					}
				}
			})
		}
	}
	wg.Wait()
	left, err := clients[1].CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := shared.List(ctx, store.Root+"ipaddresses/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, e := range keys.Entries {
		have[strings.TrimPrefix(e.Key, store.Root+"ipaddresses/")] = true
	}
	for _, svc := range left.Items {
		if !have[svc.Spec.ClusterIP] {
			t.Errorf("%s has %s, which is not reserved", svc.Name, svc.Spec.ClusterIP)
		}
	}
}

// distinct fails where two Services have one address or port.
func distinct(t *testing.T, services []corev1.Service) {
	t.Helper()
	of := map[string]string{}
	for _, svc := range services {
		for _, v := range []string{svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort)} {
			if of[v] != "" {
				t.Errorf("%s is that of %s and of %s", v, of[v], svc.Name)
			}
			of[v] = svc.Name
		}
	}
}
