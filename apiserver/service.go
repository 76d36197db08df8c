package apiserver

import (
	"context"
	"maps"
	"net"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// serviceName is the Service by which pods reach the API server.
const serviceName = "kubernetes"

// port is where the API server is reached at its advertised address.
func (s *Server) port() int32 {
	if s.cfg.AdvertisePort != 0 {
		return int32(s.cfg.AdvertisePort)
	}
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		return int32(a.Port)
	}
	return 6443
}

// dnsServiceName is the Service whose address pods ask for names.
const dnsServiceName = "kube-dns"

// dnsProxyName, as service.kubernetes.io/service-proxy-name, tells every service proxy to leave the Service of DNS alone: its address is each node's
// own, and no rule may lead it elsewhere.
const dnsProxyName = "coracle-dns"

// dnsPorts are those of the Service of DNS, and of its slice.
var dnsPorts = []corev1.ServicePort{
	{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
	{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)},
	{Name: "metrics", Protocol: corev1.ProtocolTCP, Port: 9153, TargetPort: intstr.FromInt32(9153)},
}

// keepDNSService keeps kube-system/kube-dns, which holds the address that every node answers names on, so that it is
// given to no other Service. It has no selector: each node is its own endpoint, by that same address. What users add to it stays; in a cluster that moved
// here, a Service of CoreDNS with a selector becomes ours.
func (s *Server) keepDNSService(ctx context.Context, client kubernetes.Interface) error {
	if s.cfg.DNSIP == nil {
		return nil
	}
	services := client.CoreV1().Services(metav1.NamespaceSystem)
	have, err := services.Get(ctx, dnsServiceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, s.dnsService(), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		return s.keepDNSSlice(ctx, client)
	}
	if err != nil {
		return err
	}
	if have.Labels[labelProxyName] != dnsProxyName || len(have.Spec.Selector) > 0 || !apiequality.Semantic.DeepEqual(have.Spec.Ports, dnsPorts) {
		if have.Labels == nil {
			have.Labels = map[string]string{}
		}
		maps.Copy(have.Labels, s.dnsService().Labels)
		have.Spec.Selector, have.Spec.Ports = nil, dnsPorts
		if _, err := services.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return s.keepDNSSlice(ctx, client)
}

// labelProxyName marks services that a proxy of that name serves, and no other.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

func (s *Server) dnsService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: dnsServiceName, Namespace: metav1.NamespaceSystem, Labels: map[string]string{
			"k8s-app": dnsServiceName, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS", labelProxyName: dnsProxyName}},
		Spec: corev1.ServiceSpec{ClusterIP: s.cfg.DNSIP.String(), Type: corev1.ServiceTypeClusterIP, Ports: dnsPorts},
	}
}

func (s *Server) keepDNSSlice(ctx context.Context, client kubernetes.Interface) error {
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceSystem)
	var ports []discoveryv1.EndpointPort
	for _, p := range dnsPorts {
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &p.Port})
	}
	ready, family := true, discoveryv1.AddressTypeIPv4
	if s.cfg.DNSIP.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	endpoints := []discoveryv1.Endpoint{{Addresses: []string{s.cfg.DNSIP.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}
	have, err := slices.Get(ctx, dnsServiceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: dnsServiceName, Labels: map[string]string{
				discoveryv1.LabelServiceName: dnsServiceName, "k8s-app": dnsServiceName, labelProxyName: dnsProxyName}},
			AddressType: family, Endpoints: endpoints, Ports: ports,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || apiequality.Semantic.DeepEqual(have.Endpoints, endpoints) && apiequality.Semantic.DeepEqual(have.Ports, ports) {
		return err
	}
	have.Endpoints, have.Ports = endpoints, ports
	_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// keepService keeps default/kubernetes with its Endpoints and EndpointSlice.
func (s *Server) keepService(ctx context.Context, client kubernetes.Interface) error {
	if err := s.keepServiceCIDR(ctx, client); err != nil {
		return err
	}
	if s.cfg.ServiceIP == nil {
		return nil
	}
	if err := s.keepServiceObject(ctx, client); err != nil {
		return err
	}
	if s.cfg.Advertise == nil {
		return nil
	}
	return s.publishServers(ctx, client)
}

func (s *Server) keepServiceObject(ctx context.Context, client kubernetes.Interface) error {
	services := client.CoreV1().Services(metav1.NamespaceDefault)
	_, err := services.Get(ctx, serviceName, metav1.GetOptions{ResourceVersion: "0"})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: serviceName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.cfg.ServiceIP.String(), Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(s.port())}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// skipMirror keeps the endpoint controllers' hands off: these objects are the server's.
const skipMirror = discoveryv1.LabelSkipMirror

//lint:ignore SA1019 clients still read it
func (s *Server) serverSubsets(addresses []string) []corev1.EndpointSubset {
	var list []corev1.EndpointAddress
	for _, address := range addresses {
		list = append(list, corev1.EndpointAddress{IP: address})
	}
	//lint:ignore SA1019 clients still read it
	return []corev1.EndpointSubset{{Addresses: list, Ports: []corev1.EndpointPort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: s.port()}}}}
}

func (s *Server) keepEndpoints(ctx context.Context, client kubernetes.Interface, addresses []string) error {
	endpoints := client.CoreV1().Endpoints(metav1.NamespaceDefault)
	want := s.serverSubsets(addresses)
	have, err := endpoints.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		//lint:ignore SA1019 clients still read it
		_, err = endpoints.Create(ctx, &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{skipMirror: "true"}},
			Subsets:    want,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || apiequality.Semantic.DeepEqual(have.Subsets, want) {
		return err
	}
	have.Subsets = want
	_, err = endpoints.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (s *Server) keepSlice(ctx context.Context, client kubernetes.Interface, addresses []string) error {
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	name, proto, port, ready := "https", corev1.ProtocolTCP, s.port(), true
	wantPorts := []discoveryv1.EndpointPort{{Name: &name, Protocol: &proto, Port: &port}}
	var wantEndpoints []discoveryv1.Endpoint
	for _, address := range addresses {
		wantEndpoints = append(wantEndpoints, discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	family := discoveryv1.AddressTypeIPv4
	if s.cfg.Advertise.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	have, err := slices.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{discoveryv1.LabelServiceName: serviceName}},
			AddressType: family, Endpoints: wantEndpoints, Ports: wantPorts,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || apiequality.Semantic.DeepEqual(have.Endpoints, wantEndpoints) && apiequality.Semantic.DeepEqual(have.Ports, wantPorts) {
		return err
	}
	have.Endpoints, have.Ports = wantEndpoints, wantPorts
	_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	return err
}
