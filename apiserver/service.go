package apiserver

import (
	"context"
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

// keepDNSService keeps kube-system/kube-dns, which holds the address that every node answers names on, so that it is
// given to no other Service. It has no endpoints: each node is its own.
func (s *Server) keepDNSService(ctx context.Context, client kubernetes.Interface) error {
	if s.cfg.DNSIP == nil {
		return nil
	}
	services := client.CoreV1().Services(metav1.NamespaceSystem)
	_, err := services.Get(ctx, dnsServiceName, metav1.GetOptions{ResourceVersion: "0"})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: dnsServiceName, Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": dnsServiceName, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "Coracle"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.cfg.DNSIP.String(), Type: corev1.ServiceTypeClusterIP,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53},
			},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
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
	if err := s.keepEndpoints(ctx, client); err != nil {
		return err
	}
	return s.keepSlice(ctx, client)
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

func (s *Server) keepEndpoints(ctx context.Context, client kubernetes.Interface) error {
	endpoints := client.CoreV1().Endpoints(metav1.NamespaceDefault)
	//lint:ignore SA1019 clients still read it
	want := []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: s.cfg.Advertise.String()}},
		Ports:     []corev1.EndpointPort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: s.port()}},
	}}
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

func (s *Server) keepSlice(ctx context.Context, client kubernetes.Interface) error {
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	name, proto, port, ready := "https", corev1.ProtocolTCP, s.port(), true
	wantPorts := []discoveryv1.EndpointPort{{Name: &name, Protocol: &proto, Port: &port}}
	wantEndpoints := []discoveryv1.Endpoint{{
		Addresses: []string{s.cfg.Advertise.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
	}}
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
