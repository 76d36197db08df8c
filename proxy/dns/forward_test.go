package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// server is another DNS server, on loopback.
type server struct {
	addr string

	mu    sync.Mutex
	asked []string // "udp example.org. A"
	reply func(m *dns.Msg, network string)
	mute  bool
}

func newServer(t testing.TB, reply func(m *dns.Msg, network string)) *server {
	t.Helper()
	s := &server{reply: reply}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = conn.LocalAddr().String()
	l, err := net.Listen("tcp4", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: conn, Handler: s}, {Listener: l, Handler: s}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { _ = srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = srv.Shutdown() })
	}
	return s
}

func (s *server) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.mu.Lock()
	network := w.RemoteAddr().Network()
	if q := r.Question[0]; q.Qtype != dns.TypeHINFO { // not the look for loops
		s.asked = append(s.asked, fmt.Sprintf("%s %s %s", network, q.Name, dns.TypeToString[q.Qtype]))
	}
	mute, reply := s.mute, s.reply
	s.mu.Unlock()
	if mute {
		return
	}
	m := new(dns.Msg).SetReply(r)
	reply(m, network)
	_ = w.WriteMsg(m)
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *server) silence(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

func rrOf(t testing.TB, text string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

// gives is a reply of these records in the answer section.
func gives(t testing.TB, records ...string) func(*dns.Msg, string) {
	return func(m *dns.Msg, _ string) {
		for _, r := range records {
			m.Answer = append(m.Answer, rrOf(t, r))
		}
	}
}

// upstreams makes the servers those of the configuration.
func (w *world) upstreams(servers ...*server) {
	var list []*upstream
	for _, s := range servers {
		list = append(list, newUpstream(s.addr))
	}
	w.settings.Store(&settings{upstream: list})
}

func TestForwards(t *testing.T) {
	w := newWorld(t)
	w.fill()
	up := newServer(t, gives(t, "example.org. 60 IN A 192.0.2.9", "example.org. 40 IN A 192.0.2.10"))
	w.upstreams(up)
	for i, after := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
		w.pass(after)
		m := question("eXample.org.", dns.TypeA)
		reply := w.ask(m)
		if len(reply.Answer) != 2 || reply.Id != m.Id || reply.Authoritative || !reply.RecursionAvailable || !reply.RecursionDesired || reply.Question[0].Name != "eXample.org." {
			t.Fatalf("answer %v", reply)
		}
		if have, want := reply.Answer[0].Header().Ttl, []uint32{40, 30, 10}[i]; have != want {
			t.Errorf("time to live %d, want %d", have, want)
		}
	}
	if up.count() != 1 {
		t.Errorf("asked %v, want once", up.asked)
	}
	w.pass(11 * time.Second)
	w.ask(question("example.org.", dns.TypeA))
	if up.count() != 2 {
		t.Errorf("asked %v, want once more after the time to live", up.asked)
	}
	// An ExternalName's chain leads out, from the cache.
	reply := w.ask(question("out.default.svc.cluster.local.", dns.TypeA))
	if len(reply.Answer) != 3 || reply.Answer[0].Header().Rrtype != dns.TypeCNAME || reply.Answer[1].Header().Name != "example.org." || up.count() != 2 {
		t.Errorf("answer %v, asked %v", reply, up.asked)
	}
	// A worker that may not wait answers what is kept, and leaves the rest to one that may.
	fast := w.newWorker(false)
	for name, wantLater := range map[string]bool{"example.org.": false, "new.example.org.": true, "out.default.svc.cluster.local.": false} {
		packet, err := question(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if out, later := fast.handle(packet, podAddr, false); later != wantLater || (out == nil) != wantLater {
			t.Errorf("%s: later %v", name, later)
		}
	}
}

// TestForwardsToClients: those outside of the cluster get the cluster's names only.
func TestForwardsToClients(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.upstreams(newServer(t, gives(t, "example.org. 60 IN A 192.0.2.9")))
	for from, want := range map[string]int{"10.244.3.4": dns.RcodeSuccess, "127.0.0.1": dns.RcodeSuccess, "10.96.0.10": dns.RcodeSuccess, "198.51.100.7": dns.RcodeRefused} {
		if reply := w.askFrom(netip.MustParseAddr(from), question("example.org.", dns.TypeA), false); reply.Rcode != want {
			t.Errorf("%s: %v", from, reply)
		}
		if reply := w.askFrom(netip.MustParseAddr(from), question("web.default.svc.cluster.local.", dns.TypeA), false); len(reply.Answer) != 1 {
			t.Errorf("%s: %v", from, reply)
		}
	}
}

// TestNegative: that there is nothing is believed for as long as the zone says, and not at all where no zone says it.
func TestNegative(t *testing.T) {
	w := newWorld(t)
	up := newServer(t, func(m *dns.Msg, _ string) {
		if strings.HasPrefix(m.Question[0].Name, "no") {
			m.Rcode = dns.RcodeNameError
		}
		if !strings.Contains(m.Question[0].Name, "silent") {
			m.Ns = []dns.RR{rrOf(t, "example.org. 3600 IN SOA ns.example.org. admin.example.org. 1 2 3 4 20")}
		}
	})
	w.upstreams(up)
	ask := func(name string, code, wantAsked int) {
		t.Helper()
		reply := w.ask(question(name, dns.TypeA))
		if reply.Rcode != code || up.count() != wantAsked {
			t.Errorf("%s: %v, asked %v", name, reply, up.asked)
		}
	}
	ask("no.example.org.", dns.RcodeNameError, 1)
	ask("no.example.org.", dns.RcodeNameError, 1)
	ask("empty.example.org.", dns.RcodeSuccess, 2)
	ask("empty.example.org.", dns.RcodeSuccess, 2)
	w.pass(21 * time.Second)
	ask("no.example.org.", dns.RcodeNameError, 3)
	ask("no.silent.org.", dns.RcodeNameError, 4)
	ask("no.silent.org.", dns.RcodeNameError, 5)
}

// TestFailover: a server that does not answer is passed over, and asked again after a while; one that fails too.
func TestFailover(t *testing.T) {
	w := newWorld(t)
	answers := gives(t, "example.org. 60 IN A 192.0.2.9")
	mute, failing, good := newServer(t, answers), newServer(t, func(m *dns.Msg, _ string) { m.Rcode = dns.RcodeServerFailure }), newServer(t, answers)
	mute.silence(true)
	w.upstreams(mute, failing, good)
	for i := range 2 { // one datagram may be lost
		if reply := w.ask(question(fmt.Sprintf("%d.example.org.", i), dns.TypeA)); reply.Rcode != dns.RcodeSuccess {
			t.Fatalf("answer %v", reply)
		}
	}
	asked := mute.count()
	begun := time.Now()
	w.ask(question("3.example.org.", dns.TypeA))
	if mute.count() != asked || time.Since(begun) >= tryTimeout {
		t.Errorf("a server that does not answer was asked %d times, it took %v", mute.count()-asked, time.Since(begun))
	}
	mute.silence(false)
	w.pass(downFor)
	before := good.count()
	w.ask(question("4.example.org.", dns.TypeA))
	w.ask(question("5.example.org.", dns.TypeA))
	if mute.count() != asked+2 || good.count() != before {
		t.Errorf("the first server was not asked again after it had come back: %d, %d", mute.count()-asked, good.count()-before)
	}
}

// TestStale: what is past its time still serves where no server answers.
func TestStale(t *testing.T) {
	w := newWorld(t)
	up := newServer(t, gives(t, "example.org. 60 IN A 192.0.2.9"))
	w.upstreams(up)
	w.ask(question("example.org.", dns.TypeA))
	up.mu.Lock()
	up.reply = func(m *dns.Msg, _ string) { m.Rcode = dns.RcodeServerFailure }
	up.mu.Unlock()
	w.pass(10 * time.Minute)
	reply := w.ask(question("example.org.", dns.TypeA))
	if len(reply.Answer) != 1 || reply.Answer[0].Header().Ttl != staleTTL {
		t.Errorf("answer %v", reply)
	}
	asked := up.count()
	if reply := w.ask(question("example.org.", dns.TypeA)); len(reply.Answer) != 1 || up.count() != asked {
		t.Errorf("answer %v, asked %v", reply, up.asked)
	}
	if reply := w.ask(question("other.example.org.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer %v", reply)
	}
	w.pass(40 * time.Minute)
	if reply := w.ask(question("example.org.", dns.TypeA)); len(reply.Answer) != 1 || up.count() != asked+2 {
		t.Errorf("answer %v, asked %v", reply, up.asked)
	}
	w.pass(20 * time.Minute)
	if reply := w.ask(question("example.org.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer %v", reply)
	}
}

// TestTruncatedUpstream: an answer too long for a datagram comes by TCP, and goes on as far as the client takes it.
func TestTruncatedUpstream(t *testing.T) {
	w := newWorld(t)
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("example.org. 60 IN A 192.0.2.%d", i))
	}
	up := newServer(t, func(m *dns.Msg, network string) {
		if m.Truncated = network == "udp"; !m.Truncated {
			gives(t, all...)(m, network)
		}
	})
	w.upstreams(up)
	if reply := w.ask(question("example.org.", dns.TypeA)); len(reply.Answer) != 100 || reply.Truncated {
		t.Errorf("%d records, truncated %v", len(reply.Answer), reply.Truncated)
	}
	m := question("example.org.", dns.TypeA)
	reply := w.askFrom(podAddr, m, false)
	if reply.Compress = true; !reply.Truncated || len(reply.Answer) < 20 || reply.Len() > minUDPSize {
		t.Errorf("%d records, truncated %v", len(reply.Answer), reply.Truncated)
	}
	if have := fmt.Sprint(up.asked); have != "[udp example.org. A tcp example.org. A]" {
		t.Errorf("asked %s", have)
	}
}

// TestPassesOn: DO and CD reach the other server, and what it says of them comes back; its EDNS options and the client's do not.
func TestPassesOn(t *testing.T) {
	w := newWorld(t)
	var passed atomic.Bool
	up := newServer(t, func(m *dns.Msg, _ string) {
		if m.Question[0].Qtype != dns.TypeA {
			return
		}
		passed.Store(passed.Load() || m.CheckingDisabled)
		m.AuthenticatedData = true
		m.SetEdns0(4096, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "00"}}
		m.Answer = []dns.RR{rrOf(t, "example.org. 60 IN A 192.0.2.9"), rrOf(t, "example.org. 60 IN RRSIG A 8 2 60 20300101000000 20260101000000 1 example.org. AAAA")}
	})
	w.upstreams(up)
	m := question("example.org.", dns.TypeA).SetEdns0(1232, true)
	m.CheckingDisabled = true
	reply := w.ask(m)
	if o := reply.IsEdns0(); o == nil || !o.Do() || len(o.Option) != 0 || !reply.AuthenticatedData || len(reply.Answer) != 2 || !passed.Load() {
		t.Errorf("answer %v", reply)
	}
	if w.ask(question("example.org.", dns.TypeA)); up.count() != 2 {
		t.Error("an answer with signatures was given to one who wants none")
	}
}

// TestOnce: equal questions at the same time are asked once.
func TestOnce(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	up := newServer(t, func(m *dns.Msg, network string) {
		<-release
		gives(t, "example.org. 60 IN A 192.0.2.9")(m, network)
	})
	w.upstreams(up)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			packet, err := question("example.org.", dns.TypeA).Pack()
			if err != nil {
				t.Error(err)
				return
			}
			if out, _ := w.newWorker(true).handle(packet, podAddr, false); len(out) < 40 {
				t.Errorf("answer %x", out)
			}
		})
	}
	for up.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	if up.count() != 1 {
		t.Errorf("asked %v", up.asked)
	}
}

// TestLoop: a server that asks us what we asked it is not asked any more.
func TestLoop(t *testing.T) {
	w := newWorld(t)
	up := newServer(t, gives(t, "example.org. 60 IN A 192.0.2.9"))
	w.upstreams(up)
	u := w.settings.Load().upstream[0]
	if reply := w.ask(question(u.token+"."+string(loopLabel)+".", dns.TypeHINFO)); reply.Rcode != dns.RcodeNameError {
		t.Errorf("answer %v", reply)
	}
	if reply := w.ask(question("example.org.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure || up.count() != 0 {
		t.Errorf("answer %v, asked %v", reply, up.asked)
	}
}

// TestResolvConf: our own address is left out, a change counts at once, and a file that is gone changes nothing.
func TestResolvConf(t *testing.T) {
	w := newWorld(t, "192.0.2.1", "10.96.0.10", "fd00::53")
	list := func() string {
		var addrs []string
		servers, _ := w.forwarder.resolver.servers()
		for _, u := range servers {
			addrs = append(addrs, u.addr)
		}
		return strings.Join(addrs, " ")
	}
	if have, want := list(), "192.0.2.1:53 [fd00::53]:53"; have != want {
		t.Errorf("servers %s, want %s", have, want)
	}
	path := w.forwarder.resolver.path
	if err := os.WriteFile(path+".new", []byte("nameserver 192.0.2.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if have, want := list(), "192.0.2.2:53"; have != want {
		t.Errorf("servers %s, want %s", have, want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if have, want := list(), "192.0.2.2:53"; have != want {
		t.Errorf("servers %s, want %s", have, want)
	}
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	w.fill()
	stub, general := newServer(t, gives(t, "db.corp.example. 60 IN A 192.0.2.1")), newServer(t, gives(t, "www.example.org. 60 IN A 192.0.2.2"))
	w.configure(&corev1.ConfigMap{Data: map[string]string{
		"stubDomains":         fmt.Sprintf(`{"Corp.Example": [%q]}`, stub.addr),
		"upstreamNameservers": fmt.Sprintf(`[%q]`, general.addr),
		"hosts":               "192.0.2.3 printer.lan Scanner.lan # in the hall\n\nfd00::3 printer.lan\n",
	}})
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"db.corp.example.", dns.TypeA, "192.0.2.1"}, {"www.example.org.", dns.TypeA, "192.0.2.2"}, {"Printer.lan.", dns.TypeA, "192.0.2.3"}, {"printer.lan.", dns.TypeAAAA, "fd00::3"},
		{"scanner.lan.", dns.TypeAAAA, ""}, {"3.2.0.192.in-addr.arpa.", dns.TypePTR, "printer.lan."}, {"web.default.svc.cluster.local.", dns.TypeA, "10.96.1.1"},
	} {
		reply := w.ask(question(c.name, c.qtype))
		if len(reply.Answer) == 0 && c.want != "" || len(reply.Answer) > 0 && !strings.HasSuffix(reply.Answer[0].String(), "\t"+c.want) || reply.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: %v", c.name, reply)
		}
	}
	if stub.count() != 1 || general.count() != 1 {
		t.Errorf("asked %v and %v", stub.asked, general.asked)
	}
	// What cannot be read changes nothing; what is gone is.
	w.configure(&corev1.ConfigMap{Data: map[string]string{"hosts": "nonsense"}})
	if reply := w.ask(question("printer.lan.", dns.TypeA)); len(reply.Answer) != 1 {
		t.Errorf("answer %v", reply)
	}
	w.configure(nil)
	if reply := w.ask(question("printer.lan.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer %v", reply)
	}
	self := netip.MustParseAddr("10.96.0.10")
	for key, values := range map[string][]string{
		"stubDomains":         {`[]`, `{"example.org": []}`, `{"": ["192.0.2.1"]}`, `{"example.org": ["ns.example.org"]}`, `{"example.org": ["10.96.0.10"]}`, `{"a..b": ["192.0.2.1"]}`},
		"upstreamNameservers": {`{}`, `["10.96.0.10:53"]`, `["x"]`},
		"hosts":               {"192.0.2.1", "x y", "192.0.2.1 a..b"},
		"stubdomains":         {"{}"},
	} {
		for _, value := range values {
			if _, err := parseSettings(&corev1.ConfigMap{Data: map[string]string{key: value}}, self); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s: %s: %v", key, value, err)
			}
		}
	}
}

// TestDocument: the ConfigMap that docs/dns.md shows is taken as it stands.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(data), "```yaml\n")
	block, _, ends := strings.Cut(block, "```")
	var object corev1.ConfigMap
	if err := yaml.UnmarshalStrict([]byte(block), &object); err != nil || !found || !ends {
		t.Fatal("no ConfigMap in docs/dns.md", err)
	}
	s, err := parseSettings(&object, netip.MustParseAddr("10.96.0.10"))
	if err != nil || object.Name != configName || len(s.stubs) != 1 || len(s.upstream) != 1 || len(s.hosts.addrs) != 2 {
		t.Errorf("%+v %v", s, err)
	}
}

// TestCacheBounds: the cache holds so much and no more, and what is used stays longest.
func TestCacheBounds(t *testing.T) {
	c := newAnswers()
	now := time.Unix(0, 0)
	put := func(i, size int) {
		c.put(fmt.Sprint(i), &entry{wire: make([]byte, size), stored: now, fresh: time.Minute})
	}
	put(-1, 10)
	for i := range 3 * maxEntries {
		put(i, 10)
		if _, fresh := c.get([]byte("-1"), now); !fresh {
			t.Fatalf("an answer in use was forgotten after %d others", i)
		}
	}
	if len(c.ring) != maxEntries || len(c.byKey) != maxEntries {
		t.Errorf("%d and %d answers", len(c.ring), len(c.byKey))
	}
	for i := range 1000 {
		put(i, 60_000)
	}
	sum := 0
	for _, s := range c.ring {
		if c.byKey[s.key] < 0 || c.ring[c.byKey[s.key]].key != s.key {
			t.Fatal("a key leads to another's answer")
		}
		sum += s.size()
	}
	if sum != c.bytes || sum > maxBytes {
		t.Errorf("%d bytes, counted as %d", sum, c.bytes)
	}
	if _, fresh := c.get([]byte("999"), now.Add(time.Minute)); fresh {
		t.Error("an answer held beyond its time")
	}
}
