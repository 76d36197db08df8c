package alloc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// cluster is a store with Services in it, and one server's allocator.
type cluster struct {
	*Allocator
	t     *testing.T
	store store.Store
}

// stored is a Reader over the store itself.
type stored struct{ store store.Store }

func (s stored) List(ctx context.Context, _ schema.GroupResource, _ string) ([]runtime.Object, metav1.ListMeta, error) {
	list, err := s.store.List(ctx, store.Root+"services/specs/", store.ListOptions{})
	if err != nil {
		return nil, metav1.ListMeta{}, err
	}
	var out []runtime.Object
	for _, e := range list.Entries {
		obj, _, err := envelope().Decode(e.Value, nil, nil)
		if err != nil {
			return nil, metav1.ListMeta{}, err
		}
		out = append(out, obj)
	}
	return out, metav1.ListMeta{}, nil
}

func newCluster(t *testing.T, s store.Store, cidr string, first, last int32) *cluster {
	t.Helper()
	a, err := New(Config{Store: s, Reader: stored{s}, ServiceCIDR: netip.MustParsePrefix(cidr), FirstNodePort: first, LastNodePort: last})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Allocator: a, t: t, store: s}
}

func usual(t *testing.T) *cluster { return newCluster(t, memory.New(), "10.96.0.0/16", 30000, 32767) }

var uids struct {
	sync.Mutex
	n int
}

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	uids.Lock()
	defer uids.Unlock()
	uids.n++
	svc := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(fmt.Sprint("uid-", uids.n))},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	change(&svc.Spec)
	return svc
}

func plain(*corev1.ServiceSpec) {}

func withIP(ip string) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = ip, []string{ip} }
}

func nodePort(ports ...int32) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) {
		s.Type, s.Ports = corev1.ServiceTypeNodePort, nil
		for i, p := range ports {
			s.Ports = append(s.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(80 + i), Protocol: corev1.ProtocolTCP, NodePort: p})
		}
	}
}

func (c *cluster) write(svc *corev1.Service) {
	var out bytes.Buffer
	if err := envelope().Encode(svc, &out); err != nil {
		c.t.Fatal(err)
	}
	key := serviceKey(ownerOf(svc))
	entry, err := c.store.Get(c.t.Context(), key, 0)
	if err == nil {
		_, err = c.store.Update(c.t.Context(), key, out.Bytes(), entry.Revision)
	} else {
		_, err = c.store.Create(c.t.Context(), key, out.Bytes(), store.CreateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) create(svc *corev1.Service) error {
	finish, err := c.BeginCreate(c.t.Context(), svc, false)
	if err != nil {
		return err
	}
	c.write(svc)
	finish(true)
	return nil
}

func (c *cluster) mustCreate(svc *corev1.Service) *corev1.Service {
	c.t.Helper()
	if err := c.create(svc); err != nil {
		c.t.Fatal(err)
	}
	return svc
}

func (c *cluster) update(old *corev1.Service, change func(*corev1.ServiceSpec)) (*corev1.Service, error) {
	svc := old.DeepCopy()
	change(&svc.Spec)
	finish, err := c.BeginUpdate(c.t.Context(), svc, old, false)
	if err != nil {
		return nil, err
	}
	c.write(svc)
	finish(true)
	return svc, nil
}

func (c *cluster) remove(svc *corev1.Service) {
	entry, err := c.store.Get(c.t.Context(), serviceKey(ownerOf(svc)), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.store.Delete(c.t.Context(), entry.Key, entry.Revision); err != nil {
		c.t.Fatal(err)
	}
	c.AfterDelete(c.t.Context(), svc)
}

// held lists the names of the slots that have keys.
func (c *cluster) held() []string {
	c.t.Helper()
	var out []string
	for _, prefix := range []string{ipPrefix, portPrefix} {
		list, err := c.store.List(c.t.Context(), prefix, store.ListOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range list.Entries {
			out = append(out, strings.TrimPrefix(e.Key, prefix))
		}
	}
	slices.Sort(out)
	return out
}

func (c *cluster) wantHeld(want ...string) {
	c.t.Helper()
	slices.Sort(want)
	if got := c.held(); !slices.Equal(got, want) {
		c.t.Errorf("held %v, want %v", got, want)
	}
}

func TestCreateDefaultsAndReleases(t *testing.T) {
	c := usual(t)
	svc := c.mustCreate(service("web", nodePort(0, 30007)))
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !netip.MustParsePrefix("10.96.0.0/16").Contains(ip) || svc.Spec.ClusterIPs[0] != svc.Spec.ClusterIP {
		t.Errorf("cluster IP %q %v", svc.Spec.ClusterIP, svc.Spec.ClusterIPs)
	}
	if ip.Less(netip.MustParseAddr("10.96.1.1")) {
		t.Errorf("%s is of the static band", ip)
	}
	if p := svc.Spec.Ports[0].NodePort; p < 30086 || p > 32767 {
		t.Errorf("node port %d is not of the dynamic band", p)
	}
	if *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack || !slices.Equal(svc.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol}) {
		t.Errorf("%v %v", *svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies)
	}
	c.wantHeld(svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort), "30007")
	c.remove(svc)
	c.wantHeld()
}

func TestRefusals(t *testing.T) {
	c := usual(t)
	c.mustCreate(service("first", func(s *corev1.ServiceSpec) { nodePort(30007)(s); withIP("10.96.0.1")(s) }))
	before := c.held()
	cases := []struct {
		name   string
		change func(*corev1.ServiceSpec)
		text   string
	}{
		{"IP taken", withIP("10.96.0.1"), `Service "x" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already allocated`},
		{"IP out of range", withIP("192.0.2.1"), "failed to allocate IP 192.0.2.1: the provided network does not match the current range"},
		{"network address", withIP("10.96.0.0"), "is not in the valid range"},
		{"broadcast address", withIP("10.96.255.255"), "is not in the valid range"},
		{"port taken", nodePort(0, 30007), "spec.ports[1].nodePort: Invalid value: 30007: provided port is already allocated"},
		{"port out of range", nodePort(80), "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"},
		{"port twice", nodePort(30100, 30100), "spec.ports[1].nodePort: Invalid value: 30100: provided port is already allocated"},
		{"dual stack", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack) }, `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{"IPv6", func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"IPv6 address", withIP("fd00::1"), "may not use IPv6 on a cluster which is not configured for it"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			for _, dry := range []bool{true, false} {
				_, err := c.BeginCreate(t.Context(), service("x", test.change), dry)
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("dry run %v: %v", dry, err)
				}
			}
			c.wantHeld(before...)
		})
	}
}

func TestNothingToReserve(t *testing.T) {
	c := usual(t)
	headless := c.mustCreate(service("headless", withIP("None")))
	if *headless.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Error(*headless.Spec.IPFamilyPolicy)
	}
	own := c.mustCreate(service("selectorless", func(s *corev1.ServiceSpec) { withIP("None")(s); s.Selector = nil }))
	if *own.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack || len(own.Spec.IPFamilies) != 2 {
		t.Errorf("%v %v", *own.Spec.IPFamilyPolicy, own.Spec.IPFamilies)
	}
	external := c.mustCreate(service("ext", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "x.y" }))
	if external.Spec.ClusterIP != "" || external.Spec.IPFamilies != nil {
		t.Errorf("%+v", external.Spec)
	}
	bad := service("bad", withIP("not an address"))
	if finish, err := c.BeginCreate(t.Context(), bad, false); err != nil {
		t.Error("validation is to say it:", err)
	} else {
		finish(false)
	}
	c.wantHeld()
}

func TestProtocolsShareANodePort(t *testing.T) {
	c := usual(t)
	svc := c.mustCreate(service("dns", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports = []corev1.ServicePort{{Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "tcp", Port: 53, Protocol: corev1.ProtocolTCP}, {Name: "x", Port: 54, Protocol: corev1.ProtocolTCP}, {Name: "xu", Port: 54, Protocol: corev1.ProtocolUDP, NodePort: 30054}}
	}))
	p := svc.Spec.Ports
	if p[0].NodePort == 0 || p[0].NodePort != p[1].NodePort || p[2].NodePort != 30054 || p[3].NodePort != 30054 {
		t.Errorf("%v", p)
	}
}

func TestTransitions(t *testing.T) {
	c := usual(t)
	step := func(old *corev1.Service, change func(*corev1.ServiceSpec)) *corev1.Service {
		t.Helper()
		svc, err := c.update(old, change)
		if err != nil {
			t.Fatal(err)
		}
		return svc
	}
	svc := c.mustCreate(service("web", plain))
	ip := svc.Spec.ClusterIP
	svc = step(svc, func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	port := fmt.Sprint(svc.Spec.Ports[0].NodePort)
	c.wantHeld(ip, port)
	svc = step(svc, func(s *corev1.ServiceSpec) { s.Ports[0].NodePort = 30001 })
	c.wantHeld(ip, "30001")
	svc = step(svc, func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	})
	health := fmt.Sprint(svc.Spec.HealthCheckNodePort)
	c.wantHeld(ip, "30001", health)
	svc = step(svc, func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy, s.HealthCheckNodePort, s.Ports[0].NodePort = corev1.ServiceTypeClusterIP, "", 0, 0
	})
	c.wantHeld(ip)
	svc = step(svc, func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName, s.ClusterIP, s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy = corev1.ServiceTypeExternalName, "x.y", "", nil, nil, nil
	})
	c.wantHeld()
	svc = step(svc, func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeClusterIP, "" })
	c.wantHeld(svc.Spec.ClusterIP)
	quiet := c.mustCreate(service("quiet", func(s *corev1.ServiceSpec) {
		s.Type, s.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, ptr.To(false)
	}))
	if quiet.Spec.Ports[0].NodePort != 0 {
		t.Error("a node port was chosen against the user's word")
	}
}

func TestFailedWritesUndo(t *testing.T) {
	c := usual(t)
	svc := service("web", nodePort(0, 30007))
	finish, err := c.BeginCreate(t.Context(), svc, false)
	if err != nil || len(c.held()) != 3 {
		t.Fatal(err, c.held())
	}
	finish(false)
	c.wantHeld()

	// The store said no, but had written after all: what the Service has stays its own.
	finish, err = c.BeginCreate(t.Context(), svc, false)
	if err != nil {
		t.Fatal(err)
	}
	c.write(svc)
	finish(false)
	c.wantHeld(svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort), "30007")

	next := svc.DeepCopy()
	next.Spec.Ports[1].NodePort = 30008
	if finish, err = c.BeginUpdate(t.Context(), next, svc, false); err != nil {
		t.Fatal(err)
	}
	c.remove(svc) // someone else was faster
	finish(false)
	c.wantHeld()
}

func TestDryRunReservesNothing(t *testing.T) {
	c := usual(t)
	svc := service("web", nodePort(0, 0, 30007))
	finish, err := c.BeginCreate(t.Context(), svc, true)
	if err != nil || svc.Spec.ClusterIP == "" || svc.Spec.Ports[0].NodePort == svc.Spec.Ports[1].NodePort {
		t.Fatalf("%+v, %v", svc.Spec, err)
	}
	c.wantHeld()
	finish(false)
	c.wantHeld()
}

func TestExhaustion(t *testing.T) {
	c := newCluster(t, memory.New(), "10.0.0.0/27", 30000, 30002)
	last := map[string]bool{}
	var all []*corev1.Service
	for i := range 30 {
		svc := c.mustCreate(service(fmt.Sprint("s", i), plain))
		if last[svc.Spec.ClusterIP] {
			t.Fatal("given twice: ", svc.Spec.ClusterIP)
		}
		last[svc.Spec.ClusterIP] = true
		all = append(all, svc)
		if i == 13 && slices.ContainsFunc(all, func(s *corev1.Service) bool {
			return netip.MustParseAddr(s.Spec.ClusterIP).Less(netip.MustParseAddr("10.0.0.17"))
		}) {
			t.Error("the static band was used before the dynamic one was full")
		}
	}
	if err := c.create(service("more", plain)); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full") {
		t.Error(err)
	}
	// Another server frees one: found by a look at the store.
	other := newCluster(t, c.store, "10.0.0.0/27", 30000, 30002)
	other.remove(all[3])
	if svc := c.mustCreate(service("more", plain)); svc.Spec.ClusterIP != all[3].Spec.ClusterIP {
		t.Error(svc.Spec.ClusterIP)
	}
	if err := c.create(service("ports", nodePort(0, 0, 0, 0))); err == nil || !strings.Contains(err.Error(), "failed to allocate a serviceIP") {
		t.Error(err)
	}
	c.remove(all[0])
	if err := c.create(service("ports", nodePort(0, 0, 0, 0))); err == nil || !strings.Contains(err.Error(), "failed to allocate a nodePort: range is full") {
		t.Error(err)
	}
	if len(c.held()) != 29 {
		t.Errorf("a refused service left something: %v", c.held())
	}
}

// Two servers over one store create and delete at once; no address or port may ever have two holders.
func TestServersNeverCollide(t *testing.T) {
	s := memory.New()
	var mu sync.Mutex
	holders := map[string]string{}
	hold := func(svc *corev1.Service, hold bool) {
		mu.Lock()
		defer mu.Unlock()
		for _, v := range []string{svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort)} {
			if hold && holders[v] != "" {
				t.Errorf("%s belongs to %s and %s", v, holders[v], svc.Name)
			}
			holders[v] = ""
			if hold {
				holders[v] = svc.Name
			}
		}
	}
	var wg sync.WaitGroup
	for server := range 2 {
		c := newCluster(t, s, "10.0.0.0/26", 30000, 30039)
		for worker := range 8 {
			wg.Go(func() {
				for i := range 40 {
					svc := service(fmt.Sprintf("s-%d-%d-%d", server, worker, i), nodePort(0))
					if err := c.create(svc); err != nil {
						if strings.Contains(err.Error(), "full") {
							continue
						}
						t.Error(err)
						return
					}
					hold(svc, true)
					if i%3 == 0 {
						if _, err := c.repair(t.Context(), nil); err != nil {
							t.Error(err)
						}
					}
					hold(svc, false)
					c.remove(svc)
				}
			})
		}
	}
	wg.Wait()
	newCluster(t, s, "10.0.0.0/26", 30000, 30039).wantHeld()
}

func TestRepair(t *testing.T) {
	c := usual(t)
	// A store from elsewhere has Services without keys.
	restored := service("restored", func(s *corev1.ServiceSpec) { nodePort(30500)(s); withIP("10.96.7.7")(s) })
	c.write(restored)
	if err := c.create(service("thief", withIP("10.96.7.7"))); !apierrors.IsInvalid(err) {
		t.Errorf("an address in use was given: %v", err)
	}
	c.wantHeld("10.96.7.7", "30500")

	// A crash between the reservation and the write leaves keys; they go in the second round that sees them.
	if _, err := c.BeginCreate(t.Context(), service("lost", func(s *corev1.ServiceSpec) { nodePort(30600)(s); withIP("10.96.9.9")(s) }), false); err != nil {
		t.Fatal(err)
	}
	suspects, err := c.repair(t.Context(), nil)
	if err != nil || len(suspects) != 2 {
		t.Fatal(suspects, err)
	}
	c.wantHeld("10.96.7.7", "30500", "10.96.9.9", "30600")
	if suspects, err = c.repair(t.Context(), suspects); err != nil || len(suspects) != 0 {
		t.Fatal(suspects, err)
	}
	c.wantHeld("10.96.7.7", "30500")
	c.mustCreate(service("next", withIP("10.96.9.9")))

	// A key that another service seems to hold is corrected, so that its release works.
	entry, err := c.store.Get(t.Context(), ipPrefix+"10.96.7.7", 0)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := encodeIP("10.96.7.7", owner{Namespace: "ns", Name: "restored", UID: "another"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.Update(t.Context(), entry.Key, wrong, entry.Revision); err != nil {
		t.Fatal(err)
	}
	suspects, _ = c.repair(t.Context(), nil)
	if _, err := c.repair(t.Context(), suspects); err != nil {
		t.Fatal(err)
	}
	c.remove(restored)
	if slices.Contains(c.held(), "10.96.7.7") {
		t.Error("the corrected key was not released")
	}
}

func TestRangesAreChecked(t *testing.T) {
	for _, cidr := range []string{"10.0.0.0/31", "10.0.0.0/11", "fd00::/112"} {
		if _, err := newIPPool(memory.New(), netip.MustParsePrefix(cidr)); err == nil {
			t.Error(cidr)
		}
	}
	if _, err := newPortPool(memory.New(), 5, 4); err == nil {
		t.Error("ports")
	}
	for size, want := range map[int]int{8: 0, 16: 0, 32: 16, 256: 16, 4096: 256, 1 << 16: 256} {
		if got := staticBand(size, 16, 256, 16); got != want {
			t.Errorf("static band of %d is %d, want %d", size, got, want)
		}
	}
	if got := staticBand(2768, 16, 128, 32); got != 86 {
		t.Error(got)
	}
}

func TestUnavailableStore(t *testing.T) {
	c := newCluster(t, failing{memory.New()}, "10.96.0.0/16", 30000, 32767)
	err := c.create(service("x", plain))
	if err == nil || !apierrors.IsInternalError(err) {
		t.Error(err)
	}
}

// failing refuses every creation.
type failing struct{ store.Store }

func (failing) Create(context.Context, string, []byte, store.CreateOptions) (int64, error) {
	return 0, errors.Join(store.ErrUnavailable)
}

func BenchmarkCreateDelete(b *testing.B) {
	a, err := New(Config{Store: memory.New(), Reader: stored{memory.New()}, ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"), FirstNodePort: 30000, LastNodePort: 32767})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		svc := service("x", plain)
		finish, err := a.BeginCreate(b.Context(), svc, false)
		if err != nil {
			b.Fatal(err)
		}
		finish(true)
		a.AfterDelete(b.Context(), svc)
	}
}
