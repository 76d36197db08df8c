package dns

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Limits of the answers kept from other servers.
const (
	maxCached  = 10_000
	maxTTL     = 5 * time.Minute
	negTTL     = 10 * time.Second
	askTimeout = 2 * time.Second
)

// forwarder asks the servers of a resolv.conf, and keeps their answers for a while.
type forwarder struct {
	resolvConf string
	self       netip.Addr

	mu      sync.Mutex
	read    time.Time // when the file's servers were read
	servers []string
	cache   map[dns.Question]cached
}

type cached struct {
	msg     *dns.Msg
	expires time.Time
}

func newForwarder(resolvConf string, self netip.Addr) *forwarder {
	return &forwarder{resolvConf: resolvConf, self: self, cache: map[dns.Question]cached{}}
}

// ask gives the first server's answer, or SERVFAIL where none answers.
func (f *forwarder) ask(request *dns.Msg, network string) *dns.Msg {
	question := request.Question[0]
	if m := f.cachedAnswer(request, question); m != nil {
		return m
	}
	client := &dns.Client{Net: network, Timeout: askTimeout}
	for _, server := range f.upstream() {
		answer, _, err := client.Exchange(request, server)
		if err != nil {
			continue
		}
		if answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused {
			continue
		}
		f.keep(question, answer)
		return answer
	}
	return new(dns.Msg).SetRcode(request, dns.RcodeServerFailure)
}

func (f *forwarder) cachedAnswer(request *dns.Msg, question dns.Question) *dns.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept, has := f.cache[question]
	left := time.Until(kept.expires)
	if !has || left <= 0 {
		return nil
	}
	m := kept.msg.Copy()
	m.Id = request.Id
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			rr.Header().Ttl = min(rr.Header().Ttl, uint32(left.Seconds())+1)
		}
	}
	return m
}

func (f *forwarder) keep(question dns.Question, m *dns.Msg) {
	if m.Truncated || (m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError) {
		return
	}
	keepFor := maxTTL
	if len(m.Answer) == 0 {
		keepFor = negTTL
	}
	for _, rr := range m.Answer {
		keepFor = min(keepFor, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if keepFor <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.cache) >= maxCached {
		clear(f.cache) // rare, and cheaper than keeping an order
	}
	f.cache[question] = cached{msg: m.Copy(), expires: time.Now().Add(keepFor)}
}

// upstream lists the servers, read anew when the file changed. Our own address is left out: asking it would loop.
func (f *forwarder) upstream() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, err := os.Stat(f.resolvConf)
	if err != nil {
		return nil
	}
	if st.ModTime().Equal(f.read) {
		return f.servers
	}
	config, err := dns.ClientConfigFromFile(f.resolvConf)
	if err != nil {
		return nil
	}
	f.read, f.servers = st.ModTime(), nil
	for _, server := range config.Servers {
		if addr, err := netip.ParseAddr(server); err == nil && addr != f.self {
			f.servers = append(f.servers, net.JoinHostPort(server, config.Port))
		}
	}
	return f.servers
}
