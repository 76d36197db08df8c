package conformance

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// slicesOf are the EndpointSlices of a Service.
func (e *env) slicesOf(service string) ([]discoveryv1.EndpointSlice, error) {
	l, err := e.kube.DiscoveryV1().EndpointSlices(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// endpointed is what a Service's slices hold that is ready, as "pod:port,port"; with is whether its Endpoints must hold the same.
func (e *env) endpointed(service string, want ...string) {
	e.Helper()
	e.eventually(func() error {
		found, err := e.slicesOf(service)
		if err != nil {
			return err
		}
		got := []string{}
		for _, s := range found {
			for _, one := range s.Endpoints {
				if one.Conditions.Ready != nil && *one.Conditions.Ready && one.TargetRef != nil {
					got = append(got, one.TargetRef.Name+":"+slicePorts(s.Ports))
				}
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("slices of %s hold %v, want %v", service, got, want)
		}
		ends, err := e.kube.CoreV1().Endpoints(e.ns).Get(e.ctx, service, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got = []string{}
		for _, s := range ends.Subsets {
			for _, a := range s.Addresses {
				got = append(got, a.TargetRef.Name+":"+subsetPorts(s.Ports))
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("endpoints of %s hold %v, want %v", service, got, want)
		}
		return nil
	})
}

func slicePorts(ports []discoveryv1.EndpointPort) string {
	var all []string
	for _, p := range ports {
		all = append(all, fmt.Sprint(*p.Port))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func subsetPorts(ports []corev1.EndpointPort) string {
	var all []string
	for _, p := range ports {
		all = append(all, fmt.Sprint(p.Port))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// endpointsFollow adds and takes pods; what they answer follows.
func endpointsFollow(e *env) {
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.Ports = append(s.Ports, corev1.ServicePort{Name: "udp", Port: 81, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("udp")})
	})
	e.endpointed("web")
	e.silent(nil, web(s.Spec.ClusterIP, 80))
	a := e.servers("a")[0]
	e.endpointed("web", "a:8080,8081")
	e.answers(a, web("web", 80), "a")
	e.servers("b")
	e.endpointed("web", "a:8080,8081", "b:8080,8081")
	e.answers(a, web("web", 80), "a", "b")
	e.answers(a, fmt.Sprintf("udp://%s:81/hostname", s.Spec.ClusterIP), "a", "b")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "b", metav1.DeleteOptions{}))
	e.endpointed("web", "a:8080,8081")
	e.answers(a, web("web", 80), "a")
	_, err := e.fetch(fmt.Sprintf("http://%s:%d/fail?for=1h", a.Status.PodIP, webPort))
	e.must(err)
	e.endpointed("web")
	e.silent(nil, web(s.Spec.ClusterIP, 80))
	_, err = e.fetch(fmt.Sprintf("http://%s:%d/recover", a.Status.PodIP, webPort))
	e.must(err)
	e.endpointed("web", "a:8080,8081")
	e.answers(nil, web(s.Spec.ClusterIP, 80), "a")
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "a", metav1.DeleteOptions{}))
	e.endpointed("web")
}

// endpointsOfNamedPorts has one name stand for different numbers; each pod is reached at its own. A headless Service has the same.
func endpointsOfNamedPorts(e *env) {
	for name, port := range map[string]int32{"one": 3000, "two": 3001} {
		e.webServer(name, func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PORT", Value: fmt.Sprint(port)}}
			p.Spec.Containers[0].Ports[0].ContainerPort, p.Spec.Containers[0].ReadinessProbe = port, nil
		})
	}
	e.ready("one")
	e.ready("two")
	client := e.onlyClient()
	s := e.service("web", nil)
	e.service("bare", func(s *corev1.ServiceSpec) { s.ClusterIP, s.PublishNotReadyAddresses = corev1.ClusterIPNone, true })
	e.endpointed("web", "one:3000", "two:3001")
	e.endpointed("bare", "one:3000", "two:3001")
	e.answers(client, web(s.Spec.ClusterIP, 80), "one", "two")
	for _, name := range []string{"web", "bare"} {
		found, err := e.slicesOf(name)
		e.must(err)
		for _, slice := range found {
			if slice.Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" || len(slice.OwnerReferences) != 1 || slice.OwnerReferences[0].Kind != "Service" {
				e.Errorf("%s: labels %v, owners %v", name, slice.Labels, slice.OwnerReferences)
			}
		}
		e.must(e.kube.CoreV1().Services(e.ns).Delete(e.ctx, name, metav1.DeleteOptions{}))
		e.sliceless(name)
	}
}

// sliceless waits until a Service has neither slices nor Endpoints.
func (e *env) sliceless(service string) {
	e.Helper()
	e.eventually(func() error {
		found, err := e.slicesOf(service)
		if err == nil && len(found) > 0 {
			err = errors.New(service + " still has slices")
		}
		if err != nil {
			return err
		}
		if _, err = e.kube.CoreV1().Endpoints(e.ns).Get(e.ctx, service, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s still has Endpoints: %w", service, err)
		}
		return nil
	})
}

// onlyClient is a server that no Service of the test selects.
func (e *env) onlyClient() *corev1.Pod {
	e.Helper()
	e.webServer("client", func(p *corev1.Pod) { p.Labels = nil })
	return e.ready("client")
}

func emptySlice(e *env) {
	e.service("none", nil)
	e.eventually(func() error {
		found, err := e.slicesOf("none")
		if err == nil && (len(found) != 1 || len(found[0].Endpoints) != 0) {
			err = fmt.Errorf("slices %v", found)
		}
		if err != nil {
			return err
		}
		ends, err := e.kube.CoreV1().Endpoints(e.ns).Get(e.ctx, "none", metav1.GetOptions{})
		if err == nil && len(ends.Subsets) > 0 {
			err = fmt.Errorf("endpoints %v", ends.Subsets)
		}
		return err
	})
	e.must(e.kube.CoreV1().Services(e.ns).Delete(e.ctx, "none", metav1.DeleteOptions{}))
	e.sliceless("none")
}

// slice makes one by hand, with one address and one named port.
func (e *env) slice(name, service, address, portName string, port int32) {
	e.Helper()
	_, err := e.kube.DiscoveryV1().EndpointSlices(e.ns).Create(e.ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "conformance"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}},
		Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}, metav1.CreateOptions{})
	e.must(err)
}

// listening is a server on another port.
func (e *env) listening(name string, port int) *corev1.Pod {
	e.Helper()
	e.webServer(name, func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PORT", Value: fmt.Sprint(port)}}
		p.Spec.Containers[0].ReadinessProbe = nil
	})
	return e.ready(name)
}

func slicesByHand(e *env) {
	one, two := e.listening("one", 8090), e.listening("two", 8091)
	client := e.onlyClient()
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.Selector = nil
		s.Ports = []corev1.ServicePort{{Name: "first", Port: 80}, {Name: "second", Port: 81}}
	})
	e.slice("web-one", "web", one.Status.PodIP, "first", 8090)
	e.slice("web-two", "web", two.Status.PodIP, "second", 8091)
	for _, from := range []*corev1.Pod{client, nil} {
		e.answers(from, web(s.Spec.ClusterIP, 80), "one")
		e.answers(from, web(s.Spec.ClusterIP, 81), "two")
	}
	e.slice("web-three", "web", two.Status.PodIP, "first", 8091)
	e.answers(client, web(s.Spec.ClusterIP, 80), "one", "two")
	e.must(e.kube.DiscoveryV1().EndpointSlices(e.ns).Delete(e.ctx, "web-one", metav1.DeleteOptions{}))
	e.answers(client, web(s.Spec.ClusterIP, 80), "two")
}

func slicesOfOneAddress(e *env) {
	pod := onePod("both", corev1.Container{Name: "one", Image: "coracle/demo:v1", Env: []corev1.EnvVar{{Name: "PORT", Value: "8090"}}},
		corev1.Container{Name: "two", Image: "coracle/demo:v1", Env: []corev1.EnvVar{{Name: "PORT", Value: "8091"}}})
	e.create(pod)
	both := e.ready("both")
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.Selector = nil
		s.Ports = []corev1.ServicePort{{Name: "first", Port: 80}, {Name: "second", Port: 81}}
	})
	e.slice("web-one", "web", both.Status.PodIP, "first", 8090)
	e.slice("web-two", "web", both.Status.PodIP, "second", 8091)
	client := e.onlyClient()
	for _, from := range []*corev1.Pod{client, nil} {
		e.answers(from, web(s.Spec.ClusterIP, 80), "both")
		e.answers(from, web(s.Spec.ClusterIP, 81), "both")
	}
}

// endpointsLife creates, finds, updates, patches and deletes an Endpoints object; its Service, which selects nothing, follows it.
func endpointsLife(e *env) {
	server, client := e.listening("server", 8090), e.onlyClient()
	s := e.service("mirrored", func(s *corev1.ServiceSpec) { s.Selector = nil })
	objects := e.kube.CoreV1().Endpoints(e.ns)
	w, err := objects.Watch(e.ctx, metav1.ListOptions{LabelSelector: "life=endpoints"})
	e.must(err)
	defer w.Stop()
	//lint:ignore SA1019 the conformance test is of it
	subsets := []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.24"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 80}}}}
	//lint:ignore SA1019 the conformance test is of it
	made, err := objects.Create(e.ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "mirrored", Labels: map[string]string{"life": "endpoints"}}, Subsets: subsets}, metav1.CreateOptions{})
	e.must(err)
	e.sees(w, watch.Added)
	made.Labels["updated"] = "yes"
	_, err = objects.Update(e.ctx, made, metav1.UpdateOptions{})
	e.must(err)
	found, err := e.kube.CoreV1().Endpoints(metav1.NamespaceAll).List(e.ctx, metav1.ListOptions{LabelSelector: "updated=yes,life=endpoints"})
	e.must(err)
	equal(e, "found", len(found.Items), 1)
	patched, err := objects.Patch(e.ctx, "mirrored", types.StrategicMergePatchType, fmt.Appendf(nil,
		`{"subsets":[{"addresses":[{"ip":%q}],"ports":[{"name":"http","port":8090}]}]}`, server.Status.PodIP), metav1.PatchOptions{})
	e.must(err)
	equal(e, "patched", patched.Subsets[0].Addresses[0].IP, server.Status.PodIP)
	e.answers(client, web(s.Spec.ClusterIP, 80), "server")
	e.must(objects.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "life=endpoints"}))
	e.sees(w, watch.Deleted)
	e.silent(client, web(s.Spec.ClusterIP, 80))
	e.sliceless("mirrored")
}

// endpointsLatency measures from the Service's creation to its Endpoints and slice, a hundred times.
func endpointsLatency(e *env) {
	e.servers("a")
	var took []time.Duration
	for i := range 100 {
		name, begin := fmt.Sprint("latency-", i), time.Now()
		e.service(name, nil)
		w, err := e.kube.CoreV1().Endpoints(e.ns).Watch(e.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		e.must(err)
		for {
			//lint:ignore SA1019 what the measure is of
			if ends, ok := e.next(w).Object.(*corev1.Endpoints); ok && len(ends.Subsets) > 0 {
				break
			}
		}
		took = append(took, time.Since(begin))
		w.Stop()
	}
	slices.Sort(took)
	e.Logf("from a Service to its Endpoints: p50 %v, p90 %v, p99 %v", took[50], took[90], took[99])
	if took[50] > 2*time.Second || took[90] > 5*time.Second {
		e.Errorf("p50 %v, p90 %v", took[50], took[90])
	}
}

// drainingServes ends a Service's only pod, which goes on for a while: it is answered all along, and then refused.
func drainingServes(e *env) {
	e.webServer("last", func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
		p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "-lame", "4s")
	})
	e.ready("last")
	client := e.onlyClient()
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	})
	addresses := []string{web(s.Spec.ClusterIP, 80), web(e.nodeIP(), s.Spec.Ports[0].NodePort)}
	for _, a := range addresses {
		e.answers(client, a, "last")
	}
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "last", metav1.DeleteOptions{}))
	e.eventually(func() error {
		found, err := e.slicesOf("web")
		if err != nil {
			return err
		}
		for _, s := range found {
			for _, one := range s.Endpoints {
				if c := one.Conditions; c.Terminating != nil && *c.Terminating && c.Serving != nil && *c.Serving && c.Ready != nil && !*c.Ready {
					return nil
				}
			}
		}
		return errors.New("no endpoint terminates and serves")
	})
	for range 20 {
		for _, a := range addresses {
			if who, err := e.ask(client, a); err != nil || who != "last" {
				e.Errorf("while it drains, %s says %q: %v", a, who, err)
			}
		}
	}
	for _, a := range addresses {
		e.silent(client, a)
	}
}

// serviceNames asks for what the specification promises: of Services, headless ones, their pods, and in short.
func serviceNames(e *env) {
	for _, name := range []string{"one", "two"} {
		e.webServer(name, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "host-"+name, "bare" })
	}
	one, two := e.ready("one"), e.ready("two")
	s := e.service("web", nil)
	e.service("bare", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	ips := []string{one.Status.PodIP, two.Status.PodIP}
	slices.Sort(ips)
	full := ".bare." + e.ns + ".svc.cluster.local"
	for _, c := range []struct{ kind, name, want string }{
		{"a", "web", s.Spec.ClusterIP}, {"a", "web." + e.ns, s.Spec.ClusterIP}, {"a", "web." + e.ns + ".svc", s.Spec.ClusterIP},
		{"a", "web." + e.ns + ".svc.cluster.local", s.Spec.ClusterIP}, {"a", "bare", strings.Join(ips, "\n")}, {"a", "bare." + e.ns + ".svc", strings.Join(ips, "\n")},
		{"a", "host-one.bare", one.Status.PodIP}, {"a", "host-two" + full, two.Status.PodIP},
		{"a", "host-one" + full, one.Status.PodIP}, // its own, from its hosts file as well
		{"a", strings.ReplaceAll(one.Status.PodIP, ".", "-") + "." + e.ns + ".pod", one.Status.PodIP},
		{"srv", "_http._tcp.web." + e.ns + ".svc.cluster.local", "80 web." + e.ns + ".svc.cluster.local."},
		{"srv", "_http._tcp.bare", "8080 host-one" + full + ".\n8080 host-two" + full + "."},
		{"ptr", s.Spec.ClusterIP, "web." + e.ns + ".svc.cluster.local."}, {"a", "kubernetes.default", e.apiAddress()},
	} {
		e.eventually(func() error {
			got, err := e.lookup("one", c.kind, c.name)
			if err != nil {
				return err
			}
			got = regexp.MustCompile(`(?m)^0 \d+ `).ReplaceAllString(got, "") // weights are the server's own
			return same(c.name+" is "+got, c.name+" is "+c.want)
		})
	}
	equal(e, "the pod's own name", strings.TrimSpace(e.inside("one", "hostname")), "host-one")
	if out, err := e.lookup("one", "a", "none.svc.cluster.local"); err == nil {
		e.Errorf("what is not there has the address %s", out)
	}
}

func (e *env) apiAddress() string {
	e.Helper()
	s, err := e.kube.CoreV1().Services("default").Get(e.ctx, "kubernetes", metav1.GetOptions{})
	e.must(err)
	return s.Spec.ClusterIP
}

// furtherRange adds one, takes an address of it, and lets it go; each Service has its IPAddress.
func furtherRange(e *env) {
	ranges := e.kube.NetworkingV1().ServiceCIDRs()
	_, err := ranges.Create(e.ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: e.ns}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.210.7.0/28"}}}, metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error {
		r, err := ranges.Get(e.ctx, e.ns, metav1.GetOptions{})
		if err == nil && (len(r.Status.Conditions) == 0 || r.Status.Conditions[0].Status != metav1.ConditionTrue) {
			err = fmt.Errorf("conditions %v", r.Status.Conditions)
		}
		return err
	})
	server := e.servers("a")[0]
	const address = "10.210.7.5"
	e.service("web", func(s *corev1.ServiceSpec) { s.ClusterIP = address })
	ip, err := e.kube.NetworkingV1().IPAddresses().Get(e.ctx, address, metav1.GetOptions{})
	e.must(err)
	if ref := ip.Spec.ParentRef; ref == nil || ref.Resource != "services" || ref.Namespace != e.ns || ref.Name != "web" {
		e.Errorf("its parent is %+v", ref)
	}
	e.answers(server, web(address, 80), "a")
	e.must(ranges.Delete(e.ctx, e.ns, metav1.DeleteOptions{}))
	r, err := ranges.Get(e.ctx, e.ns, metav1.GetOptions{})
	if err != nil || r.DeletionTimestamp == nil {
		e.Errorf("a range in use goes: %v", err)
	}
	e.must(e.kube.CoreV1().Services(e.ns).Delete(e.ctx, "web", metav1.DeleteOptions{}))
	e.eventually(func() error {
		if _, err := ranges.Get(e.ctx, e.ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the range is still there: %w", err)
		}
		return nil
	})
}
