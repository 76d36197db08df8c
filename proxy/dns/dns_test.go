package dns

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

var rewrite = flag.Bool("rewrite", false, "write the golden file anew")

// world has a ClusterIP service, a headless one, and an ExternalName.
func world(t *testing.T, upstream string) *Server {
	t.Helper()
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byClusterIP: clusterIPs})
	slices := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byService: serviceOfSlice, byEndpoint: addressesOfSlice})
	add := func(i cache.Indexer, obj any) {
		if err := i.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	add(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.1.1", ClusterIPs: []string{"10.96.1.1"},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "metrics", Protocol: corev1.ProtocolTCP, Port: 9090}}}})
	add(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "sql", Protocol: corev1.ProtocolTCP, Port: 3306}}}})
	add(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "out"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}})
	add(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "in"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}})
	add(slices, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "db-x", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(3306))}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.5"}, Hostname: ptr.To("db-0")},
			{Addresses: []string{"10.244.0.6"}},
			{Addresses: []string{"10.244.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
		}})
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte(upstream), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Server{zone: "cluster.local.", services: services, slices: slices, forward: newForwarder(conf, netip.MustParseAddr("10.96.0.10"))}
}

func TestAnswers(t *testing.T) {
	s := world(t, "")
	questions := []struct {
		name  string
		qtype uint16
	}{
		{"web.default.svc.cluster.local.", dns.TypeA}, {"WEB.default.svc.cluster.local.", dns.TypeA}, {"web.default.svc.cluster.local.", dns.TypeAAAA},
		{"web.default.svc.cluster.local.", dns.TypeSRV}, {"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV}, {"_http._udp.web.default.svc.cluster.local.", dns.TypeSRV},
		{"nope.default.svc.cluster.local.", dns.TypeA}, {"web.nope.svc.cluster.local.", dns.TypeA}, {"default.svc.cluster.local.", dns.TypeA}, {"x.web.default.svc.cluster.local.", dns.TypeA},
		{"db.default.svc.cluster.local.", dns.TypeA}, {"db-0.db.default.svc.cluster.local.", dns.TypeA}, {"10-244-0-6.db.default.svc.cluster.local.", dns.TypeA},
		{"10-244-0-7.db.default.svc.cluster.local.", dns.TypeA}, {"_sql._tcp.db.default.svc.cluster.local.", dns.TypeSRV},
		{"in.default.svc.cluster.local.", dns.TypeA}, {"out.default.svc.cluster.local.", dns.TypeCNAME},
		{"10-244-0-5.default.pod.cluster.local.", dns.TypeA}, {"not-an-address.default.pod.cluster.local.", dns.TypeA},
		{"1.1.96.10.in-addr.arpa.", dns.TypePTR}, {"5.0.244.10.in-addr.arpa.", dns.TypePTR},
		{"dns-version.cluster.local.", dns.TypeTXT}, {"cluster.local.", dns.TypeSOA}, {"other.cluster.local.", dns.TypeA},
		{"outside.example.", dns.TypeA},
	}
	var b strings.Builder
	for _, q := range questions {
		m := s.answer(new(dns.Msg).SetQuestion(q.name, q.qtype), "udp")
		fmt.Fprintf(&b, "%s %s: %s\n", q.name, dns.TypeToString[q.qtype], dns.RcodeToString[m.Rcode])
		var lines []string
		for _, rr := range append(m.Answer, m.Extra...) {
			lines = append(lines, "  "+strings.ReplaceAll(rr.String(), "\t", " "))
		}
		sort.Strings(lines)
		for _, l := range lines {
			b.WriteString(l + "\n")
		}
	}
	const golden = "testdata/answers.txt"
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("differs from %s (go test -rewrite writes it anew):\n%s", golden, b.String())
	}
}

// TestForwards asks a server on loopback, once: the second answer comes from the cache.
func TestForwards(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	upstream := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		asked++
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 9)}}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = upstream.ActivateAndServe() }()
	defer func() { _ = upstream.Shutdown() }()
	s := world(t, "nameserver 127.0.0.1\nnameserver 10.96.0.10\n")
	s.forward.upstream()
	s.forward.servers = []string{conn.LocalAddr().String()}
	for id := range uint16(2) {
		q := new(dns.Msg).SetQuestion("out.default.svc.cluster.local.", dns.TypeA)
		q.Id = id
		m := s.answer(q, "udp")
		if len(m.Answer) != 2 || m.Id != id {
			t.Fatalf("answer %v", m)
		}
	}
	if asked != 1 {
		t.Errorf("the server was asked %d times, want once", asked)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("web.default.svc.cluster.local.", uint16(1))
	f.Add("_http._tcp.web.default.svc.cluster.local.", uint16(33))
	f.Add("..cluster.local.", uint16(255))
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		s := world(t, "")
		s.answer(&dns.Msg{Question: []dns.Question{{Name: name, Qtype: qtype, Qclass: dns.ClassINET}}}, "udp")
	})
}
