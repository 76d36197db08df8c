// Package apiservertest boots the real API server inside a test's process, so that no component is tested
// against a fake one.
package apiservertest

import (
	"context"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// Admin is who Start's clients are.
var Admin = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}

// Start serves the API on a memory store without a listener until the test ends, and waits until it is ready.
// The configuration reaches it in-process as a cluster administrator.
func Start(t testing.TB) *restclient.Config {
	t.Helper()
	return StartServer(t, apiserver.Config{Store: memory.New()}).LocalConfig(Admin)
}

// StartServer serves a configuration until the test ends, and waits until it is ready.
func StartServer(t testing.TB, cfg apiserver.Config) *apiserver.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := apiserver.New(ctx, cfg)
	if err != nil {
		cancel()
		t.Fatalf("apiserver: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("apiserver: %v", err)
		}
	})
	ready, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	if err := s.WaitReady(ready); err != nil {
		t.Fatalf("apiserver not ready: %v", err)
	}
	return s
}
