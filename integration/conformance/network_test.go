package conformance

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// networkTests are of Services, of what is behind them, and of how pods reach each other, on one node; integration/network has those of several.
var networkTests = map[string]func(*env){
	"a Service of another name becomes one with an address":     externalNameToClusterIP,
	"a Service of another name becomes one with a node port":    externalNameToNodePort,
	"a Service gives its address back for another name":         toExternalName,
	"a node port is reached by name, address and node":          nodePortWorks,
	"affinity keeps a client on its endpoint":                   affinityHolds,
	"affinity is forgotten after its time, and switched":        affinityEnds,
	"a port is served for each protocol alone":                  samePortTwoProtocols,
	"pods and node reach each other by TCP and UDP":             everyWay,
	"a collection of Services is deleted":                       deleteServices,
	"a Service's status is changed":                             serviceStatus,
	"the kubernetes Service leads to the API server":            kubernetesService,
	"pods share a host port with other addresses and protocols": hostPortsSideBySide,
	"names are those of the specification":                      serviceNames,
	"Services take addresses of a range that was added":         furtherRange,
	"endpoints follow the pods of a Service":                    endpointsFollow,
	"endpoints have the ports of each pod":                      endpointsOfNamedPorts,
	"a Service that matches no pods has an empty slice":         emptySlice,
	"slices made by hand hold other addresses and ports":        slicesByHand,
	"slices made by hand hold one address with several ports":   slicesOfOneAddress,
	"an Endpoints object has its life":                          endpointsLife,
	"endpoints come fast":                                       endpointsLatency,
	"endpoints that drain serve where there are no others":      drainingServes,
	"the proxy passes methods, bodies and headers on":           proxyPasses,
	"the proxy speaks TLS to named ports":                       proxyTLS,
	"the proxy rewrites what leads back to it":                  proxyRewrites,
	"the proxy carries WebSockets":                              proxyWebSockets,
	"kubectl proxy and port-forward lead to a Service":          kubectlWays,
}

// Ports on which each server of these tests listens.
const webPort, datagramPort = 8080, 8081

// webServer is a pod that tells its name by HTTP and UDP, and asks others on request; change may be nil.
func (e *env) webServer(name string, change func(*corev1.Pod)) {
	e.Helper()
	p := onePod(name, corev1.Container{Name: "web", Image: "coracle/demo:v1", Args: []string{"serve", "-udp", fmt.Sprint(datagramPort)},
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: webPort}, {Name: "udp", ContainerPort: datagramPort, Protocol: corev1.ProtocolUDP}}})
	p.Labels = map[string]string{"app": "web"}
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(webPort)}}}
	if change != nil {
		change(p)
	}
	e.create(p)
}

// servers are such pods, ready.
func (e *env) servers(names ...string) []*corev1.Pod {
	e.Helper()
	for _, name := range names {
		e.webServer(name, nil)
	}
	pods := make([]*corev1.Pod, len(names))
	for i, name := range names {
		pods[i] = e.ready(name)
	}
	return pods
}

// service makes one for those pods, with port 80; change may be nil.
func (e *env) service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	e.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}}}
	if change != nil {
		change(&s.Spec)
	}
	made, err := e.kube.CoreV1().Services(e.ns).Create(e.ctx, s, metav1.CreateOptions{})
	e.must(err)
	return made
}

// change patches a Service as JSON merges.
func (e *env) change(service, patch string) *corev1.Service {
	e.Helper()
	s, err := e.kube.CoreV1().Services(e.ns).Patch(e.ctx, service, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	e.must(err)
	return s
}

// fetch gets a URL from the node itself, and gives the body.
func (e *env) fetch(address string) (string, error) {
	resp, err := e.cluster.HTTP(5*time.Second, false).Get(address)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return strings.TrimSpace(string(body)), err
}

// ask asks a URL from inside a pod; of no pod, from the node.
func (e *env) ask(from *corev1.Pod, address string) (string, error) {
	if from == nil {
		return e.fetch(address)
	}
	return e.fetch(fmt.Sprintf("http://%s:%d/ask?url=%s", from.Status.PodIP, webPort, url.QueryEscape(address)))
}

// answers waits until exactly these answer at a URL, each of them, in forty questions.
func (e *env) answers(from *corev1.Pod, address string, want ...string) {
	e.Helper()
	slices.Sort(want)
	e.eventually(func() error {
		got, err := e.answering(from, address, 40, len(want))
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s is answered by %v, want %v", address, got, want)
		}
		return err
	})
}

// answering lists who answers at a URL in some questions; it is satisfied early by a number of distinct ones.
func (e *env) answering(from *corev1.Pod, address string, questions, enough int) ([]string, error) {
	got := map[string]bool{}
	for range questions {
		who, err := e.ask(from, address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", address, err)
		}
		if got[who] = true; len(got) == enough && enough > 1 {
			break
		}
	}
	return slices.Sorted(maps.Keys(got)), nil
}

// silent waits until nothing answers at a URL.
func (e *env) silent(from *corev1.Pod, address string) {
	e.Helper()
	e.eventually(func() error {
		if who, err := e.ask(from, address); err == nil {
			return fmt.Errorf("%s is answered by %s", address, who)
		}
		return nil
	})
}

// nodeIP is the address of the one node.
func (e *env) nodeIP() string {
	e.Helper()
	nodes, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	for _, a := range nodes.Items[0].Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	e.Fatal("the node has no address")
	return ""
}

func web(host string, port int32) string { return fmt.Sprintf("http://%s:%d/hostname", host, port) }

func externalName(s *corev1.ServiceSpec) {
	s.Type, s.ExternalName, s.Selector, s.Ports = corev1.ServiceTypeExternalName, "example.com", nil, nil
}

func externalNameToClusterIP(e *env) {
	equal(e, "the address of another name", e.service("web", externalName).Spec.ClusterIP, "")
	pods := e.servers("a", "b")
	s := e.change("web", `{"spec":{"type":"ClusterIP","externalName":null,"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080,"protocol":"TCP"}]}}`)
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == "None" {
		e.Fatalf("no address: %+v", s.Spec)
	}
	e.answers(pods[0], web("web", 80), "a", "b")
	e.answers(pods[0], web(s.Spec.ClusterIP, 80), "a", "b")
}

func externalNameToNodePort(e *env) {
	e.service("web", externalName)
	pods := e.servers("a", "b")
	s := e.change("web", `{"spec":{"type":"NodePort","externalName":null,"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080,"protocol":"TCP"}]}}`)
	if s.Spec.ClusterIP == "" || s.Spec.Ports[0].NodePort == 0 {
		e.Fatalf("no address or port: %+v", s.Spec)
	}
	e.answers(pods[0], web("web", 80), "a", "b")
	e.answers(pods[0], web(s.Spec.ClusterIP, 80), "a", "b")
	e.answers(pods[0], web(e.nodeIP(), s.Spec.Ports[0].NodePort), "a", "b")
}

// toExternalName goes the way back, from both types: nothing is held any longer, and the name leads elsewhere.
func toExternalName(e *env) {
	pods := e.servers("a")
	for _, kind := range []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort} {
		name := strings.ToLower(string(kind))
		s := e.service(name, func(s *corev1.ServiceSpec) { s.Type = kind })
		e.answers(pods[0], web(name, 80), "a")
		e.answers(nil, web(s.Spec.ClusterIP, 80), "a")
		now := e.change(name, `{"spec":{"type":"ExternalName","externalName":"elsewhere.example.com","clusterIP":null,"clusterIPs":null}}`)
		if now.Spec.ClusterIP != "" || len(now.Spec.ClusterIPs) > 0 || len(now.Spec.Ports) > 0 && now.Spec.Ports[0].NodePort != 0 {
			e.Errorf("%s: it keeps %+v", kind, now.Spec)
		}
		e.silent(pods[0], web(s.Spec.ClusterIP, 80))
		if port := s.Spec.Ports[0].NodePort; port != 0 {
			e.silent(pods[0], web(e.nodeIP(), port))
		}
		e.eventually(func() error {
			cname, err := e.lookup("a", "cname", name)
			return errors.Join(err, same(cname, "elsewhere.example.com."))
		})
	}
}

// lookup asks the DNS in a pod for the records of a name; they come sorted, one a line.
func (e *env) lookup(pod, kind, name string) (string, error) {
	out, err := e.cluster.TryKubectl("", "exec", "-n", e.ns, pod, "--", "lookup", "-t", kind, name)
	if err != nil {
		err = fmt.Errorf("lookup %s: %w: %s", name, err, out)
	}
	return strings.TrimSpace(out), err
}

func nodePortWorks(e *env) {
	pods := e.servers("a", "b")
	s := e.service("web", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	port := s.Spec.Ports[0].NodePort
	if port < 30000 || port > 32767 {
		e.Errorf("node port %d", port)
	}
	for _, address := range []string{web("web", 80), web(s.Spec.ClusterIP, 80), web(e.nodeIP(), port)} {
		e.answers(pods[0], address, "a", "b")
	}
	e.answers(nil, web(e.nodeIP(), port), "a", "b")
	e.must(e.kube.CoreV1().Services(e.ns).Delete(e.ctx, "web", metav1.DeleteOptions{}))
	e.silent(pods[0], web(e.nodeIP(), port))
	e.silent(nil, web(e.nodeIP(), port))
}

// oneAnswers waits until a client always meets the same endpoint.
func (e *env) oneAnswers(from *corev1.Pod, address string) {
	e.Helper()
	e.eventually(func() error {
		got, err := e.answering(from, address, 30, 0)
		if err == nil && len(got) != 1 {
			err = fmt.Errorf("%s is answered by %v", address, got)
		}
		return err
	})
}

func affinityHolds(e *env) {
	pods := e.servers("a", "b", "c")
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.Type, s.SessionAffinity = corev1.ServiceTypeNodePort, corev1.ServiceAffinityClientIP
	})
	byNode := web(e.nodeIP(), s.Spec.Ports[0].NodePort)
	e.oneAnswers(pods[0], web("web", 80))
	for _, from := range []*corev1.Pod{pods[0], nil} {
		e.oneAnswers(from, web(s.Spec.ClusterIP, 80))
		e.oneAnswers(from, byNode)
	}
	e.change("web", `{"spec":{"sessionAffinity":"None"}}`)
	e.answers(pods[0], byNode, "a", "b", "c")
	e.change("web", `{"spec":{"sessionAffinity":"ClientIP"}}`)
	e.oneAnswers(pods[0], byNode)
}

// affinityEnds gives a client two seconds: within them it stays, after longer it may go elsewhere, and does at last. A client
// whose endpoint is gone goes to another at once.
func affinityEnds(e *env) {
	pods := e.servers("a", "b", "c")
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](2)}}
	})
	address := web(s.Spec.ClusterIP, 80)
	e.oneAnswers(pods[0], address)
	first, err := e.ask(pods[0], address)
	e.must(err)
	e.eventually(func() error {
		time.Sleep(2500 * time.Millisecond)
		now, err := e.ask(pods[0], address)
		if err == nil && now == first {
			err = errors.New("it stays")
		}
		return err
	})
	e.change("web", `{"spec":{"sessionAffinityConfig":{"clientIP":{"timeoutSeconds":10800}}}}`)
	e.oneAnswers(pods[0], address)
	held, err := e.ask(pods[0], address)
	e.must(err)
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, held, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	client := pods[(slices.IndexFunc(pods, func(p *corev1.Pod) bool { return p.Name == held })+1)%3]
	e.eventually(func() error {
		now, err := e.ask(client, address)
		if err == nil && now == held {
			err = errors.New("the one that is gone answers")
		}
		return err
	})
}

func samePortTwoProtocols(e *env) {
	pods := e.servers("a")
	tcp, udp := `{"name":"tcp","port":80,"targetPort":8080,"protocol":"TCP"}`, `{"name":"udp","port":80,"targetPort":8081,"protocol":"UDP"}`
	s := e.service("web", func(s *corev1.ServiceSpec) {
		s.Ports = []corev1.ServicePort{{Name: "tcp", Port: 80, TargetPort: intstr.FromInt32(webPort), Protocol: corev1.ProtocolTCP},
			{Name: "udp", Port: 80, TargetPort: intstr.FromInt32(datagramPort), Protocol: corev1.ProtocolUDP}}
	})
	byTCP, byUDP := web(s.Spec.ClusterIP, 80), "udp://"+s.Spec.ClusterIP+":80/hostname"
	e.answers(pods[0], byTCP, "a")
	e.answers(pods[0], byUDP, "a")
	e.change("web", `{"spec":{"ports":[`+tcp+`]}}`)
	e.silent(pods[0], byUDP)
	e.answers(pods[0], byTCP, "a")
	e.change("web", `{"spec":{"ports":[`+udp+`]}}`)
	e.silent(pods[0], byTCP)
	e.answers(pods[0], byUDP, "a")
}

// everyWay asks from pods and from the node, of pods and of the node, by both protocols; nothing is translated on the way.
func everyWay(e *env) {
	e.webServer("host", func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].Args = []string{"serve", "-udp", "18081"}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PORT", Value: "18080"}}
		p.Spec.Containers[0].Ports, p.Spec.Containers[0].ReadinessProbe = nil, nil
	})
	pods := e.servers("a", "b")
	host := e.ready("host")
	for _, from := range pods {
		for _, to := range pods {
			e.answers(from, web(to.Status.PodIP, webPort), to.Name)
			e.answers(from, fmt.Sprintf("udp://%s:%d/hostname", to.Status.PodIP, datagramPort), to.Name)
			for _, seen := range []string{fmt.Sprintf("http://%s:%d/clientip", to.Status.PodIP, webPort), fmt.Sprintf("udp://%s:%d/clientip", to.Status.PodIP, datagramPort)} {
				got, err := e.ask(from, seen)
				if address, _, _ := strings.Cut(got, ":"); err != nil || address != from.Status.PodIP {
					e.Errorf("%s is seen as %q by %s: %v", from.Status.PodIP, got, to.Name, err)
				}
			}
		}
		name, err := e.ask(nil, web(host.Status.PodIP, 18080))
		e.must(err)
		e.answers(from, web(host.Status.PodIP, 18080), name)
		e.answers(from, fmt.Sprintf("udp://%s:18081/hostname", host.Status.PodIP), name)
		e.answers(nil, web(from.Status.PodIP, webPort), from.Name)
		e.eventually(func() error { // from the node by UDP: the pod on the node's network asks
			got, err := e.fetch(fmt.Sprintf("http://%s:18080/ask?url=udp://%s:%d/hostname", host.Status.PodIP, from.Status.PodIP, datagramPort))
			return errors.Join(err, same(got, from.Name))
		})
	}
}

func deleteServices(e *env) {
	for i := range 3 {
		name := fmt.Sprint("web-", i)
		e.service(name, nil)
		if i > 0 {
			e.change(name, `{"metadata":{"labels":{"group":"two"}}}`)
		}
	}
	services := e.kube.CoreV1().Services(e.ns)
	all, err := services.List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "before", len(all.Items), 3)
	e.must(e.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(e.ns).DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "group=two"}))
	left, err := services.List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "afterwards", len(left.Items), 1)
	every, err := e.kube.CoreV1().Services(metav1.NamespaceAll).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	if !slices.ContainsFunc(every.Items, func(s corev1.Service) bool { return s.Namespace == e.ns && s.Name == "web-0" }) {
		e.Error("it is not among those of all namespaces")
	}
}

// serviceStatus takes a status through patch, get, update and watch.
func serviceStatus(e *env) {
	services := e.kube.CoreV1().Services(e.ns)
	w, err := services.Watch(e.ctx, metav1.ListOptions{})
	e.must(err)
	defer w.Stop()
	e.service("web", func(s *corev1.ServiceSpec) {
		s.Type, s.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, ptr.To("example.com/nobody")
	})
	patched, err := services.Patch(e.ctx, "web", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}},"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "ingress", patched.Status.LoadBalancer.Ingress[0].IP, "203.0.113.1")
	got, err := e.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(e.ns).Get(e.ctx, "web", metav1.GetOptions{}, "status")
	e.must(err)
	equal(e, "patched", got.GetAnnotations()["patched"], "yes")
	patched.Status.Conditions = append(patched.Status.Conditions, metav1.Condition{Type: "StatusUpdate", Status: metav1.ConditionTrue, Reason: "E2E", LastTransitionTime: metav1.Now()})
	updated, err := services.UpdateStatus(e.ctx, patched, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "conditions", len(updated.Status.Conditions), 1)
	e.change("web", `{"metadata":{"labels":{"static":"true"}}}`)
	e.eventually(func() error {
		s, ok := e.next(w).Object.(*corev1.Service)
		if !ok || s.Labels["static"] != "true" || len(s.Status.Conditions) != 1 {
			return errors.New("the watch has not shown it all")
		}
		return nil
	})
	e.must(services.Delete(e.ctx, "web", metav1.DeleteOptions{}))
}

// kubernetesService is reached from pods and from the node; the API's own endpoints have both forms.
func kubernetesService(e *env) {
	s, err := e.kube.CoreV1().Services("default").Get(e.ctx, "kubernetes", metav1.GetOptions{})
	e.must(err)
	ends, err := e.kube.CoreV1().Endpoints("default").Get(e.ctx, "kubernetes", metav1.GetOptions{})
	e.must(err)
	found, err := e.kube.DiscoveryV1().EndpointSlices("default").List(e.ctx, metav1.ListOptions{LabelSelector: labels.Set{"kubernetes.io/service-name": "kubernetes"}.String()})
	e.must(err)
	if len(ends.Subsets) != 1 || len(ends.Subsets[0].Addresses) == 0 || len(found.Items) == 0 || len(found.Items[0].Endpoints) == 0 {
		e.Fatalf("endpoints %v, slices %v", ends.Subsets, found.Items)
	}
	equal(e, "slices' address", found.Items[0].Endpoints[0].Addresses[0], ends.Subsets[0].Addresses[0].IP)
	equal(e, "slices' port", *found.Items[0].Ports[0].Port, ends.Subsets[0].Ports[0].Port)
	equal(e, "port", s.Spec.Ports[0].Port, 443)
	client := e.onlyClient()
	e.eventually(func() error { // it speaks TLS alone, and says so
		if _, err := e.ask(client, "http://kubernetes.default.svc:443/version"); err == nil || !strings.Contains(err.Error(), "Client sent an HTTP request to an HTTPS server") {
			return fmt.Errorf("from a pod: %w", err)
		}
		return nil
	})
	version, err := e.cluster.TryKubectl("", "get", "--raw", "/version", "--server", "https://"+s.Spec.ClusterIP)
	if err != nil || !strings.Contains(version, "gitVersion") {
		e.Errorf("from the node: %v %s", err, version)
	}
}

// hostPortsSideBySide has three pods with one number: on loopback, on the node's address, and there by UDP. Each answers at its place.
func hostPortsSideBySide(e *env) {
	const port = 25413
	node := e.nodeIP()
	for name, p := range map[string]corev1.ContainerPort{
		"loopback": {ContainerPort: webPort, HostPort: port, HostIP: "127.0.0.1"},
		"node":     {ContainerPort: webPort, HostPort: port, HostIP: node},
		"datagram": {ContainerPort: datagramPort, HostPort: port, HostIP: node, Protocol: corev1.ProtocolUDP},
	} {
		e.webServer(name, func(pod *corev1.Pod) { pod.Spec.Containers[0].Ports = []corev1.ContainerPort{p} })
	}
	for _, name := range []string{"loopback", "node", "datagram"} {
		e.ready(name)
	}
	client := e.servers("client")[0]
	e.answers(nil, web("127.0.0.1", port), "loopback")
	e.answers(nil, web(node, port), "node")
	e.answers(client, web(node, port), "node")
	e.answers(client, fmt.Sprintf("udp://%s:%d/hostname", node, port), "datagram")
}
