package alloc

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// withCIDRs is a Reader that has ServiceCIDRs as well.
type withCIDRs struct {
	stored
	mu    *sync.Mutex
	cidrs *[]runtime.Object
}

func (w withCIDRs) List(ctx context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error) {
	if gr == serviceCIDRs {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Clone(*w.cidrs), metav1.ListMeta{}, nil
	}
	return w.stored.List(ctx, gr, namespace)
}

func serviceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

// extended is a cluster of one address, with ServiceCIDRs that set replaces.
func extended(t *testing.T, s store.Store) (c *cluster, set func(...runtime.Object)) {
	t.Helper()
	reader := withCIDRs{stored{s}, &sync.Mutex{}, &[]runtime.Object{}}
	a, err := New(Config{Store: s, Reader: reader, ServiceCIDR: netip.MustParsePrefix("10.0.0.0/30"), FirstNodePort: 30000, LastNodePort: 32767})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Allocator: a, t: t, store: s}, func(objs ...runtime.Object) {
		reader.mu.Lock()
		defer reader.mu.Unlock()
		*reader.cidrs = objs
	}
}

func TestServiceCIDRs(t *testing.T) {
	c, set := extended(t, memory.New())
	set(serviceCIDR("kubernetes", "10.0.0.0/30"))
	c.mustCreate(service("a", plain))
	b := c.mustCreate(service("b", plain))
	full := "failed to allocate a serviceIP: range is full"
	if err := c.create(service("c", plain)); err == nil || !strings.Contains(err.Error(), full) {
		t.Error(err)
	}
	set(serviceCIDR("kubernetes", "10.0.0.0/30"), serviceCIDR("more", "10.1.0.0/30", "fd00::/112"))
	d := c.mustCreate(service("d", plain))
	if !strings.HasPrefix(d.Spec.ClusterIP, "10.1.0.") {
		t.Errorf("%s", d.Spec.ClusterIP)
	}
	c.mustCreate(service("own", withIP(map[string]string{"10.1.0.1": "10.1.0.2", "10.1.0.2": "10.1.0.1"}[d.Spec.ClusterIP])))
	c.remove(b)
	c.mustCreate(service("e", withIP(b.Spec.ClusterIP)))

	// A range that is going gives nothing more, but what it gave is released.
	going := serviceCIDR("more", "10.1.0.0/30")
	going.DeletionTimestamp = &metav1.Time{}
	set(going)
	c.remove(d)
	if slices.Contains(c.held(), d.Spec.ClusterIP) {
		t.Error("not released")
	}
	if err := c.create(service("c", plain)); err == nil || !strings.Contains(err.Error(), full) {
		t.Error(err)
	}
	notReady := serviceCIDR("more", "10.1.0.0/30")
	notReady.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse}}
	set(notReady)
	if err := c.create(service("c", plain)); err == nil {
		t.Error("a range that is not ready gave an address")
	}
	set()
	if err := c.create(service("c", withIP("10.1.0.1"))); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "failed to allocate IP 10.1.0.1: the provided network does not match the current range") {
		t.Error(err)
	}
}

// TestOverlappingRanges: an address that is of two ranges is given once.
func TestOverlappingRanges(t *testing.T) {
	s := memory.New()
	c, set := extended(t, s)
	set(serviceCIDR("wide", "10.0.0.0/28"), serviceCIDR("narrow", "10.0.0.8/29"))
	other := newCluster(t, s, "10.0.0.0/28", 30000, 32767)
	seen := map[string]bool{}
	for i := range 14 {
		server := []*cluster{c, other}[i%2]
		svc := server.mustCreate(service(fmt.Sprint("s", i), plain))
		if seen[svc.Spec.ClusterIP] {
			t.Fatal("given twice: ", svc.Spec.ClusterIP)
		}
		seen[svc.Spec.ClusterIP] = true
	}
	if err := c.create(service("more", plain)); err == nil {
		t.Error("an address too many")
	}
}

func ipAddress(t *testing.T, c *cluster, name string) *networkingv1.IPAddress {
	t.Helper()
	e, err := c.store.Get(t.Context(), ipPrefix+name, 0)
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := envelope().Decode(e.Value, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*networkingv1.IPAddress)
}

func TestIPAddressObjects(t *testing.T) {
	c := usual(t)
	svc := c.mustCreate(service("web", withIP("10.96.3.3")))
	ip := ipAddress(t, c, "10.96.3.3")
	want := networkingv1.ParentReference{Resource: "services", Namespace: "ns", Name: "web"}
	if ip.UID == "" || ip.CreationTimestamp.IsZero() || *ip.Spec.ParentRef != want ||
		ip.Labels["ipaddress.kubernetes.io/ip-family"] != "IPv4" || ip.Labels["ipaddress.kubernetes.io/managed-by"] != "ipallocator.k8s.io" {
		t.Errorf("%+v", ip)
	}

	// Deleted by somebody, it comes back as long as the Service is there.
	e, _ := c.store.Get(t.Context(), ipPrefix+"10.96.3.3", 0)
	if _, err := c.store.Delete(t.Context(), e.Key, e.Revision); err != nil {
		t.Fatal(err)
	}
	var told []string
	c.ReportTo(func(about runtime.Object, reason, note string) { told = append(told, reason+" "+note) })
	c.AddressDeleted(t.Context(), ip)
	c.wantHeld("10.96.3.3")
	if len(told) != 1 || told[0] != "ClusterIPNotAllocated Cluster IP [IPv4]: 10.96.3.3 is not allocated; repairing" {
		t.Errorf("%q", told)
	}
	c.remove(svc)
	c.AddressDeleted(t.Context(), ip)
	c.wantHeld()
}

// TestForeignAddresses: an IPAddress that somebody made for another purpose is neither given nor removed.
func TestForeignAddresses(t *testing.T) {
	c := usual(t)
	foreign := &networkingv1.IPAddress{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{Name: "10.96.5.5"},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "gateway.networking.k8s.io", Resource: "gateways", Namespace: "ns", Name: "gw"}},
	}
	var value bytes.Buffer
	if err := envelope().Encode(foreign, &value); err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.Create(t.Context(), ipPrefix+"10.96.5.5", value.Bytes(), store.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	suspects, err := c.repair(t.Context(), nil)
	if err != nil || len(suspects) != 0 {
		t.Errorf("%v %v", suspects, err)
	}
	if err := c.create(service("thief", withIP("10.96.5.5"))); !apierrors.IsInvalid(err) {
		t.Error(err)
	}
	c.wantHeld("10.96.5.5")
}

func TestRepairTells(t *testing.T) {
	c := usual(t)
	var told []string
	c.ReportTo(func(about runtime.Object, reason, note string) {
		switch about.(type) {
		case *corev1.Service, *networkingv1.IPAddress:
			told = append(told, reason+" "+note)
		default:
			t.Errorf("%T", about)
		}
	})
	c.write(service("a", func(s *corev1.ServiceSpec) { nodePort(30500)(s); withIP("10.96.7.7")(s) }))
	c.write(service("b", withIP("10.96.7.7")))
	c.write(service("far", withIP("192.0.2.9")))
	if _, err := c.BeginCreate(t.Context(), service("lost", withIP("10.96.9.9")), false); err != nil {
		t.Fatal(err)
	}
	var suspects map[string]int64
	for range 2 {
		var err error
		if suspects, err = c.repair(t.Context(), suspects); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(told)
	want := []string{
		"ClusterIPAlreadyAllocated Cluster IP [IPv4]:10.96.7.7 was assigned to multiple services; please recreate service",
		"ClusterIPNotAllocated Cluster IP [IPv4]: 10.96.7.7 is not allocated; repairing",
		"ClusterIPOutOfRange Cluster IP [IPv4]: 192.0.2.9 is not within any configured Service CIDR; please recreate service",
		"IPAddressNotAllocated IPAddress: 10.96.9.9 for Service ns/lost appears to have leaked: cleaning up",
		"PortNotAllocated Port 30500 is not allocated; repairing",
	}
	if got := slices.Compact(told); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
