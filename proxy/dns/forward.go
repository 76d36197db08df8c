package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// Patience with other servers: a client waits 5 s in all.
const (
	tryTimeout = 2 * time.Second
	askTimeout = 4500 * time.Millisecond
	// downFor is how long a server that does not answer is asked last; then one question tries it again.
	downFor = 5 * time.Second
	// maxAsked is how many questions may wait for other servers at a time.
	maxAsked = 1000
)

// loopLabel ends the names by which a server that leads back here is found out.
var loopLabel = []byte("coracle-loop-check")

// upstream is one server that is asked.
type upstream struct {
	addr    string // with port
	token   string // the name that is asked of it to find out whether it leads back here
	loops   atomic.Bool
	checked atomic.Bool
	fails   atomic.Int32
	retry   atomic.Int64 // when a server that does not answer may be tried again, in Unix nanoseconds
}

func newUpstream(addr string) *upstream {
	var token [8]byte
	_, _ = rand.Read(token[:]) // never fails
	return &upstream{addr: addr, token: hex.EncodeToString(token[:])}
}

// may tells whether a question should go to the server before others that do not answer.
func (u *upstream) may(now time.Time) bool {
	retry := u.retry.Load()
	if retry == 0 {
		return true
	}
	return now.UnixNano() >= retry && u.retry.CompareAndSwap(retry, now.Add(downFor).UnixNano())
}

// forwarder asks other servers, and keeps their answers for a while.
type forwarder struct {
	settings *atomic.Pointer[settings]
	resolver *resolvConf
	cache    *answers
	metrics  *Metrics
	flights  singleflight.Group
	now      func() time.Time
	log      *slog.Logger
}

// request is a question to other servers.
type request struct {
	key    string // in the cache
	name   string // in wire form
	qtype  uint16
	do, cd bool
}

// ask gives other servers' answer: one that was kept and is past its time, where none answers, or a failure. Equal
// questions at the same time are asked once.
func (f *forwarder) ask(r request) *entry {
	result, _, _ := f.flights.Do(r.key, func() (any, error) {
		now := f.now()
		kept, fresh := f.cache.get([]byte(r.key), now)
		if fresh {
			return kept, nil
		}
		e, err := f.exchange(r)
		if err != nil {
			f.log.Debug("no server answers", "name", wireText(r.name), "error", err)
		}
		switch failed := e == nil || e.wire[3]&0xF == dns.RcodeServerFailure; {
		case failed && kept != nil && now.Before(kept.until):
			f.metrics.stale.Inc()
			e = kept.revive(f.now())
		case e == nil:
			e = failure(r.name, r.qtype, f.now())
		}
		if e.fresh > 0 {
			f.cache.put(r.key, e)
		}
		return e, nil
	})
	e, _ := result.(*entry)
	return e
}

func failedEntry(e *entry) bool {
	code := e.wire[3] & 0xF
	return code != dns.RcodeSuccess && code != dns.RcodeNameError
}

var errNoServers = errors.New("there is no upstream nameserver")

// exchange asks the servers in order, those that did not answer of late last.
func (f *forwarder) exchange(r request) (*entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	servers := f.servers(r.name)
	now := f.now()
	var last []*upstream
	var refused *entry
	errs := []error{errNoServers}
	try := func(u *upstream) *entry {
		e, err := f.one(ctx, u, r)
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		if failedEntry(e) {
			refused = e
			return nil
		}
		return e
	}
	for _, u := range servers {
		f.checkLoop(u)
		switch {
		case u.loops.Load():
		case !u.may(now):
			last = append(last, u)
		default:
			if e := try(u); e != nil {
				return e, nil
			}
		}
	}
	for _, u := range last {
		if e := try(u); e != nil {
			return e, nil
		}
	}
	if refused != nil {
		return refused, nil
	}
	if len(errs) > 1 {
		errs = errs[1:]
	}
	return nil, errors.Join(errs...)
}

// servers are those that a name is asked of: its stub domain's, those of the configuration, or the machine's.
func (f *forwarder) servers(wire string) []*upstream {
	s := f.settings.Load()
	if len(s.stubs) > 0 {
		n := nameOf([]byte(wire))
		for i := range n.labels {
			if servers, has := s.stubs[string(n.from(i))]; has {
				return servers
			}
		}
	}
	if len(s.upstream) > 0 {
		return s.upstream
	}
	servers, changed := f.resolver.servers()
	if changed {
		f.cache.clear()
	}
	return servers
}

// one asks one server, by TCP where its answer does not fit into a datagram.
func (f *forwarder) one(ctx context.Context, u *upstream, r request) (*entry, error) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id(), RecursionDesired: true, CheckingDisabled: r.cd},
		Question: []dns.Question{{Name: wireText(r.name), Qtype: r.qtype, Qclass: dns.ClassINET}}}
	m.SetEdns0(maxUDPSize, r.do)
	begun := time.Now()
	answer, err := f.exchangeUDP(ctx, u, m)
	f.metrics.asked(u.addr, answer, err, time.Since(begun))
	if err != nil {
		if u.fails.Add(1) >= 2 { // one datagram may be lost
			if u.retry.Swap(f.now().Add(downFor).UnixNano()) == 0 {
				f.log.Warn("upstream nameserver does not answer", "server", u.addr, "error", err)
			}
			f.metrics.failed(u.addr)
		}
		return nil, err
	}
	u.fails.Store(0)
	u.retry.Store(0)
	return f.entry(answer)
}

func (f *forwarder) exchangeUDP(ctx context.Context, u *upstream, m *dns.Msg) (*dns.Msg, error) {
	udp := &dns.Client{Net: "udp", UDPSize: maxUDPSize, Timeout: tryTimeout}
	answer, _, err := udp.ExchangeContext(ctx, m, u.addr)
	if err == nil && answer.Rcode == dns.RcodeFormatError && answer.IsEdns0() == nil {
		m.Extra = nil // a server from before EDNS
		answer, _, err = udp.ExchangeContext(ctx, m, u.addr)
	}
	if err != nil {
		return nil, err
	}
	if answer.Truncated {
		tcp := &dns.Client{Net: "tcp", Timeout: tryTimeout}
		if whole, _, err := tcp.ExchangeContext(ctx, m, u.addr); err == nil {
			answer = whole
		}
	}
	if len(answer.Question) != 1 || !strings.EqualFold(answer.Question[0].Name, m.Question[0].Name) || answer.Question[0].Qtype != m.Question[0].Qtype {
		return nil, errors.New("answers another question")
	}
	return answer, nil
}

// entry makes an answer one of ours: in one form, and without what is between that server and us.
func (f *forwarder) entry(m *dns.Msg) (*entry, error) {
	extra := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			extra = append(extra, rr)
		}
	}
	m.Extra, m.Compress = extra, true
	m.Rcode &= 0xF
	d, denial := holds(m)
	wire, err := m.Pack()
	if err != nil {
		return nil, err
	}
	e := &entry{wire: wire, denial: denial, stored: f.now(), fresh: d}
	if d > 0 && !failedEntry(e) {
		e.until = e.stored.Add(d + staleFor)
	}
	return e, nil
}

// checkLoop asks a server once for a name that only comes back here if the server leads here.
func (f *forwarder) checkLoop(u *upstream) {
	if u.checked.Swap(true) {
		return
	}
	go func() {
		m := new(dns.Msg).SetQuestion(u.token+"."+string(loopLabel)+".", dns.TypeHINFO)
		_, _, _ = (&dns.Client{Timeout: tryTimeout}).Exchange(m, u.addr)
	}()
}

// looped hears that a server asked us what we asked it.
func (f *forwarder) looped(token string) {
	s := f.settings.Load()
	all := [][]*upstream{s.upstream, f.resolver.known()}
	for _, servers := range s.stubs {
		all = append(all, servers)
	}
	for _, servers := range all {
		for _, u := range servers {
			if u.token == token && !u.loops.Swap(true) {
				f.log.Error("upstream nameserver asks us in turn, and is not asked any more; name the network's own server", "server", u.addr)
			}
		}
	}
}

// wireText is the text of a name in wire form.
func wireText(wire string) string {
	text, _, err := dns.UnpackDomainName([]byte(wire), 0)
	if err != nil {
		return "."
	}
	return text
}

func withPort(server string) string {
	if _, _, err := net.SplitHostPort(server); err == nil {
		return server
	}
	return net.JoinHostPort(server, "53")
}
