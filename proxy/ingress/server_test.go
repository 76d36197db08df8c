package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestRouting(t *testing.T) {
	w := newWorld(t)
	web := w.web(nil)
	for i, name := range []string{"root", "api", "wild", "rest"} {
		address := fmt.Sprintf("10.1.0.%d", i+1)
		w.pod(address+":8080", named(name))
		w.service(name, nil, address)
	}
	w.service("external", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org", Ports: []corev1.ServicePort{{Port: 80}}}
	}, "10.1.0.1")
	w.service("ending", nil, "t10.1.0.1", "n10.1.0.2")
	w.service("starting", nil, "n10.1.0.2")
	w.ingress("a", "a.example.com / root\na.example.com /api api\na.example.com /external external\na.example.com /ending ending\na.example.com /starting starting\na.example.com /none none\n*.example.com / wild")
	for url, want := range map[string]string{
		"http://a.example.com/": "200 root", "http://a.example.com/api/x": "200 api", "http://A.Example.COM/apix": "200 root", "http://b.example.com/api": "200 wild",
		"http://c.b.example.com/": "404 Not Found", "http://example.com/": "404 Not Found", "http://a.example.com/external": "503 Service Unavailable",
		"http://a.example.com/ending": "200 root", "http://a.example.com/starting": "503 Service Unavailable", "http://a.example.com/none": "503 Service Unavailable",
	} {
		w.eventually(web, url, want)
	}
	// Changes of Ingresses, Services, endpoints and classes take effect.
	w.ingress("b", "default rest")
	w.eventually(web, "http://example.com/", "200 rest")
	w.endpoints("starting", "10.1.0.2")
	w.eventually(web, "http://a.example.com/starting", "200 api")
	w.service("none", nil, "10.1.0.3")
	w.eventually(web, "http://a.example.com/none", "200 wild")
	w.ingress("a", "a.example.com /api root")
	w.eventually(web, "http://a.example.com/api", "200 root")
	w.eventually(web, "http://a.example.com/", "200 rest")
	if err := w.client.NetworkingV1().Ingresses("default").Delete(w.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually(web, "http://a.example.com/", "404 Not Found")
	classes := w.client.NetworkingV1().IngressClasses()
	if err := classes.Delete(w.Context(), "coracle", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until(func() error { return refused(w.server.cfg.HTTPPort) })
	w.class("coracle", "coracle.dev/ingress")
	w.eventually(web, "http://a.example.com/api", "200 root")
}

// refused is nil where nobody listens.
func refused(port int) error {
	conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return nil
	}
	_ = conn.Close()
	return fmt.Errorf("somebody listens on port %d", port)
}

// TestListensOnlyForIngresses: without Ingresses of ours no port is listened on, without certificates not the one for HTTPS. A port that somebody
// else has is told of in an event, and taken when it is free.
func TestListensOnlyForIngresses(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	w := newWorld(t, func(c *Config) { c.HTTPPort = other.Addr().(*net.TCPAddr).Port })
	secure := w.server.cfg.HTTPSPort
	w.pod("10.1.0.1:8080", named("web"))
	w.service("web", nil, "10.1.0.1")
	if err := refused(secure); err != nil {
		t.Error(err)
	}
	w.ingress("web", "- / web")
	w.until(func() error {
		return eventOf(w.client, "web", "PortNotAvailable", "node n1 cannot listen, and tries again: listen tcp "+other.Addr().String())
	})
	if err := refused(secure); err != nil {
		t.Error(err)
	}
	_ = other.Close()
	w.eventually(w.web(nil), "http://any/", "200 web")
	w.ingress("web", "- / web\ntls -\n@ssl-redirect false")
	w.eventually(w.web(nil), "https://any/", "200 web")
	w.eventually(w.web(nil), "http://any/", "200 web")
	if err := w.client.NetworkingV1().Ingresses("default").Delete(w.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{w.server.cfg.HTTPPort, secure} {
		w.until(func() error { return refused(port) })
	}
}

// eventOf is nil where an Ingress has an event whose message begins with a text.
func eventOf(client kubernetes.Interface, ingress, reason, text string) error {
	all, err := client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	var seen []string
	for i := range all.Items {
		e := &all.Items[i]
		if e.InvolvedObject.Kind == "Ingress" && e.InvolvedObject.Name == ingress && e.Reason == reason && strings.HasPrefix(e.Message, text) {
			return nil
		}
		seen = append(seen, e.InvolvedObject.Name+": "+e.Reason+": "+e.Message)
	}
	return fmt.Errorf("no event %s %q, but %q", reason, text, seen)
}

// TestDrain: requests that are on their way end well when the Server does, and no new ones are taken.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	arrived, goOn := make(chan bool), make(chan bool)
	w.pod("10.1.0.1:8080", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- true
			<-goOn
		}
		named("done").ServeHTTP(rw, r)
	}))
	w.service("web", nil, "10.1.0.1")
	w.ingress("web", "- / web")
	web := w.web(nil)
	w.eventually(web, "http://x/", "200 done")
	answer := make(chan error, 1)
	go func() {
		got, err := get(web, "http://x/slow")
		if err == nil && got != "200 done" {
			err = errors.New(got)
		}
		answer <- err
	}()
	<-arrived
	ended := make(chan bool)
	go func() { w.stop(); close(ended) }()
	w.until(func() error { return refused(w.server.cfg.HTTPPort) })
	select {
	case <-ended:
		t.Error("it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if err := <-answer; err != nil {
		t.Error(err)
	}
	<-ended
}
