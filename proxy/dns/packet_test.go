package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestOddPackets: what is no question is dropped, what cannot be read is answered as such, and what is not served is refused.
func TestOddPackets(t *testing.T) {
	w := newWorld(t)
	w.fill()
	good, err := question("web.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, b ...byte) []byte {
		p := slices.Clone(good)
		copy(p[at:], b)
		return p
	}
	packed := func(m *dns.Msg) []byte {
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	class := question("web.default.svc.cluster.local.", dns.TypeA)
	class.Question[0].Qclass = dns.ClassCHAOS
	twoOPT := question("web.default.svc.cluster.local.", dns.TypeA).SetEdns0(1232, false)
	twoOPT.Extra = append(twoOPT.Extra, twoOPT.Extra[0])
	version := question("web.default.svc.cluster.local.", dns.TypeA).SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	cookie := question("web.default.svc.cluster.local.", dns.TypeA).SetEdns0(1232, true)
	cookie.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
	for name, c := range map[string]struct {
		packet []byte
		code   int // -1: dropped
	}{
		"nothing":             {nil, -1},
		"less than a header":  {good[:11], -1},
		"an answer":           {change(2, 0x80), -1},
		"a header alone":      {good[:12], dns.RcodeFormatError},
		"no question":         {change(4, 0, 0), dns.RcodeFormatError},
		"two questions":       {change(4, 0, 2), dns.RcodeFormatError},
		"a cut name":          {good[:20], dns.RcodeFormatError},
		"a cut type":          {good[:len(good)-3], dns.RcodeFormatError},
		"a pointer as a name": {change(12, 0xC0, 12), dns.RcodeFormatError},
		"a long label":        {change(12, 64), dns.RcodeFormatError},
		"records announced":   {change(10, 0, 1), dns.RcodeFormatError},
		"two OPT records":     {packed(twoOPT), dns.RcodeFormatError},
		"an update":           {change(2, dns.OpcodeUpdate<<3), dns.RcodeNotImplemented},
		"EDNS version 1":      {packed(version), dns.RcodeBadVers},
		"class CHAOS":         {packed(class), dns.RcodeRefused},
		"a zone transfer":     {packed(question("cluster.local.", dns.TypeAXFR)), dns.RcodeRefused},
		"a cookie":            {packed(cookie), dns.RcodeSuccess},
		"octets behind it":    {append(slices.Clone(good), 1, 2, 3), dns.RcodeSuccess},
	} {
		out, _ := w.worker.handle(c.packet, podAddr, false)
		if (out == nil) != (c.code < 0) {
			t.Errorf("%s: answered %x", name, out)
			continue
		}
		if out == nil {
			continue
		}
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil || m.Rcode != c.code || !m.Response || m.Id != binary.BigEndian.Uint16(c.packet) {
			t.Errorf("%s: %v %v", name, m, err)
		}
	}
	reply := w.ask(cookie)
	if o := reply.IsEdns0(); o == nil || !o.Do() || o.UDPSize() != maxUDPSize || len(o.Option) != 0 || len(reply.Answer) != 1 {
		t.Errorf("EDNS is answered by %v", reply)
	}
	if reply := w.ask(question("web.default.svc.cluster.local.", dns.TypeA)); reply.IsEdns0() != nil {
		t.Errorf("no EDNS is answered by %v", reply)
	}
}

// many is a headless service with n endpoints.
func (w *world) many(n int) {
	slice := sliceOf(discoveryv1.AddressTypeIPv4, []discoveryv1.EndpointPort{slicePort("sql", corev1.ProtocolTCP, 3306)})
	for i := range n {
		slice.Endpoints = append(slice.Endpoints, endpointOf(netip.AddrFrom4([4]byte{10, 244, byte(i / 256), byte(i)}).String(), fmt.Sprintf("many-%d", i), true))
	}
	w.add("default/many", serviceOf("None", tcp("sql", 3306)), slice)
}

// TestTruncated: an answer never is longer than what the client takes; what is left out of the answer section is told, additional records are not.
func TestTruncated(t *testing.T) {
	w := newWorld(t)
	w.many(200)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV} {
		for _, size := range []uint16{0, 400, 512, 600, 1232, 4096, 65535} {
			m := question("many.default.svc.cluster.local.", qtype)
			limit := minUDPSize
			if size > 0 {
				m.SetEdns0(size, false)
				limit = min(max(int(size), minUDPSize), maxUDPSize)
			}
			packet, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			out, _ := w.worker.handle(packet, podAddr, false)
			reply := new(dns.Msg)
			if err := reply.Unpack(out); err != nil || len(out) > limit || !reply.Truncated || len(reply.Answer) < 3 || (reply.IsEdns0() != nil) != (size > 0) {
				t.Errorf("size %d: %d bytes, truncated %v, %d records, %v", size, len(out), reply.Truncated, len(reply.Answer), err)
			}
		}
		reply := w.ask(question("many.default.svc.cluster.local.", qtype))
		if reply.Truncated || len(reply.Answer) != 200 {
			t.Errorf("by TCP truncated %v, %d records", reply.Truncated, len(reply.Answer))
		}
	}
	few := newWorld(t)
	few.many(8)
	m := question("_sql._tcp.many.default.svc.cluster.local.", dns.TypeSRV).SetEdns0(620, false)
	if reply := few.askFrom(podAddr, m, false); reply.Truncated || len(reply.Answer) != 8 || len(reply.Extra) == 9 {
		t.Errorf("truncated %v, %d answers, %d additional records", reply.Truncated, len(reply.Answer), len(reply.Extra))
	}
}

// TestTurns: each endpoint is the first one now and then, since clients take the first.
func TestTurns(t *testing.T) {
	w := newWorld(t)
	w.many(5)
	next := uint(0)
	w.shift = func() uint { next++; return next }
	first := map[string]int{}
	for range 50 {
		reply := w.ask(question("many.default.svc.cluster.local.", dns.TypeA))
		if len(reply.Answer) != 5 {
			t.Fatalf("%v", reply)
		}
		first[reply.Answer[0].String()]++
	}
	if len(first) != 5 {
		t.Errorf("first came only %v", first)
	}
}

// TestCase: the question comes back as it was asked, which resolvers use to tell true answers from false ones.
func TestCase(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for _, name := range []string{"wEb.dEfAuLt.sVc.ClUsTeR.lOcAl.", "NoThInG.DeFaUlT.svc.cluster.local."} {
		if reply := w.ask(question(name, dns.TypeA)); reply.Question[0].Name != name || len(reply.Answer) > 0 && reply.Answer[0].Header().Name != name {
			t.Errorf("%s: %v", name, reply)
		}
	}
}

// TestNoAllocation: what the cluster knows costs no memory to tell, nor does what it does not know.
func TestNoAllocation(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for _, c := range []struct {
		name  string
		qtype uint16
	}{{"web.default.svc.cluster.local.", dns.TypeA}, {"example.org.default.svc.cluster.local.", dns.TypeAAAA}, {"db.default.svc.cluster.local.", dns.TypeA}, {"_sql._tcp.db.default.svc.cluster.local.", dns.TypeSRV}, {"1.1.96.10.in-addr.arpa.", dns.TypePTR}} {
		packet, err := question(c.name, c.qtype).SetEdns0(1232, false).Pack()
		if err != nil {
			t.Fatal(err)
		}
		fast := w.newWorker(false)
		if n := testing.AllocsPerRun(100, func() {
			if out, later := fast.handle(packet, podAddr, false); out == nil || later {
				t.Error("no answer")
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// TestLongNames: names at the limits of the protocol are read and answered.
func TestLongNames(t *testing.T) {
	w := newWorld(t)
	w.fill()
	label := strings.Repeat("a", 63)
	long := label + "." + label + "." + label + "." + strings.Repeat("a", 61) + "."
	many := strings.Repeat("a.", 126) + "b."
	for _, name := range []string{long, many, label + ".default.svc.cluster.local.", strings.Repeat("a.", 100) + "svc.cluster.local."} {
		if reply := w.ask(question(name, dns.TypeA)); reply.Rcode != dns.RcodeNameError && reply.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %v", name, reply)
		}
	}
}

func FuzzHandle(f *testing.F) {
	w := newWorld(f)
	w.fill()
	for _, m := range []*dns.Msg{
		question("web.default.svc.cluster.local.", dns.TypeA), question("_sql._tcp.db.default.svc.cluster.local.", dns.TypeSRV).SetEdns0(512, true), question("twice.default.svc.cluster.local.", dns.TypeANY),
		question("1.1.96.10.in-addr.arpa.", dns.TypePTR), question("10-244-0-5.default.pod.cluster.local.", dns.TypeA), question("..svc.cluster.local.", dns.TypeA),
	} {
		if packet, err := m.Pack(); err == nil {
			f.Add(packet, true)
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte, overTCP bool) {
		worker := w.newWorker(false)
		out, later := worker.handle(packet, podAddr, overTCP)
		if out == nil {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil {
			t.Fatalf("%x is answered by %x: %v", packet, out, err)
		}
		if later || !m.Response || m.Id != binary.BigEndian.Uint16(packet) || !overTCP && len(out) > maxUDPSize {
			t.Fatalf("%x is answered by %v", packet, m)
		}
	})
}

// FuzzName asks for any name below the zone.
func FuzzName(f *testing.F) {
	w := newWorld(f)
	w.fill()
	for _, name := range []string{"web.default.svc", "_http._tcp.web.default.svc", "10-244-0-5.default.pod", "-.x.pod", "_._.web.default.svc"} {
		f.Add(name, dns.TypeA)
		f.Add(name, dns.TypeSRV)
	}
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		packet, err := question(name+".cluster.local.", qtype).Pack()
		if err != nil {
			return
		}
		worker := w.newWorker(true)
		out, _ := worker.handle(packet, podAddr, true)
		if out == nil {
			t.Fatalf("no answer to %q", name)
		}
		if m := new(dns.Msg); m.Unpack(out) != nil {
			t.Fatalf("%q is answered by %x", name, out)
		}
	})
}

// BenchmarkHandle is what an answer costs besides the system's calls.
func BenchmarkHandle(b *testing.B) {
	w := newWorld(b)
	w.fill()
	for name, m := range map[string]*dns.Msg{
		"address": question("web.default.svc.cluster.local.", dns.TypeA), "nothing": question("web.default.other.svc.cluster.local.", dns.TypeA),
		"headless": question("db.default.svc.cluster.local.", dns.TypeA), "SRV": question("_sql._tcp.db.default.svc.cluster.local.", dns.TypeSRV),
	} {
		packet, err := m.Pack()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			worker := w.newWorker(false)
			b.ReportAllocs()
			for b.Loop() {
				if out, _ := worker.handle(packet, podAddr, false); out == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}
