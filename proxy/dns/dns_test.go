package dns

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

var rewrite = flag.Bool("rewrite", false, "write the golden file anew")

var podAddr = netip.MustParseAddr("10.244.0.99")

// world is a server that was not started, whose objects are given to its index directly.
type world struct {
	*Server
	t      testing.TB
	worker *worker // one that may wait

	mu      sync.Mutex
	objects map[string]*corev1.Service
	slices  map[string][]*discoveryv1.EndpointSlice
	clock   time.Time
}

func newWorld(t testing.TB, servers ...string) *world {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte(resolvText(servers)), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, objects: map[string]*corev1.Service{}, slices: map[string][]*discoveryv1.EndpointSlice{}, clock: time.Unix(1_800_000_000, 0)}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"}) // never asked
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Factory: informers.NewSharedInformerFactory(client, 0), Addr: netip.MustParseAddr("10.96.0.10"), Domain: "Cluster.local",
		Slices: func(string) []*discoveryv1.EndpointSlice { return nil }, ResolvConf: conf, Clients: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Server = s
	s.now, s.shift = w.now, func() uint { return 0 }
	s.forwarder.now = w.now
	w.worker = s.newWorker(true)
	return w
}

func resolvText(servers []string) string {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return b.String()
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

// set gives a service and its slices to the index; a nil service deletes it.
func (w *world) set(key string, object *corev1.Service, slices ...*discoveryv1.EndpointSlice) bool {
	return w.index.update(key, func() (*corev1.Service, []*discoveryv1.EndpointSlice) { return object, slices }, w.now())
}

func serviceOf(clusterIPs string, ports ...corev1.ServicePort) *corev1.Service {
	ips := strings.Split(clusterIPs, ",")
	return &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: ips[0], ClusterIPs: ips, Ports: ports}}
}

func (w *world) add(key string, object *corev1.Service, slices ...*discoveryv1.EndpointSlice) {
	w.t.Helper()
	object.Namespace, object.Name, _ = strings.Cut(key, "/")
	if !w.set(key, object, slices...) {
		w.t.Fatalf("%s changed nothing", key)
	}
}

func tcp(name string, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: corev1.ProtocolTCP, Port: number}
}

func sliceOf(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, AddressType: family, Ports: ports, Endpoints: endpoints}
}

func slicePort(name string, protocol corev1.Protocol, number int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
}

func endpointOf(addr, host string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)}}
	if host != "" {
		e.Hostname = &host
	}
	return e
}

// fill makes services of every kind.
func (w *world) fill() {
	v4, v6 := discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	sql := []discoveryv1.EndpointPort{slicePort("sql", corev1.ProtocolTCP, 3306)}
	w.add("default/web", serviceOf("10.96.1.1", tcp("http", 80), tcp("", 9090), corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}))
	w.add("default/dual", serviceOf("10.96.1.2,fd00:96::2", tcp("http", 80)))
	w.add("default/db", serviceOf("None", tcp("sql", 3306)), sliceOf(v4, sql, endpointOf("10.244.0.5", "db-0", true), endpointOf("10.244.0.6", "", true), endpointOf("10.244.0.7", "db-2", false)))
	w.add("default/six", serviceOf("None", tcp("sql", 3306)), sliceOf(v6, sql, endpointOf("fd00::6", "", true), endpointOf("fd00::7", "six-0", true)))
	w.add("default/none", serviceOf("None", tcp("sql", 3306)), sliceOf(v4, sql, endpointOf("10.244.0.8", "", false)))
	early := serviceOf("None", tcp("sql", 3306))
	early.Spec.PublishNotReadyAddresses = true
	w.add("default/early", early, sliceOf(v4, sql, endpointOf("10.244.0.9", "Early-0", false)))
	w.add("default/named", serviceOf("10.96.1.3", tcp("http", 80)), sliceOf(v4, nil, endpointOf("10.244.0.10", "one", true), endpointOf("10.244.0.11", "", true)))
	external := func(target string) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target}}
	}
	w.add("default/out", external("example.org"))
	w.add("default/in", external("web.default.svc.cluster.local"))
	w.add("default/twice", external("in.default.svc.Cluster.Local."))
	w.add("default/lost", external("nothing.default.svc.cluster.local"))
	w.add("default/round", external("round.default.svc.cluster.local"))
}

// ask gives the answer to a question as a pod has it.
func (w *world) ask(m *dns.Msg) *dns.Msg {
	w.t.Helper()
	return w.askFrom(podAddr, m, true)
}

func (w *world) askFrom(from netip.Addr, m *dns.Msg, overTCP bool) *dns.Msg {
	w.t.Helper()
	packet, err := m.Pack()
	if err != nil {
		w.t.Fatal(err)
	}
	out, _ := w.worker.handle(packet, from, overTCP)
	if out == nil {
		w.t.Fatalf("no answer to %v", m)
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(out); err != nil {
		w.t.Fatalf("answer %x: %v", out, err)
	}
	return reply
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// text is an answer's form in golden files.
func text(m *dns.Msg) string {
	var b strings.Builder
	b.WriteString(dns.RcodeToString[m.Rcode])
	for _, f := range []struct {
		set  bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.AuthenticatedData, "ad"}} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteByte('\n')
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			fmt.Fprintf(&b, "  %s %s\n", []string{"answer    ", "authority ", "additional"}[i], strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	return b.String()
}

func TestAnswers(t *testing.T) {
	w := newWorld(t)
	w.fill()
	const svc = ".default.svc.cluster.local."
	type ask struct {
		name  string
		types []uint16
	}
	a, srv, both := []uint16{dns.TypeA}, []uint16{dns.TypeSRV}, []uint16{dns.TypeA, dns.TypeAAAA}
	questions := []ask{
		{"web" + svc, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeANY, dns.TypeHTTPS}}, {"WeB.Default.SVC.cluster.LOCAL.", a},
		{"_http._tcp.web" + svc, []uint16{dns.TypeSRV, dns.TypeA}}, {"_HTTP._TCP.web" + svc, srv}, {"_dns._udp.web" + svc, srv}, {"_http._udp.web" + svc, srv}, {"_._tcp.web" + svc, srv}, {"_tcp.web" + svc, srv}, {"_sctp.web" + svc, srv},
		{"dual" + svc, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV}},
		{"nothing" + svc, both}, {"web.nowhere.svc.cluster.local.", a}, {"x.web" + svc, a}, {"x.y.web" + svc, a}, {"x.y.z.web" + svc, a},
		{"default.svc.cluster.local.", a}, {"nowhere.svc.cluster.local.", a}, {"svc.cluster.local.", a}, {"pod.cluster.local.", a}, {"cluster.local.", []uint16{dns.TypeA, dns.TypeSOA, dns.TypeNS}},
		{"ns.dns.cluster.local.", both}, {"dns.cluster.local.", a}, {"x.dns.cluster.local.", a}, {"other.cluster.local.", a}, {"dns-version.cluster.local.", []uint16{dns.TypeTXT, dns.TypeA}},
		{"db" + svc, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV}}, {"db-0.db" + svc, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV}}, {"DB-0.db" + svc, a}, {"10-244-0-6.db" + svc, a}, {"db-2.db" + svc, a},
		{"_sql._tcp.db" + svc, srv}, {"_tcp.db" + svc, srv}, {"six" + svc, both}, {"_sql._tcp.six" + svc, srv}, {"fd00--6.six" + svc, []uint16{dns.TypeAAAA}},
		{"none" + svc, a}, {"_sql._tcp.none" + svc, srv}, {"early" + svc, a}, {"early-0.early" + svc, a}, {"one.named" + svc, a}, {"10-244-0-11.named" + svc, a}, {"named" + svc, a},
		{"in" + svc, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeSRV}}, {"x.in" + svc, a}, {"twice" + svc, a}, {"lost" + svc, a}, {"round" + svc, a}, {"out" + svc, []uint16{dns.TypeCNAME, dns.TypeA}},
		{"10-244-0-5.default.pod.cluster.local.", both}, {"fd00--5.default.pod.cluster.local.", both}, {"not-an-address.default.pod.cluster.local.", a}, {"default.pod.cluster.local.", a}, {"x.10-244-0-5.default.pod.cluster.local.", a},
		{"1.1.96.10.in-addr.arpa.", []uint16{dns.TypePTR, dns.TypeA}}, {"5.0.244.10.in-addr.arpa.", []uint16{dns.TypePTR}}, {"10.0.244.10.in-addr.arpa.", []uint16{dns.TypePTR}},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.", []uint16{dns.TypePTR}}, {"6.0.244.10.in-addr.arpa.", []uint16{dns.TypePTR}}, {"01.1.96.10.in-addr.arpa.", []uint16{dns.TypePTR}},
		{"outside.example.", a}, {".", a},
	}
	var b strings.Builder
	for _, q := range questions {
		for _, qtype := range q.types {
			fmt.Fprintf(&b, "%s %s: %s", q.name, dns.TypeToString[qtype], text(w.ask(question(q.name, qtype))))
		}
	}
	golden(t, "testdata/answers.txt", b.String())
}

func golden(t *testing.T, path, have string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("differs from %s (go test -rewrite writes it anew):\n%s", path, have)
	}
}
