package ingress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
)

func TestWebSocket(t *testing.T) {
	w, _ := simple(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, append([]byte("echo "), data...)) != nil {
				return
			}
		}
	}), "tls -\n@ssl-redirect false")
	dialer := websocket.Dialer{NetDialContext: w.web(nil).Transport.(*http.Transport).DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	for _, url := range []string{"ws://x/", "wss://x/"} {
		var conn *websocket.Conn
		w.until(func() (err error) {
			conn, _, err = dialer.DialContext(t.Context(), url, nil)
			return err
		})
		// The connection stays when the Ingress changes.
		w.ingress("other", "other.example.com / web\n")
		for _, text := range []string{"one", "two"} {
			if err := conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := conn.ReadMessage(); err != nil || string(got) != "echo "+text {
				t.Fatalf("%s: %q, %v", url, got, err)
			}
		}
		_ = conn.Close()
	}
}

// TestGRPC: calls and streams end to end over HTTP/2, by TLS and without, with trailers.
func TestGRPC(t *testing.T) {
	w := newWorld(t)
	srv, checks := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(srv, checks)
	checks.SetServingStatus("there", healthpb.HealthCheckResponse_SERVING)
	w.pod("10.1.0.1:8080", srv, func(s *httptest.Server) {
		s.Config.Protocols = &http.Protocols{}
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	})
	w.service("grpc", func(s *corev1.Service) { app := "kubernetes.io/h2c"; s.Spec.Ports[0].AppProtocol = &app }, "10.1.0.1")
	w.ingress("grpc", "- / grpc\ntls -\n@ssl-redirect false")
	w.until(func() error {
		if refused(w.server.cfg.HTTPPort) == nil || refused(w.server.cfg.HTTPSPort) == nil {
			return errors.New("not served yet")
		}
		return nil
	})
	for port, creds := range map[int]credentials.TransportCredentials{
		w.server.cfg.HTTPPort: insecure.NewCredentials(), w.server.cfg.HTTPSPort: credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),
	} {
		conn, err := grpc.NewClient(fmt.Sprint("127.0.0.1:", port), grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := healthpb.NewHealthClient(conn)
		if got, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "there"}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "absent"}); status.Code(err) != codes.NotFound {
			t.Errorf("the status in the trailer is %v", err)
		}
		checks.SetServingStatus("there", healthpb.HealthCheckResponse_SERVING)
		stream, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "there"})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
			if got, err := stream.Recv(); err != nil || got.Status != want {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
			checks.SetServingStatus("there", healthpb.HealthCheckResponse_NOT_SERVING)
		}
		checks.SetServingStatus("there", healthpb.HealthCheckResponse_SERVING)
	}
}
