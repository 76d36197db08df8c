package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	own := prometheus.NewGauge(prometheus.GaugeOpts{Name: "own_metric", Help: "h"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, address, own) }()
	get := func(path string) string {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			resp, err := http.Get("http://" + address + path)
			if err != nil {
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
				continue
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	if body := get("/metrics"); !strings.Contains(body, "own_metric 0") || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %.300s", body)
	}
	if body := get("/healthz"); body != "ok" {
		t.Errorf("healthz: %s", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Serve(t.Context(), "0.0.0.0:0"); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("everywhere: %v", err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := Serve(ended, ""); err != nil {
		t.Errorf("nowhere: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for address, ok := range map[string]bool{"127.0.0.1:10257": true, "[::1]:1": true, "10.0.0.1:1": false, "localhost:1": false, ":1": false, "127.0.0.1": false} {
		if err := Check(address); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}
