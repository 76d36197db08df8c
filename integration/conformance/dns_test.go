package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/internal/testenv"
)

// dnsTests are of what pods ask for names, and of what they are told.
var dnsTests = map[string]func(*env){
	"policies and settings make a pod's resolver":              resolvers,
	"a pod may have servers and domains of its own":            ownServers,
	"pods on the node's network find the cluster's names":      hostNetworkNames,
	"a ConfigMap sends domains elsewhere, and Services follow": stubDomains,
	"the Service of DNS leads to the node's own":               dnsService,
}

// resolving is a pod that waits, with this resolver.
func (e *env) resolving(name string, change func(*corev1.PodSpec)) {
	e.Helper()
	pod := onePod(name, corev1.Container{Name: "main", Image: "coracle/demo:v1", Args: []string{"sleep", "100000"}})
	change(&pod.Spec)
	e.create(pod)
	e.until(name, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodRunning {
			return errors.New("not running: " + describe(p))
		}
		return nil
	})
}

func resolvers(e *env) {
	cluster := fmt.Sprintf("search %s.svc.cluster.local svc.cluster.local cluster.local", e.ns)
	own := &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.7"}, Searches: []string{"example.org", "cluster.local"},
		Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}, {Name: "edns0"}}}
	for name, c := range map[string]struct {
		policy corev1.DNSPolicy
		config *corev1.PodDNSConfig
		want   []string
	}{
		"cluster": {corev1.DNSClusterFirst, nil, []string{cluster, "nameserver 10.96.0.10\n", "options ndots:5\n"}},
		"added":   {corev1.DNSClusterFirst, own, []string{cluster, "example.org", "nameserver 10.96.0.10\nnameserver 192.0.2.7\n", "options ndots:2 edns0\n"}},
		"none":    {corev1.DNSNone, own, []string{"search example.org cluster.local\nnameserver 192.0.2.7\noptions ndots:2 edns0\n"}},
	} {
		e.resolving(name, func(s *corev1.PodSpec) { s.DNSPolicy, s.DNSConfig = c.policy, c.config })
		have := e.inside(name, "cat /etc/resolv.conf")
		for _, want := range c.want {
			if !strings.Contains(have, want) {
				e.Errorf("%s: %q has no %q", name, have, want)
			}
		}
	}
	e.resolving("default", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault })
	if have := e.inside("default", "cat /etc/resolv.conf"); strings.Contains(have, "10.96.0.10") {
		e.Errorf("the node's resolver is %q", have)
	}
}

// nameServer answers inside the cluster's network namespace, at port 53 of an address of the loopback, or of the node.
func (e *env) nameServer(address string, records ...string) {
	e.Helper()
	conn, err := e.cluster.ListenPacket("udp", address)
	e.must(err)
	zone := map[dns.Question][]dns.RR{}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		e.must(err)
		q := dns.Question{Name: rr.Header().Name, Qtype: rr.Header().Rrtype, Qclass: dns.ClassINET}
		zone[q] = append(zone[q], rr)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = zone[r.Question[0]]
		if len(m.Answer) == 0 && r.Question[0].Qtype == dns.TypeA {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	e.Cleanup(func() { _ = server.Shutdown() })
}

// found waits until a name in a pod stands for an address.
func (e *env) found(pod, kind, name, want string) {
	e.Helper()
	e.eventually(func() error {
		have, err := e.lookup(pod, kind, name)
		return errors.Join(err, same(name+" is "+have, name+" is "+want))
	})
}

func ownServers(e *env) {
	e.nameServer(e.nodeIP()+":53", "printer.hall.example. 60 IN A 192.0.2.44")
	e.resolving("own", func(s *corev1.PodSpec) {
		s.DNSPolicy = corev1.DNSNone
		s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{e.nodeIP()}, Searches: []string{"hall.example"}}
	})
	e.found("own", "a", "printer", "192.0.2.44")
	e.found("own", "a", "printer.hall.example", "192.0.2.44")
}

func hostNetworkNames(e *env) {
	s := e.service("web", nil)
	e.resolving("host", func(s *corev1.PodSpec) {
		s.HostNetwork, s.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet
	})
	e.found("host", "a", "web", s.Spec.ClusterIP)
	e.found("host", "a", "web."+e.ns+".svc.cluster.local", s.Spec.ClusterIP)
}

// stubDomains changes who is asked while pods ask.
func stubDomains(e *env) {
	e.nameServer("127.0.0.1:5311", "db.corp.example. 60 IN A 192.0.2.11", "www.corp.example. 60 IN CNAME db.corp.example.", "www.corp.example. 60 IN A 192.0.2.11")
	e.nameServer("127.0.0.1:5312", "www.elsewhere.example. 60 IN A 192.0.2.12")
	e.service("out", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName, s.Selector, s.Ports = corev1.ServiceTypeExternalName, "db.corp.example", nil, nil
	})
	e.resolving("asks", func(*corev1.PodSpec) {})
	maps := e.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coracle-dns"}, Data: map[string]string{
		"stubDomains": `{"corp.example": ["127.0.0.1:5311"]}`, "upstreamNameservers": `["127.0.0.1:5312"]`, "hosts": "192.0.2.13 scanner.lan",
	}}
	_, err := maps.Create(e.ctx, config, metav1.CreateOptions{})
	e.must(err)
	e.Cleanup(func() {
		if err := maps.Delete(context.Background(), config.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			e.Error(err)
		}
	})
	e.found("asks", "a", "db.corp.example", "192.0.2.11")
	e.found("asks", "a", "out", "192.0.2.11")
	e.found("asks", "cname", "out", "db.corp.example.")
	e.found("asks", "a", "www.elsewhere.example", "192.0.2.12")
	e.found("asks", "a", "scanner.lan", "192.0.2.13")
	config.Data = map[string]string{"hosts": "192.0.2.14 scanner.lan"}
	_, err = maps.Update(e.ctx, config, metav1.UpdateOptions{})
	e.must(err)
	e.found("asks", "a", "scanner.lan", "192.0.2.14")
	if out, err := e.lookup("asks", "a", "www.elsewhere.example"); err == nil {
		e.Errorf("a server that is not named any more still answers %s", out)
	}
}

func dnsService(e *env) {
	s, err := e.kube.CoreV1().Services(metav1.NamespaceSystem).Get(e.ctx, "kube-dns", metav1.GetOptions{})
	e.must(err)
	equal(e, "address", s.Spec.ClusterIP, "10.96.0.10")
	equal(e, "label", s.Labels["k8s-app"], "kube-dns")
	e.resolving("asks", func(*corev1.PodSpec) {})
	e.found("asks", "a", "kube-dns.kube-system", "10.96.0.10")
	e.found("asks", "srv", "_dns._udp.kube-dns.kube-system.svc.cluster.local", "0 100 53 kube-dns.kube-system.svc.cluster.local.")
	e.found("asks", "ptr", "10.96.0.10", "kube-dns.kube-system.svc.cluster.local.")
	e.found("asks", "txt", "dns-version.cluster.local", "1.1.0")
	const counts = `coredns_dns_requests_total{family="1",proto="udp",server="dns://10.96.0.10:53",type="SRV",view="",zone="."} `
	if have := e.inside("asks", "wget -q -O - http://kube-dns.kube-system:9153/metrics"); !strings.Contains(have, counts) {
		e.Errorf("the metrics of DNS have no %s", counts)
	}
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	e.documentedDNS(nodes.Items[0].Name)
	raw, err := e.kube.CoreV1().RESTClient().Get().Resource("nodes").Name(nodes.Items[0].Name).SubResource("proxy").Suffix("metrics").DoRaw(e.ctx)
	e.must(err)
	if !strings.Contains(string(raw), counts) {
		e.Errorf("the metrics of the node have no %s", counts)
	}
}

// documentedDNS types the commands of docs/dns.md.
func (e *env) documentedDNS(node string) {
	e.Helper()
	data, err := os.ReadFile(filepath.Join(testenv.Repository(), "docs", "dns.md"))
	e.must(err)
	typed := 0
	for line := range strings.Lines(string(data)) {
		command, isCommand := strings.CutPrefix(strings.TrimSpace(line), "$ kubectl ")
		if !isCommand {
			continue
		}
		typed++
		out, err := e.cluster.TryKubectl("", strings.Fields(strings.ReplaceAll(command, "NODE", node))...)
		if err != nil || !strings.Contains(out, "kube-dns") && !strings.Contains(out, "coredns_") {
			e.Errorf("kubectl %s: %v: %s", command, err, out)
		}
	}
	equal(e, "commands in docs/dns.md", typed, 3)
}
