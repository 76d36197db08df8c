// Package dns answers for the cluster's names from the informers' caches, after the Kubernetes DNS-based
// service discovery specification 1.1, and forwards all other names to the machine's own servers.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/run"
)

// Config is what New needs.
type Config struct {
	// Factory gives Services and EndpointSlices; the caller starts it.
	Factory informers.SharedInformerFactory
	// Addr is the address to serve on, port 53, UDP and TCP.
	Addr netip.Addr
	// Domain is the cluster's, as cluster.local.
	Domain string
	// ResolvConf names the upstream servers; empty: /etc/resolv.conf.
	ResolvConf string
}

// Server answers.
type Server struct {
	cfg      Config
	zone     string // "cluster.local."
	services cache.Indexer
	slices   cache.Indexer
	synced   []cache.InformerSynced
	forward  *forwarder
	log      *slog.Logger
}

// Names of the indexes.
const (
	byService   = "dns-service"   // EndpointSlices by their service's namespace/name
	byClusterIP = "dns-clusterip" // Services by address
	byEndpoint  = "dns-endpoint"  // EndpointSlices by endpoint address
)

// New prepares a Server; call it before the factory is started.
func New(cfg Config) (*Server, error) {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	services := cfg.Factory.Core().V1().Services().Informer()
	slices := cfg.Factory.Discovery().V1().EndpointSlices().Informer()
	if err := services.AddIndexers(cache.Indexers{byClusterIP: clusterIPs}); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	if err := slices.AddIndexers(cache.Indexers{byService: serviceOfSlice, byEndpoint: addressesOfSlice}); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	return &Server{
		cfg:      cfg,
		zone:     dns.Fqdn(strings.ToLower(cfg.Domain)),
		services: services.GetIndexer(),
		slices:   slices.GetIndexer(),
		synced:   []cache.InformerSynced{services.HasSynced, slices.HasSynced},
		forward:  newForwarder(cfg.ResolvConf, cfg.Addr),
		log:      slog.With("component", "dns"),
	}, nil
}

func clusterIPs(obj any) ([]string, error) {
	if s, ok := obj.(*corev1.Service); ok && s.Spec.ClusterIP != corev1.ClusterIPNone {
		return s.Spec.ClusterIPs, nil
	}
	return nil, nil
}

func serviceOfSlice(obj any) ([]string, error) {
	if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelServiceName] != "" {
		return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
	}
	return nil, nil
}

func addressesOfSlice(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	var addrs []string
	for i := range s.Endpoints {
		addrs = append(addrs, s.Endpoints[i].Addresses...)
	}
	return addrs, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil
	}
	addr := netip.AddrPortFrom(s.cfg.Addr, 53).String()
	return run.All(ctx,
		func(ctx context.Context) error { return s.serve(ctx, &dns.Server{Addr: addr, Net: "udp"}) },
		func(ctx context.Context) error { return s.serve(ctx, &dns.Server{Addr: addr, Net: "tcp"}) },
	)
}

func (s *Server) serve(ctx context.Context, server *dns.Server) error {
	server.Handler = s
	done := make(chan error, 1)
	go func() { done <- server.ListenAndServe() }()
	select {
	case err := <-done:
		return fmt.Errorf("dns: %s %s: %w", server.Net, server.Addr, err)
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.ShutdownContext(stop)
		<-done
		return nil
	}
}

// ServeDNS answers one request.
func (s *Server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply := s.answer(request, w.RemoteAddr().Network())
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		reply.Truncate(udpSize(request))
	}
	if err := w.WriteMsg(reply); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("cannot answer", "error", err)
	}
}

func udpSize(request *dns.Msg) int {
	if opt := request.IsEdns0(); opt != nil && opt.UDPSize() > dns.MinMsgSize {
		return int(opt.UDPSize())
	}
	return dns.MinMsgSize
}

func (s *Server) answer(request *dns.Msg, network string) *dns.Msg {
	reply := new(dns.Msg)
	if len(request.Question) != 1 || request.Opcode != dns.OpcodeQuery {
		return reply.SetRcode(request, dns.RcodeNotImplemented)
	}
	question := request.Question[0]
	name := strings.ToLower(question.Name)
	switch {
	case dns.IsSubDomain(s.zone, name):
		return s.cluster(request, question.Name, name, question.Qtype, network)
	case dns.IsSubDomain("in-addr.arpa.", name):
		if records := s.reverse(question.Name, name); len(records) > 0 {
			return s.authoritative(request, records)
		}
	}
	return s.forward.ask(request, network)
}

func (s *Server) authoritative(request *dns.Msg, answers []dns.RR) *dns.Msg {
	reply := new(dns.Msg).SetReply(request)
	reply.Authoritative, reply.RecursionAvailable = true, true
	reply.Answer = answers
	if opt := request.IsEdns0(); opt != nil {
		reply.SetEdns0(opt.UDPSize(), false)
	}
	if len(answers) == 0 {
		reply.Ns = []dns.RR{s.soa()}
	}
	return reply
}

func (s *Server) soa() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: s.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns.dns." + s.zone, Mbox: "hostmaster." + s.zone,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// cluster answers for a name of the cluster's zone. original keeps the letters' case as it was asked.
func (s *Server) cluster(request *dns.Msg, original, name string, qtype uint16, network string) *dns.Msg {
	found, exists := s.lookup(name)
	if !exists {
		reply := s.authoritative(request, nil)
		reply.Rcode = dns.RcodeNameError
		return reply
	}
	if found.alias != "" {
		answers := []dns.RR{&dns.CNAME{Hdr: header(original, dns.TypeCNAME), Target: found.alias}}
		if qtype != dns.TypeCNAME {
			answers = append(answers, s.chase(found.alias, qtype, network)...)
		}
		return s.authoritative(request, answers)
	}
	var answers []dns.RR
	reply := func(extra []dns.RR) *dns.Msg {
		m := s.authoritative(request, answers)
		m.Extra = append(m.Extra, extra...)
		return m
	}
	var extra []dns.RR
	if qtype == dns.TypeA || qtype == dns.TypeANY {
		for _, a := range found.addrs {
			answers = append(answers, &dns.A{Hdr: header(original, dns.TypeA), A: a.AsSlice()})
		}
	}
	if qtype == dns.TypeSRV || qtype == dns.TypeANY {
		for _, srv := range found.srv {
			answers = append(answers, &dns.SRV{Hdr: header(original, dns.TypeSRV), Priority: 0, Weight: 100, Port: srv.port, Target: srv.target})
			extra = append(extra, &dns.A{Hdr: header(srv.target, dns.TypeA), A: srv.addr.AsSlice()})
		}
	}
	if name == s.zone && qtype == dns.TypeSOA {
		answers = append(answers, s.soa())
	}
	if name == "dns-version."+s.zone && qtype == dns.TypeTXT {
		answers = append(answers, &dns.TXT{Hdr: header(original, dns.TypeTXT), Txt: []string{"1.1.0"}})
	}
	return reply(extra)
}

// chase follows an ExternalName to its addresses, within the cluster or outside.
func (s *Server) chase(target string, qtype uint16, network string) []dns.RR {
	query := new(dns.Msg).SetQuestion(target, qtype)
	if dns.IsSubDomain(s.zone, target) {
		if found, exists := s.lookup(strings.ToLower(target)); exists && qtype == dns.TypeA && found.alias == "" {
			var answers []dns.RR
			for _, a := range found.addrs {
				answers = append(answers, &dns.A{Hdr: header(target, dns.TypeA), A: a.AsSlice()})
			}
			return answers
		}
		return nil
	}
	return s.forward.ask(query, network).Answer
}

// ttl of every record, in seconds: short, since endpoints come and go.
const ttl = 5

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}
