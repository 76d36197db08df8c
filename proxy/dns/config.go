package dns

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// The ConfigMap that changes what is asked of whom, in namespace kube-system, and its keys. The first two are in the form of
// kube-dns' ConfigMap.
const (
	configName     = "coracle-dns"
	keyStubDomains = "stubDomains"         // a JSON object of domains and lists of servers
	keyUpstream    = "upstreamNameservers" // a JSON list of servers in place of the machine's
	keyHosts       = "hosts"               // lines as in /etc/hosts
)

// settings is what the ConfigMap says.
type settings struct {
	stubs    map[string][]*upstream // by domain in wire form
	upstream []*upstream
	hosts    hosts
}

// hosts are names with addresses of their own.
type hosts struct {
	addrs map[string][]netip.Addr // by name in wire form
	names map[netip.Addr][][]byte
}

// parseSettings reads a ConfigMap; nil is an empty one. Servers in self are refused, since they would ask themselves.
func parseSettings(object *corev1.ConfigMap, self netip.Addr) (*settings, error) {
	s := &settings{}
	if object == nil {
		return s, nil
	}
	for key := range object.Data {
		if key != keyStubDomains && key != keyUpstream && key != keyHosts {
			return nil, fmt.Errorf("unknown key %q: there are %s, %s and %s", key, keyStubDomains, keyUpstream, keyHosts)
		}
	}
	var err error
	if text := object.Data[keyUpstream]; text != "" {
		var list []string
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil, fmt.Errorf("%s: %w; it is a list, as [\"10.0.0.53\"]", keyUpstream, err)
		}
		if s.upstream, err = upstreams(list, self); err != nil {
			return nil, fmt.Errorf("%s: %w", keyUpstream, err)
		}
	}
	if s.stubs, err = parseStubs(object.Data[keyStubDomains], self); err != nil {
		return nil, fmt.Errorf("%s: %w", keyStubDomains, err)
	}
	if s.hosts, err = parseHosts(object.Data[keyHosts]); err != nil {
		return nil, fmt.Errorf("%s: %w", keyHosts, err)
	}
	return s, nil
}

func parseStubs(text string, self netip.Addr) (map[string][]*upstream, error) {
	if text == "" {
		return nil, nil
	}
	var domains map[string][]string
	if err := json.Unmarshal([]byte(text), &domains); err != nil {
		return nil, fmt.Errorf("%w; it is an object of lists, as {\"example.org\": [\"10.0.0.53\"]}", err)
	}
	stubs := make(map[string][]*upstream, len(domains))
	for domain, list := range domains {
		wire := wireName(strings.ToLower(domain))
		if wire == nil || len(wire) == 1 {
			return nil, fmt.Errorf("%q is no domain", domain)
		}
		servers, err := upstreams(list, self)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", domain, err)
		}
		if len(servers) == 0 {
			return nil, fmt.Errorf("%s has no server", domain)
		}
		stubs[string(wire)] = servers
	}
	return stubs, nil
}

// upstreams reads addresses, with ports or without.
func upstreams(list []string, self netip.Addr) ([]*upstream, error) {
	var servers []*upstream
	for _, text := range list {
		host, _, err := net.SplitHostPort(withPort(text))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("%q is no address: a server cannot be known by a name", text)
		}
		if addr.Unmap() == self {
			return nil, fmt.Errorf("%s is the cluster's own DNS", text)
		}
		servers = append(servers, newUpstream(withPort(text)))
	}
	return servers, nil
}

func parseHosts(text string) (hosts, error) {
	h := hosts{addrs: map[string][]netip.Addr{}, names: map[netip.Addr][][]byte{}}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || len(fields) == 1 {
			return hosts{}, fmt.Errorf("%q is no line of an address and names", line)
		}
		for _, name := range fields[1:] {
			wire := wireName(strings.ToLower(name))
			if wire == nil {
				return hosts{}, fmt.Errorf("%q is no name", name)
			}
			h.addrs[string(wire)] = append(h.addrs[string(wire)], addr)
			h.names[addr] = append(h.names[addr], wire)
		}
	}
	return h, lines.Err()
}

// resolvConf is the machine's list of servers, read anew when the file has changed.
type resolvConf struct {
	path string
	self netip.Addr

	mu   sync.Mutex
	read os.FileInfo
	list []*upstream
}

// servers lists them, and tells whether they are others than before. Our own address is left out: asking it would loop.
func (c *resolvConf) servers() (list []*upstream, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := os.Stat(c.path)
	if err != nil {
		return c.list, false // it is replaced just now, or was removed: what it said still counts
	}
	if c.read != nil && os.SameFile(st, c.read) && st.ModTime().Equal(c.read.ModTime()) && st.Size() == c.read.Size() {
		return c.list, false
	}
	config, err := dns.ClientConfigFromFile(c.path)
	if err != nil {
		return c.list, false
	}
	changed = c.read != nil
	c.read, c.list = st, nil
	for _, server := range config.Servers {
		if found, err := upstreams([]string{net.JoinHostPort(server, config.Port)}, c.self); err == nil {
			c.list = append(c.list, found...)
		}
	}
	return c.list, changed
}

// known are those read last.
func (c *resolvConf) known() []*upstream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list
}

// clients are those who may ask for names outside of the cluster.
type clients struct {
	prefixes []netip.Prefix
	own      []netip.Addr

	mu    sync.Mutex
	read  time.Time
	local map[netip.Addr]bool
}

// ownFor is how long the list of the machine's addresses is believed.
const ownFor = 5 * time.Second

// mayForward tells whether an address is a pod's or this machine's. Without any prefix everybody may ask.
func (c *clients) mayForward(from netip.Addr, now time.Time) bool {
	from = from.Unmap()
	if len(c.prefixes) == 0 || from.IsLoopback() {
		return true
	}
	for _, p := range c.prefixes {
		if p.Contains(from) {
			return true
		}
	}
	for _, a := range c.own {
		if a == from {
			return true
		}
	}
	return c.isLocal(from, now)
}

func (c *clients) isLocal(from netip.Addr, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.local == nil || now.Sub(c.read) > ownFor {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return false
		}
		c.local, c.read = map[netip.Addr]bool{}, now
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				c.local[p.Addr()] = true
			}
		}
	}
	return c.local[from]
}
