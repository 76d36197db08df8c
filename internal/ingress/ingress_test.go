package ingress

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestOurs(t *testing.T) {
	served := func(class string) bool { return class == "coracle" || class == "inside" }
	for _, c := range []struct {
		field, annotation string
		want              bool
	}{
		{"coracle", "", true}, {"inside", "", true}, {"nginx", "", false}, {"", "coracle", true}, {"", "inside", true}, {"", "nginx", false}, {"", "", false},
		{"nginx", "coracle", false}, {"coracle", "nginx", true},
	} {
		i := &networkingv1.Ingress{}
		if c.field != "" {
			i.Spec.IngressClassName = &c.field
		}
		if c.annotation != "" {
			i.Annotations = map[string]string{ClassAnnotation: c.annotation}
		}
		if got := Ours(i, served); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
	old := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{ClassAnnotation: ClassName}}}
	if !Ours(old, func(string) bool { return false }) {
		t.Error("the annotation names the controller, whether or not there is a class of that name")
	}
}

func TestNamesSecret(t *testing.T) {
	i := &networkingv1.Ingress{Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{Hosts: []string{"a"}}, {SecretName: "cert"}}}}
	if !NamesSecret(i, "cert") || NamesSecret(i, "other") || NamesSecret(i, "") {
		t.Error("wrong")
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          bool
	}{
		{"a.example.com", "a.example.com", true}, {"a.example.com", "b.example.com", false}, {"*.example.com", "a.example.com", true}, {"*.example.com", "*.example.com", true},
		{"*.example.com", "example.com", false}, {"*.example.com", "a.b.example.com", false}, {"*.example.com", ".example.com", false}, {"a.example.com", "*.example.com", false},
		{"*.example.com", "", false}, {"a", "", false},
	} {
		if got := Covers(c.pattern, c.host); got != c.want {
			t.Errorf("%q covers %q: %t", c.pattern, c.host, got)
		}
	}
}

func service(name, port string, number int32) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Name: port, Number: number}}}
}

func path(p string, kind networkingv1.PathType, b networkingv1.IngressBackend) networkingv1.HTTPIngressPath {
	return networkingv1.HTTPIngressPath{Path: p, PathType: &kind, Backend: b}
}

func TestParse(t *testing.T) {
	def := service("rest", "", 80)
	i := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", CreationTimestamp: metav1.Unix(100, 0), Annotations: map[string]string{
			"nginx.ingress.kubernetes.io/affinity": "cookie", "nginx.ingress.kubernetes.io/session-cookie-name": "stay", "nginx.ingress.kubernetes.io/rewrite-target": "/",
			"ingress.coracle.dev/backend-protocol": "grpc", "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS", "ingress.coracle.dev/proxy-read-timeout": "soon", "other/x": "y",
		}},
		Spec: networkingv1.IngressSpec{
			DefaultBackend: &def,
			TLS:            []networkingv1.IngressTLS{{Hosts: []string{"A.example.com", "*.Example.org"}, SecretName: "cert"}},
			Rules: []networkingv1.IngressRule{
				{Host: "A.example.com", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{
					path("/x/", networkingv1.PathTypePrefix, service("x", "http", 0)),
					path("/x/", networkingv1.PathTypeExact, service("y", "", 81)),
					path("", networkingv1.PathTypeImplementationSpecific, networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}),
				}}}},
				{Host: "all.example.com"},
			},
		},
	}
	got, problems := Parse(i)
	want := &Rules{
		Key: types.NamespacedName{Namespace: "ns", Name: "web"}, Age: 100, Default: &Backend{Service: "rest", Number: 80},
		Paths: []Path{
			{Host: "a.example.com", Path: "/x", Backend: Backend{Service: "x", Port: "http"}},
			{Host: "a.example.com", Path: "/x/", Exact: true, Backend: Backend{Service: "y", Number: 81}},
			{Host: "a.example.com"},
			{Host: "all.example.com", Backend: Backend{Service: "rest", Number: 80}},
		},
		TLS:     []TLS{{Hosts: []string{"a.example.com", "*.example.org"}, Secret: "cert"}},
		Options: Options{Redirect: true, Protocol: H2C, Cookie: "stay", ReadTimeout: time.Minute},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	wantProblems := []Problem{
		{ReasonAnnotation, `annotation ingress.coracle.dev/proxy-read-timeout: "soon": want a number of seconds`},
		{ReasonAnnotation, "annotation nginx.ingress.kubernetes.io/rewrite-target has no effect here"},
		{ReasonResourceBackend, "spec.rules[0].http.paths[2]: a backend that is no Service cannot be served"},
	}
	if !reflect.DeepEqual(problems, wantProblems) {
		t.Errorf("%q", problems)
	}
	for host, secured := range map[string]bool{"a.example.com": true, "b.example.org": true, "all.example.com": false, "": false} {
		if got.Secured(host) != secured {
			t.Errorf("%q: secured %t", host, !secured)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        func(*Options)
		problem     string
	}{
		{"ssl-redirect", "false", func(o *Options) { o.Redirect = false }, ""},
		{"force-ssl-redirect", "true", func(o *Options) { o.ForceRedirect = true }, ""},
		{"ssl-redirect", "no", nil, `"no": want true or false`},
		{"backend-protocol", "GRPCS", func(o *Options) { o.Protocol = HTTPS }, ""},
		{"backend-protocol", "HTTP", func(o *Options) { o.Protocol = HTTP }, ""},
		{"backend-protocol", "FCGI", nil, `"FCGI": want HTTP, HTTPS, H2C, GRPC or GRPCS`},
		{"affinity", "cookie", func(o *Options) { o.Cookie = "INGRESSCOOKIE" }, ""},
		{"affinity", "ip", nil, `"ip": want cookie`},
		{"session-cookie-name", "mine", nil, ""}, // of no use without affinity
		{"session-cookie-name", "a b", nil, `"a b" is no name of a cookie`},
		{"proxy-read-timeout", "600", func(o *Options) { o.ReadTimeout = 10 * time.Minute }, ""},
		{"proxy-read-timeout", "0", nil, `"0": want a number of seconds`},
	} {
		want := Options{Redirect: true, ReadTimeout: time.Minute}
		if c.want != nil {
			c.want(&want)
		}
		for _, prefix := range []string{OwnPrefix, CommonPrefix} {
			got, problems := parseOptions(map[string]string{prefix + c.name: c.value})
			if got != want {
				t.Errorf("%s %s: %+v", c.name, c.value, got)
			}
			if c.problem == "" != (len(problems) == 0) || c.problem != "" && problems[0].Message != "annotation "+prefix+c.name+": "+c.problem {
				t.Errorf("%s %s: %q", c.name, c.value, problems)
			}
		}
	}
}

func TestProtocolOf(t *testing.T) {
	for app, want := range map[string]Protocol{"kubernetes.io/h2c": H2C, "kubernetes.io/ws": HTTP, "kubernetes.io/wss": HTTPS, "https": HTTPS, "HTTPS": HTTPS, "http": HTTP, "grpc": H2C, "example.com/x": HTTP} {
		if got := ProtocolOf(&app); got != want {
			t.Errorf("%s: %s", app, got)
		}
	}
	if ProtocolOf(nil) != HTTP {
		t.Error("none is not http")
	}
}
