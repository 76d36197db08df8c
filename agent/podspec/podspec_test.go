package podspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/agent/podspec/fields"
	"github.com/coracle-dev/coracle/agent/runtime"
)

func TestExpand(t *testing.T) {
	lookup := inMap(map[string]string{"A": "1", "B": "$(A)"})
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$(B)": "$(A)", "$$(A)": "$(A)", "$$$(A)": "$1",
		"$(C)": "$(C)", "$(A": "$(A", "a$": "a$", "$A": "$A", "$()": "$()", "$$$$": "$$",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$(B)$")
	f.Fuzz(func(t *testing.T, s string) {
		if got := Expand(s, func(string) (string, bool) { return "", false }); !strings.Contains(s, "$$") && got != s {
			t.Errorf("Expand(%q) = %q without any variable", s, got)
		}
	})
}

func testPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1"},
		Spec: v1.PodSpec{ServiceAccountName: "sa", Containers: []v1.Container{{Name: "app", Image: "demo",
			Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("64Mi")},
				Limits:   v1.ResourceList{v1.ResourceMemory: resource.MustParse("128Mi")}},
		}}},
	}
}

var testFacts = fields.Facts{NodeName: "n1", HostIPs: []string{"192.0.2.1"}, PodIPs: []string{"10.0.0.2"}}

func local(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }

func envSources() Sources {
	return Sources{
		ConfigMaps: map[string]*v1.ConfigMap{"cm": {Data: map[string]string{"k": "v", "a=b": "x"}}},
		Secrets:    map[string]*v1.Secret{"sec": {Data: map[string][]byte{"pw": []byte("x$(A)")}}},
		Services: []*v1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
			Spec: v1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []v1.ServicePort{{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}}}}},
	}
}

func TestEnv(t *testing.T) {
	pod := testPod()
	c := &pod.Spec.Containers[0]
	c.EnvFrom = []v1.EnvFromSource{
		{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: local("cm")}},
		{SecretRef: &v1.SecretEnvSource{LocalObjectReference: local("none"), Optional: new(true)}},
	}
	c.Env = []v1.EnvVar{
		{Name: "A", Value: "a"}, {Name: "B", Value: "$(A)-$(KUBERNETES_SERVICE_HOST)-$(P_k)"},
		{Name: "S", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: local("sec"), Key: "pw"}}},
		{Name: "O", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: local("cm"), Key: "no", Optional: new(true)}}},
		{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
	}
	c.Command = []string{"sh", "-c", "echo $(P_k) $$(A)"}
	cfg, warnings, err := Container(Input{Pod: pod, Container: c, Sources: envSources(), Facts: testFacts, Hostname: "web"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"HOSTNAME=web", "P_k=v", "A=a", "B=a-10.96.0.1-$(P_k)", "S=x$(A)", "IP=10.0.0.2",
		"KUBERNETES_PORT=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
		"KUBERNETES_PORT_443_TCP_PORT=443", "KUBERNETES_PORT_443_TCP_PROTO=tcp", "KUBERNETES_SERVICE_HOST=10.96.0.1",
		"KUBERNETES_SERVICE_PORT=443", "KUBERNETES_SERVICE_PORT_HTTPS=443"}
	if d := cmp.Diff(want, cfg.Env); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"sh", "-c", "echo v $(A)"}, cfg.Command); d != "" {
		t.Error(d)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "[P_a=b]") {
		t.Errorf("warnings %q", warnings)
	}
}

func TestEnvErrors(t *testing.T) {
	pod, src := testPod(), envSources()
	c := &pod.Spec.Containers[0]
	c.Env = []v1.EnvVar{{Name: "S", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: local("sec"), Key: "nokey"}}}}
	if _, _, err := Container(Input{Pod: pod, Container: c, Sources: src}); err == nil || err.Error() != "couldn't find key nokey in Secret shop/sec" {
		t.Errorf("missing key: %v", err)
	}
	delete(src.Secrets, "sec")
	if _, _, err := Container(Input{Pod: pod, Container: c, Sources: src}); err == nil || err.Error() != `secret "sec" not found` {
		t.Errorf("missing secret: %v", err)
	}
}

func TestResourcesAndCgroup(t *testing.T) {
	pod := testPod()
	m := Machine{Memory: 1 << 30, PodPids: 99}
	r := Resources(pod, &pod.Spec.Containers[0], m)
	if d := cmp.Diff(runtime.Resources{CPUShares: 256, MemoryLimit: 128 << 20, OOMScoreAdj: 938}, r); d != "" {
		t.Error(d)
	}
	g := PodCgroup("kubepods", pod, m)
	if d := cmp.Diff(Cgroup{"/kubepods/burstable/podu1", runtime.Resources{CPUShares: 256, MemoryLimit: 128 << 20, PidsLimit: 99}}, g); d != "" {
		t.Error(d)
	}
	pod.Spec.Containers[0].Resources = v1.ResourceRequirements{}
	if g := PodCgroup("kubepods", pod, m); g.Path != "/kubepods/besteffort/podu1" || g.Resources.CPUShares != 2 || g.Resources.MemoryLimit != 0 {
		t.Errorf("cgroup %+v", g)
	}
	lim := v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("1Mi")}
	pod.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: lim, Limits: lim}
	if g := PodCgroup("kubepods", pod, m); g.Path != "/kubepods/podu1" || g.Resources.CPUQuota != 50000 {
		t.Errorf("cgroup %+v", g)
	}
}

func TestResolver(t *testing.T) {
	host := ParseResolver("# x\nnameserver 192.0.2.53\nsearch example.org. corp\noptions timeout:1 ndots:2\n")
	dns := DNS{Servers: []string{"10.96.0.10"}, Domain: "cluster.local"}
	pod := testPod()
	pod.Spec.DNSConfig = &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: new("1")}, {Name: "edns0"}}}
	r, _ := PodResolver(pod, dns, host)
	want := "search shop.svc.cluster.local svc.cluster.local cluster.local example.org corp\nnameserver 10.96.0.10\noptions ndots:1 edns0\n"
	if r.String() != want {
		t.Errorf("got %q, want %q", r.String(), want)
	}
	pod.Spec.DNSConfig, pod.Spec.HostNetwork = nil, true
	if r, _ := PodResolver(pod, dns, host); r.String() != "search example.org corp\nnameserver 192.0.2.53\noptions timeout:1 ndots:2\n" {
		t.Errorf("host network: %q", r.String())
	}
	pod.Spec.DNSPolicy = v1.DNSNone
	pod.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"}}
	if r, w := PodResolver(pod, dns, host); len(r.Nameservers) != 3 || len(w) != 1 {
		t.Errorf("None: %v %v", r, w)
	}
}

func TestSecurity(t *testing.T) {
	pod := testPod()
	c := &pod.Spec.Containers[0]
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: new(int64(5)), RunAsNonRoot: new(true), FSGroup: new(int64(7)), SupplementalGroups: []int64{8},
		SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}
	c.SecurityContext = &v1.SecurityContext{RunAsUser: new(int64(6)), AllowPrivilegeEscalation: new(false),
		Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN"}, Drop: []v1.Capability{"ALL"}}}
	s, err := Security(pod, c, Support{}, nil)
	want := runtime.Security{UID: new(int64(6)), Groups: []int64{8, 7}, RunAsNonRoot: true, NoNewPrivs: true, AddCaps: []string{"NET_ADMIN"},
		DropCaps: []string{"ALL"}, SeccompDefault: true}
	if d := cmp.Diff(want, s); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestHostsAndHostname(t *testing.T) {
	pod := testPod()
	pod.Spec.Subdomain = "sub"
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"x", "y"}}}
	h := HostsFile(pod, []string{"10.0.0.2"}, "cluster.local", "")
	for _, want := range []string{"10.0.0.2\tweb.sub.shop.svc.cluster.local\tweb\n", "192.0.2.9\tx\ty\n", "127.0.0.1\tlocalhost\n"} {
		if !strings.Contains(h, want) {
			t.Errorf("no %q in\n%s", want, h)
		}
	}
	pod.Spec.SetHostnameAsFQDN = new(true)
	if n, err := KernelHostname(pod, "cluster.local"); err != nil || n != "web.sub.shop.svc.cluster.local" {
		t.Error(n, err)
	}
	pod.Name = strings.Repeat("a", 62) + ".b"
	if n, _ := Hostname(pod, ""); n != strings.Repeat("a", 62) {
		t.Error(n)
	}
}
