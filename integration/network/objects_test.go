package network

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// Ports of the servers of these tests, by TCP and UDP; hostWebPort and hostDatagramPort are those of pods on their node's network.
const (
	webPort, datagramPort         = 8080, 8081
	hostWebPort, hostDatagramPort = 18080, 18081
)

// template is of a server that tells its name, accepts for a while after it was told to end, and asks others on request.
func template(app string) corev1.PodTemplateSpec {
	labels := map[string]string{"app": app}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](10),
			Containers: []corev1.Container{{
				Name: "web", Image: "coracle/demo:v1", Args: []string{"serve", "-udp", fmt.Sprint(datagramPort), "-lame", "2s", "-drain", "3s"},
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: webPort}, {Name: "udp", ContainerPort: datagramPort, Protocol: corev1.ProtocolUDP}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 3,
					ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}},
			}},
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
				LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}},
		},
	}
}

// everywhere makes a DaemonSet of such pods, one a node, and waits for them; change may be nil.
func (s *suite) everywhere(app string, change func(*corev1.PodSpec)) []corev1.Pod {
	s.Helper()
	t := template(app)
	t.Spec.TopologySpreadConstraints = nil
	if change != nil {
		change(&t.Spec)
	}
	_, err := s.kube.AppsV1().DaemonSets(s.ns).Create(s.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t}}, metav1.CreateOptions{})
	s.must(err)
	return s.count(app, len(s.lab.Nodes))
}

// onHosts is everywhere, on the nodes' own networks.
func (s *suite) onHosts(app string) []corev1.Pod {
	s.Helper()
	return s.everywhere(app, func(p *corev1.PodSpec) {
		c := &p.Containers[0]
		p.HostNetwork = true
		c.Args, c.Env, c.Ports = []string{"serve", "-udp", fmt.Sprint(hostDatagramPort)}, []corev1.EnvVar{{Name: "PORT", Value: fmt.Sprint(hostWebPort)}}, nil
		c.ReadinessProbe.HTTPGet.Port = intstr.FromInt32(hostWebPort)
	})
}

// pinned makes one pod of an app on a node.
func (s *suite) pinned(app, node string) {
	s.Helper()
	t := template(app)
	t.Spec.NodeSelector, t.Spec.TopologySpreadConstraints = map[string]string{corev1.LabelHostname: node}, nil
	_, err := s.kube.CoreV1().Pods(s.ns).Create(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: app, Labels: t.Labels}, Spec: t.Spec}, metav1.CreateOptions{})
	s.must(err)
}

// deployment makes one, and waits for its pods.
func (s *suite) deployment(app string, replicas int) []corev1.Pod {
	s.Helper()
	t := template(app)
	_, err := s.kube.AppsV1().Deployments(s.ns).Create(s.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t}}, metav1.CreateOptions{})
	s.must(err)
	return s.count(app, replicas)
}

// count waits until an app has so many pods that are ready, and gives them.
func (s *suite) count(app string, want int) (pods []corev1.Pod) {
	s.Helper()
	s.eventually(func() error {
		if pods = s.pods(app); len(pods) != want {
			return fmt.Errorf("%d pods of %s are ready, want %d", len(pods), app, want)
		}
		return nil
	})
	return pods
}

// service makes one for an app, with port 80 by TCP and 81 by UDP; change may be nil.
func (s *suite) service(name, app string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": app},
		Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("http")},
			{Name: "udp", Port: 81, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("udp")}}}}
	if change != nil {
		change(&service.Spec)
	}
	made, err := s.kube.CoreV1().Services(s.ns).Create(s.ctx, service, metav1.CreateOptions{})
	s.must(err)
	return made
}

// nodePort is the node port of a Service's port, by its name.
func nodePort(service *corev1.Service, name string) int32 {
	for _, p := range service.Spec.Ports {
		if p.Name == name {
			return p.NodePort
		}
	}
	return 0
}

func web(host string, port int32) string { return fmt.Sprintf("http://%s:%d/hostname", host, port) }

func datagram(host string, port int32) string { return fmt.Sprintf("udp://%s:%d/hostname", host, port) }
