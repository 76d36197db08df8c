package apiserver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// guard authenticates by a header and lets nobody but administrators do anything.
type guard struct{}

func (guard) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.Header.Get("Authorization") == "Bearer bad" {
		return nil, false, errors.New("invalid bearer token")
	}
	return auth.NewAuthenticator(nil, nil).AuthenticateRequest(req)
}

func (guard) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	for _, g := range a.GetUser().GetGroups() {
		if g == user.SystemPrivilegedGroup {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// slow keeps creations of one name until it is released, and panics at another.
type slow struct{ entered, release chan struct{} }

func (slow) Name() string { return "slow" }
func (s slow) Mutate(ctx context.Context, r *admission.Request) error {
	switch r.Name {
	case "slow":
		select {
		case s.entered <- struct{}{}:
		default:
		}
		select {
		case <-s.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	case "panic":
		panic("on purpose")
	}
	return nil
}
func (slow) Validate(context.Context, *admission.Request) error { return nil }

func serve(h http.Handler, req *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

func TestChain(t *testing.T) {
	plugin := slow{entered: make(chan struct{}, 1), release: make(chan struct{})}
	s := apiservertest.StartServer(t, apiserver.Config{
		Store: memory.New(), Authenticator: guard{}, Authorizer: guard{}, Admission: plugin,
	})
	const maps = "/api/v1/namespaces/default/configmaps"
	body := func(name string) io.Reader { return strings.NewReader(`{"metadata":{"name":"` + name + `"}}`) }
	check := func(rec *httptest.ResponseRecorder, code int, want string) {
		t.Helper()
		if rec.Code != code || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%d %s, want %d %s", rec.Code, rec.Body, code, want)
		}
	}
	req := httptest.NewRequest("GET", maps, nil)
	check(serve(s.Handler(), req), 403, `configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"`)
	check(serve(s.Handler(), httptest.NewRequest("GET", "/metrics", nil)), 403, `forbidden: User \"system:anonymous\" cannot get path \"/metrics\"`)
	req.Header.Set("Authorization", "Bearer bad")
	check(serve(s.Handler(), req), 401, `"message":"Unauthorized"`)

	check(serve(s.Handler(), httptest.NewRequest("POST", maps, body("panic")).WithContext(admin)), 500, "caused apiserver to panic")
	check(serve(s.Handler(), httptest.NewRequest("POST", maps+"?timeout=10ms", body("slow")).WithContext(admin)), 504, `"reason":"Timeout"`)

	<-plugin.entered
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(serve(s.Handler(), httptest.NewRequest("POST", maps, body("slow")).WithContext(admin)), 201, "slow")
	}()
	<-plugin.entered
	close(plugin.release)
	<-done

	metrics := serve(s.Handler(), httptest.NewRequest("GET", "/metrics", nil).WithContext(admin)).Body.String()
	for _, want := range []string{
		`apiserver_request_total{code="201",component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_current_inflight_requests{request_kind="mutating"} 0`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// TestLocalWatchEnds: closing a watch ends its handler, and ending the server ends the watch.
func TestLocalWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := apiserver.New(ctx, apiserver.Config{Store: memory.New()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	c := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	w1, err := c.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w2, err := c.CoreV1().Pods("").Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w1.Stop()
	waitFor(t, func() bool {
		text := serve(s.Handler(), httptest.NewRequest("GET", "/metrics", nil)).Body.String()
		return strings.Contains(text, `apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 1`)
	})
	cancel()
	for range w2.ResultChan() {
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}

// TestLocalLargeBodies: a body of more than the pipe holds reaches a client that reads slowly.
func TestLocalLargeBodies(t *testing.T) {
	ctx, c := client(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": strings.Repeat("v", 900<<10)},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	l, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(l.Items) != 4 || len(l.Items[3].Data["k"]) != 900<<10 {
		t.Errorf("%d items, %v", len(l.Items), err)
	}
}

func TestPortTaken(t *testing.T) {
	if _, err := apiserver.New(t.Context(), apiserver.Config{Store: memory.New(), Listen: "256.0.0.1:1"}); err == nil {
		t.Error("an address that is none was bound")
	}
	if _, err := apiserver.New(t.Context(), apiserver.Config{}); err == nil {
		t.Error("no store, no error")
	}
}

// TestServiceOfTheServer: default/kubernetes and its endpoints are there, and come back when deleted elsewhere.
func TestServiceOfTheServer(t *testing.T) {
	ctx := t.Context()
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New(), ServiceIP: []byte{10, 96, 0, 1}, Advertise: []byte{192, 0, 2, 1}})
	c := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	svc, err := c.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || svc.Spec.ClusterIP != "10.96.0.1" || svc.Spec.Ports[0].TargetPort.IntVal != 6443 {
		t.Errorf("%+v %v", svc, err)
	}
	slice, err := c.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || slice.Endpoints[0].Addresses[0] != "192.0.2.1" || *slice.Ports[0].Port != 6443 {
		t.Errorf("%+v %v", slice, err)
	}
	if _, err := c.SchedulingV1().PriorityClasses().Get(ctx, "system-node-critical", metav1.GetOptions{}); apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// TestServiceOfDNS: kube-system/kube-dns holds the nodes' own address, no proxy takes it for its own, and one of another DNS becomes it.
func TestServiceOfDNS(t *testing.T) {
	ctx := t.Context()
	config := apiserver.Config{Store: memory.New(), DNSIP: []byte{10, 96, 0, 10}}
	for range 2 { // made, and made again of what CoreDNS had
		s := apiservertest.StartServer(t, config)
		c := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
		services := c.CoreV1().Services("kube-system")
		svc, err := services.Get(ctx, "kube-dns", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if svc.Spec.ClusterIP != "10.96.0.10" || len(svc.Spec.Ports) != 3 || len(svc.Spec.Selector) != 0 || svc.Labels["k8s-app"] != "kube-dns" || svc.Labels["service.kubernetes.io/service-proxy-name"] == "" {
			t.Errorf("%+v", svc)
		}
		slice, err := c.DiscoveryV1().EndpointSlices("kube-system").Get(ctx, "kube-dns", metav1.GetOptions{})
		if err != nil || slice.Endpoints[0].Addresses[0] != "10.96.0.10" || len(slice.Ports) != 3 || *slice.Ports[2].Port != 9153 || slice.Labels["kubernetes.io/service-name"] != "kube-dns" {
			t.Errorf("%+v %v", slice, err)
		}
		svc.Labels, svc.Spec.Selector, svc.Spec.Ports = map[string]string{"theirs": "stays"}, map[string]string{"k8s-app": "kube-dns"}, svc.Spec.Ports[:2]
		if _, err := services.Update(ctx, svc, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
