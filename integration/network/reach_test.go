package network

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// testReach asks everything from everywhere.
func (s *suite) testReach() {
	s.everywhere("client", nil)
	s.everywhere("web", nil)
	s.onHosts("host")
	s.all = s.places("client")
	s.parallel(map[string]func(*suite){
		"every pod reaches every pod, and is seen as itself":            everyPod,
		"pods and nodes reach each other":                               podsAndNodes,
		"a cluster address is reached from pods and nodes":              clusterAddress,
		"a node port is reached at every node":                          nodePortEverywhere,
		"a node port with local endpoints keeps the client's address":   nodePortLocal,
		"a Service with the internal policy Local stays on its node":    internalLocal,
		"an external address is reached":                                externalAddress,
		"a load balancer's address is reached from outside":             loadBalancer,
		"names are known on every node":                                 namesEverywhere,
		"affinity holds on every node":                                  affinityEverywhere,
		"a host port is the node's":                                     hostPort,
		"the API server proxies to every node":                          proxied,
		"an endpoint that comes and goes is known on all nodes in time": endpointsOnAll,
	})
}

// expect asks from each place until the answers are exactly the wanted ones: one question at a time, until each of them has answered.
func (s *suite) expect(from []*place, url string, want ...string) {
	s.Helper()
	slices.Sort(want)
	var err error
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err = each(from, func(p *place) error {
			got, err := s.answering(p, url, len(want))
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("%s is answered at %s by %v, want %v", url, p.name, got, want)
			}
			return err
		})
		if err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		s.Fatal(err)
	}
}

// answering lists who answers somewhere, in forty questions or until there are enough.
func (s *suite) answering(p *place, url string, enough int) ([]string, error) {
	got := map[string]bool{}
	for range 40 {
		who, err := p.ask(s, url)
		if err != nil {
			return nil, err
		}
		if got[who] = true; len(got) >= enough {
			break
		}
	}
	return slices.Sorted(maps.Keys(got)), nil
}

// silent expects that nothing answers at any of the places.
func (s *suite) silent(from []*place, url string) {
	s.Helper()
	err := each(from, func(p *place) error {
		if who, err := p.ask(s, url); err == nil {
			return fmt.Errorf("%s is answered at %s by %s", url, p.name, who)
		}
		return nil
	})
	if err != nil {
		s.Error(err)
	}
}

// everyPod goes through all pairs, pods on one node included, by both protocols: nothing is translated between them.
func everyPod(s *suite) {
	from := s.inPods()
	to := append(s.pods("web"), s.pods("client")...)
	s.must(each(from, func(p *place) error {
		var errs []error
		for _, pod := range to {
			for url, want := range map[string]string{
				web(pod.Status.PodIP, webPort): pod.Name, datagram(pod.Status.PodIP, datagramPort): pod.Name,
				fmt.Sprintf("http://%s:%d/clientip", pod.Status.PodIP, webPort):     p.address,
				fmt.Sprintf("udp://%s:%d/clientip", pod.Status.PodIP, datagramPort): p.address,
			} {
				got, err := p.ask(s, url)
				if strings.HasSuffix(url, "clientip") {
					got, _, _ = strings.Cut(got, ":")
				}
				if err == nil && got != want {
					err = fmt.Errorf("%s says to %s %q, want %q", url, p.name, got, want)
				}
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}))
}

func podsAndNodes(s *suite) {
	from, inside := s.all, s.inCluster()
	for _, pod := range s.pods("web") {
		s.expect(inside, web(pod.Status.PodIP, webPort), pod.Name)
		s.expect(inside, datagram(pod.Status.PodIP, datagramPort), pod.Name)
	}
	for _, pod := range s.pods("host") {
		s.expect(from, web(pod.Status.HostIP, hostWebPort), pod.Spec.NodeName)
		s.expect(from, datagram(pod.Status.HostIP, hostDatagramPort), pod.Spec.NodeName)
	}
}

// inCluster are the places that have the cluster's network.
func (s *suite) inCluster() []*place {
	s.Helper()
	return s.which(func(p *place) bool { return p.node != "" })
}

func (s *suite) inPods() []*place { return s.which(func(p *place) bool { return p.pod != nil }) }

func (s *suite) on(node string) []*place {
	return s.which(func(p *place) bool { return p.node == node })
}

func (s *suite) which(ok func(*place) bool) []*place {
	return slices.DeleteFunc(slices.Clone(s.all), func(p *place) bool { return !ok(p) })
}

func clusterAddress(s *suite) {
	service := s.service("web", "web", nil)
	want := names(s.pods("web"))
	s.expect(s.inCluster(), web(service.Spec.ClusterIP, 80), want...)
	s.expect(s.inCluster(), datagram(service.Spec.ClusterIP, 81), want...)
	host := s.service("host", "host", func(spec *corev1.ServiceSpec) {
		spec.Ports[0].TargetPort.IntVal, spec.Ports[0].TargetPort.Type = hostWebPort, 0
		spec.Ports = spec.Ports[:1]
	})
	s.expect(s.inCluster(), web(host.Spec.ClusterIP, 80), s.lab.Nodes...)
	version, err := s.inCluster()[0].ask(s, "http://10.96.0.1:443/version")
	if err == nil || !strings.Contains(err.Error(), "HTTP request to an HTTPS server") {
		s.Errorf("the API server's address: %s %v", version, err)
	}
}

func nodePortEverywhere(s *suite) {
	service := s.service("web-port", "web", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	want, from := names(s.pods("web")), s.all
	for _, ip := range s.nodeIPs() {
		s.expect(from, web(ip, nodePort(service, "http")), want...)
	}
	s.expect(from, datagram(s.nodeIPs()[s.lab.Nodes[1]], nodePort(service, "udp")), want...)
}

// nodePortLocal has one endpoint, on the first node: there, outside's address is seen; elsewhere outside meets nobody, but pods are served.
func nodePortLocal(s *suite) {
	first, second := s.lab.Nodes[0], s.lab.Nodes[1]
	s.pinned("local", first)
	service := s.service("local", "local", func(spec *corev1.ServiceSpec) {
		spec.Type, spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	})
	s.count("local", 1)
	port, ips, outside := nodePort(service, "http"), s.nodeIPs(), s.outside()
	s.expect([]*place{outside}, web(ips[first], port), "local")
	s.expect([]*place{outside}, datagram(ips[first], nodePort(service, "udp")), "local")
	seen, err := outside.ask(s, fmt.Sprintf("http://%s:%d/clientip", ips[first], port))
	s.must(err)
	if address, _, _ := strings.Cut(seen, ":"); address != outside.address {
		s.Errorf("outside is seen as %s, want %s", seen, outside.address)
	}
	s.silent([]*place{outside}, web(ips[second], port))
	s.expect(s.inCluster(), web(service.Spec.ClusterIP, 80), "local")
	s.expect(s.on(second), web(ips[second], port), "local") // what comes from the node itself is not from outside
}

func internalLocal(s *suite) {
	service := s.service("inside", "web", func(spec *corev1.ServiceSpec) {
		spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	})
	for _, pod := range s.pods("web") {
		s.expect(s.on(pod.Spec.NodeName), web(service.Spec.ClusterIP, 80), pod.Name)
	}
	s.pinned("alone", s.lab.Nodes[0])
	one := s.service("alone", "alone", func(spec *corev1.ServiceSpec) {
		spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	})
	s.count("alone", 1)
	s.expect(s.on(s.lab.Nodes[0]), web(one.Spec.ClusterIP, 80), "alone")
	s.silent(s.on(s.lab.Nodes[1]), web(one.Spec.ClusterIP, 80))
}

// externalAddress is one that nobody has; outside it is routed to a node.
func externalAddress(s *suite) {
	const address = "198.51.100.7"
	s.service("external", "web", func(spec *corev1.ServiceSpec) { spec.ExternalIPs = []string{address} })
	want := names(s.pods("web"))
	out, err := s.lab.Command("ip", "route", "add", address, "via", s.nodeIPs()[s.lab.Nodes[2]]).CombinedOutput()
	if err != nil {
		s.Fatalf("route: %v\n%s", err, out)
	}
	s.expect(append(s.inPods(), s.outside()), web(address, 80), want...)
}

func loadBalancer(s *suite) {
	s.service("balanced", "web", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeLoadBalancer })
	var address string
	s.eventually(func() error {
		service, err := s.kube.CoreV1().Services(s.ns).Get(s.ctx, "balanced", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(service.Status.LoadBalancer.Ingress) == 0 {
			return errors.New("no address")
		}
		address = service.Status.LoadBalancer.Ingress[0].IP
		return nil
	})
	s.expect(s.all, web(address, 80), names(s.pods("web"))...)
}

// namesEverywhere asks the DNS on each node, from pods, in short and in full, and at the Services' names.
func namesEverywhere(s *suite) {
	service := s.service("named", "web", nil)
	s.service("bare", "web", func(spec *corev1.ServiceSpec) { spec.ClusterIP = corev1.ClusterIPNone })
	var ips []string
	for _, p := range s.pods("web") {
		ips = append(ips, p.Status.PodIP)
	}
	slices.Sort(ips)
	pods := s.inPods()
	s.expect(pods, "http://named/hostname", names(s.pods("web"))...)
	s.expect(pods, "http://bare:8080/hostname", names(s.pods("web"))...)
	s.must(each(pods, func(p *place) error {
		var errs []error
		for name, want := range map[string]string{"named": service.Spec.ClusterIP, "named." + s.ns + ".svc.cluster.local": service.Spec.ClusterIP,
			"bare": strings.Join(ips, "\n"), "kubernetes.default": "10.96.0.1"} {
			out, err := s.lab.TryKubectl("", "exec", "-n", s.ns, p.name, "--", "lookup", name)
			if got := strings.TrimSpace(out); err == nil && got != want {
				err = fmt.Errorf("%s: %s is %q, want %q", p.name, name, got, want)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}))
}

func affinityEverywhere(s *suite) {
	service := s.service("sticky", "web", func(spec *corev1.ServiceSpec) {
		spec.SessionAffinity, spec.Type = corev1.ServiceAffinityClientIP, corev1.ServiceTypeNodePort
	})
	from := func(p *place) string {
		if p.node == "" {
			return web(s.nodeIPs()[s.lab.Nodes[0]], nodePort(service, "http"))
		}
		return web(service.Spec.ClusterIP, 80)
	}
	s.eventually(func() error { // the rules are there
		return each(s.all, func(p *place) error {
			_, err := p.ask(s, from(p))
			return err
		})
	})
	s.must(each(s.all, func(p *place) error {
		got, err := s.answering(p, from(p), 2)
		if err == nil && len(got) != 1 {
			err = fmt.Errorf("%s is answered at %s by %v", from(p), p.name, got)
		}
		return err
	}))
}

// hostPort is reached at its own node's address from everywhere, and at no other's.
func hostPort(s *suite) {
	const port = 25000
	t := template("door")
	t.Spec.NodeSelector = map[string]string{corev1.LabelHostname: s.lab.Nodes[1]}
	t.Spec.Containers[0].Ports[0].HostPort = port
	_, err := s.kube.CoreV1().Pods(s.ns).Create(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "door", Labels: t.Labels}, Spec: t.Spec}, metav1.CreateOptions{})
	s.must(err)
	s.count("door", 1)
	from, ips := s.all, s.nodeIPs()
	s.expect(from, web(ips[s.lab.Nodes[1]], port), "door")
	s.silent([]*place{s.outside()}, web(ips[s.lab.Nodes[0]], port))
}

func proxied(s *suite) {
	for _, pod := range append(s.pods("web"), s.pods("host")...) {
		port := webPort
		want := pod.Name
		if pod.Spec.HostNetwork {
			port, want = hostWebPort, pod.Spec.NodeName
		}
		body, err := s.kube.CoreV1().RESTClient().Get().AbsPath(fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/hostname", s.ns, pod.Name, port)).DoRaw(s.ctx)
		if got := strings.TrimSpace(string(body)); err != nil || got != want {
			s.Errorf("pod %s: %q, %v", pod.Name, got, err)
		}
		body, err = s.kube.CoreV1().RESTClient().Get().AbsPath(fmt.Sprintf("/api/v1/nodes/%s:%d/proxy/hostname", pod.Spec.NodeName, hostWebPort)).DoRaw(s.ctx)
		if got := strings.TrimSpace(string(body)); err != nil || got != pod.Spec.NodeName {
			s.Errorf("node %s: %q, %v", pod.Spec.NodeName, got, err)
		}
	}
}

// endpointsOnAll makes a pod ready and not ready, and asks on each node.
func endpointsOnAll(s *suite) {
	s.pinned("switched", s.lab.Nodes[0])
	pod := s.count("switched", 1)[0]
	service := s.service("switched", "switched", nil)
	from := s.inCluster()
	url := web(service.Spec.ClusterIP, 80)
	s.expect(from, url, "switched")
	_, err := from[0].ask(s, fmt.Sprintf("http://%s:%d/fail?for=1h", pod.Status.PodIP, webPort))
	s.must(err)
	s.eventually(func() error {
		return each(from, func(p *place) error {
			if who, err := p.ask(s, url); err == nil || !strings.Contains(err.Error(), "refused") {
				return fmt.Errorf("%s at %s: %q, %w", url, p.name, who, err)
			}
			return nil
		})
	})
	_, err = from[0].ask(s, fmt.Sprintf("http://%s:%d/recover", pod.Status.PodIP, webPort))
	s.must(err)
	s.expect(from, url, "switched")
}
