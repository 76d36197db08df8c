package podspec

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// ServiceEnv is the environment that tells a container of the services of its namespace, and always of the API server.
func ServiceEnv(pod *v1.Pod, services []*v1.Service) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	chosen := map[string]*v1.Service{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		master := s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes"
		own := s.Namespace == pod.Namespace && links
		if own || master && (chosen[s.Name] == nil || chosen[s.Name].Namespace != pod.Namespace) {
			chosen[s.Name] = s
		}
	}
	env := map[string]string{}
	for _, s := range chosen {
		addService(env, s)
	}
	return env
}

func addService(env map[string]string, s *v1.Service) {
	prefix, ip := envName(s.Name), s.Spec.ClusterIP
	env[prefix+"_SERVICE_HOST"] = ip
	env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		if p.Name != "" {
			env[prefix+"_SERVICE_PORT_"+envName(p.Name)] = strconv.Itoa(int(p.Port))
		}
		protocol := "TCP"
		if p.Protocol != "" {
			protocol = string(p.Protocol)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, strconv.Itoa(int(p.Port)))
		if i == 0 {
			env[prefix+"_PORT"] = url
		}
		port := fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Port, protocol)
		env[port] = url
		env[port+"_PROTO"] = strings.ToLower(protocol)
		env[port+"_PORT"] = strconv.Itoa(int(p.Port))
		env[port+"_ADDR"] = ip
	}
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
