package dns

import (
	"context"
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// TestIndexForgets: after any sequence of changes the index is what a new one of the same objects would be.
func TestIndexForgets(t *testing.T) {
	type state struct {
		object *corev1.Service
		slices []*discoveryv1.EndpointSlice
	}
	random := rand.New(rand.NewSource(1))
	for range 50 {
		x, now := newIndex("cluster.local."), map[string]state{}
		for step := range 60 {
			key := fmt.Sprintf("ns%d/s%d", random.Intn(3), random.Intn(4))
			s := state{}
			if random.Intn(4) > 0 {
				ip := []string{"None", "10.96.0.1", "10.96.0.2", "10.96.0.3,fd00::3"}[random.Intn(4)]
				s.object = serviceOf(ip, tcp("http", int32(80+random.Intn(2))))
				if random.Intn(5) == 0 {
					s.object = &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}}
				}
				s.object.Namespace, s.object.Name = key[:3], key[4:]
				for i := range random.Intn(3) {
					host := []string{"", "a", "b"}[random.Intn(3)]
					s.slices = append(s.slices, sliceOf(discoveryv1.AddressTypeIPv4, []discoveryv1.EndpointPort{slicePort("http", corev1.ProtocolTCP, 80)},
						endpointOf(fmt.Sprintf("10.244.0.%d", random.Intn(3)), host, random.Intn(3) > 0), endpointOf(fmt.Sprintf("10.244.1.%d", i), "", true)))
				}
			}
			x.update(key, func() (*corev1.Service, []*discoveryv1.EndpointSlice) { return s.object, s.slices }, time.Unix(int64(step), 0))
			now[key] = s
		}
		fresh := newIndex("cluster.local.")
		for key, s := range now {
			fresh.update(key, func() (*corev1.Service, []*discoveryv1.EndpointSlice) { return s.object, s.slices }, time.Unix(0, 0))
		}
		sortTargets(x)
		sortTargets(fresh)
		if !reflect.DeepEqual(x.services, fresh.services) || !reflect.DeepEqual(x.namespaces, fresh.namespaces) || !reflect.DeepEqual(x.byAddr, fresh.byAddr) {
			t.Fatalf("the index is\n%+v\nand a new one\n%+v", x, fresh)
		}
		for key := range now {
			x.update(key, func() (*corev1.Service, []*discoveryv1.EndpointSlice) { return nil, nil }, time.Unix(0, 0))
		}
		if len(x.services)+len(x.namespaces)+len(x.byAddr) != 0 {
			t.Fatalf("of nothing it keeps %+v", x)
		}
	}
}

func sortTargets(x *index) {
	for _, targets := range x.byAddr {
		slices.SortFunc(targets, func(a, b target) int { return slices.Compare(a.name, b.name) })
	}
}

// TestFollows: names are those of the API server's objects, as they come, change and go.
func TestFollows(t *testing.T) {
	ctx := t.Context()
	api := apiservertest.StartServer(t, apiserver.Config{Store: memory.New()})
	kube := kubernetes.NewForConfigOrDie(api.LocalConfig(apiservertest.Admin))
	factory := informers.NewSharedInformerFactory(kube, 0)
	all := factory.Discovery().V1().EndpointSlices().Informer().GetIndexer()
	s, err := New(Config{Factory: factory, Addr: netip.MustParseAddr("10.96.0.10"), Domain: "cluster.local", Slices: func(key string) (found []*discoveryv1.EndpointSlice) {
		for _, obj := range all.List() {
			if slice, ok := obj.(*discoveryv1.EndpointSlice); ok && slice.Namespace+"/"+slice.Labels[discoveryv1.LabelServiceName] == key {
				found = append(found, slice)
			}
		}
		return found
	}})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		t.Fatal("not synced")
	}
	w := &world{Server: s, t: t, worker: s.newWorker(false)}
	wants := func(name string, want ...string) {
		t.Helper()
		var have []string
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			have = nil
			for _, rr := range w.ask(question(name+".default.svc.cluster.local.", dns.TypeA)).Answer {
				if a, ok := rr.(*dns.A); ok {
					have = append(have, a.A.String())
				}
			}
			slices.Sort(have)
			if slices.Equal(have, want) {
				return
			}
		}
		t.Fatalf("%s is %v, want %v", name, have, want)
	}
	services, endpointSlices := kube.CoreV1().Services("default"), kube.DiscoveryV1().EndpointSlices("default")
	create := func(name string, spec corev1.ServiceSpec) {
		t.Helper()
		if _, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	headless := corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{tcp("http", 80)}}
	slice := sliceOf(discoveryv1.AddressTypeIPv4, nil, endpointOf("10.244.0.5", "", true))
	slice.Name, slice.Labels = "one", map[string]string{discoveryv1.LabelServiceName: "first"}
	if slice, err = endpointSlices.Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants("first")
	create("first", headless) // after its slice
	wants("first", "10.244.0.5")
	create("second", headless)
	change := func(do func()) {
		t.Helper()
		do()
		if slice, err = endpointSlices.Update(context.Background(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change(func() { slice.Endpoints = append(slice.Endpoints, endpointOf("10.244.0.6", "", true)) })
	wants("first", "10.244.0.5", "10.244.0.6")
	change(func() { slice.Labels[discoveryv1.LabelServiceName] = "second" })
	wants("second", "10.244.0.5", "10.244.0.6")
	wants("first")
	create("third", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "second.default.svc.cluster.local"})
	wants("third", "10.244.0.5", "10.244.0.6")
	if err := endpointSlices.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wants("third")
	if err := services.Delete(ctx, "second", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wants("second")
}
