package faults

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// upstream counts the requests that reach it and answers each with its number, watches with ten lines.
type upstream struct{ reached atomic.Int32 }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := u.reached.Add(1)
	w.Header().Set("Content-Type", "application/json")
	if !isWatch(r) {
		_, _ = io.WriteString(w, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"n`+string('0'+rune(n))+`"}}`)
		return
	}
	for range 10 {
		_, _ = io.WriteString(w, strings.Repeat("x", 2<<10)+"\n")
		w.(http.Flusher).Flush()
		time.Sleep(time.Millisecond)
	}
}

// through gives a client whose requests suffer one fault, always.
func through(t *testing.T, c Chances) (*http.Client, *upstream, string, *Injector) {
	t.Helper()
	u := &upstream{}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	i := NewInjector(1, c)
	return &http.Client{Transport: i.Wrap(http.DefaultTransport)}, u, server.URL, i
}

func TestInjected(t *testing.T) {
	tests := []struct {
		name    string
		c       Chances
		method  string
		reached int32
		code    int // 0: no answer
	}{
		{"nothing", Chances{}, http.MethodPut, 1, http.StatusOK},
		{"conflict", Chances{Conflict: 1}, http.MethodPut, 0, http.StatusConflict},
		{"no conflict of reads", Chances{Conflict: 1}, http.MethodGet, 1, http.StatusOK},
		{"throttle", Chances{Throttle: 1}, http.MethodGet, 0, http.StatusTooManyRequests},
		{"fail", Chances{Fail: 1}, http.MethodPost, 0, http.StatusInternalServerError},
		{"unavailable", Chances{Unavailable: 1}, http.MethodPost, 0, http.StatusServiceUnavailable},
		{"drop", Chances{Drop: 1}, http.MethodPost, 0, 0},
		{"lose the answer", Chances{Lose: 1}, http.MethodPost, 1, 0},
		{"fail after the effect", Chances{FailAfter: 1}, http.MethodPost, 1, http.StatusInternalServerError},
		{"delay", Chances{Delay: 1}, http.MethodPost, 1, http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, u, url, i := through(t, tt.c)
			req, err := http.NewRequestWithContext(t.Context(), tt.method, url+"/api/v1/pods", bytes.NewReader([]byte("{}")))
			if err != nil {
				t.Fatal(err)
			}
			code := 0
			resp, err := client.Do(req)
			if err == nil {
				code = resp.StatusCode
				resp.Body.Close()
			} else if !errors.Is(err, errLost) {
				t.Error(err)
			}
			if tt.name == "fail after the effect" && code == http.StatusGatewayTimeout {
				code = tt.code // the other of the two
			}
			if code != tt.code || u.reached.Load() != tt.reached {
				t.Errorf("code %d, reached %d times: %v", code, u.reached.Load(), i.Counts())
			}
		})
	}
}

func TestStale(t *testing.T) {
	client, u, url, i := through(t, Chances{})
	read := func(query string) string {
		resp, err := client.Get(url + "/api/v1/pods" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	first := read("?resourceVersion=0")
	read("")
	i.mu.Lock()
	i.chances.Stale = 1
	i.mu.Unlock()
	if again := read("?resourceVersion=0&timeoutSeconds=7"); again != first || u.reached.Load() != 2 {
		t.Error("not the earlier answer:", again)
	}
	if newest := read(""); newest == first || u.reached.Load() != 3 {
		t.Error("a read of what there is now got an earlier answer")
	}
}

func TestWatchEnds(t *testing.T) {
	client, _, url, _ := through(t, Chances{CutWatch: 1})
	whole, cut, clean := 0, 0, 0
	for range 40 {
		resp, err := client.Get(url + "/api/v1/pods?watch=true")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			cut++
		case len(body) == 10*(2<<10+1):
			whole++
		default:
			clean++
		}
	}
	if cut < 3 || whole == 40 {
		t.Errorf("%d cut, %d ended early, %d whole", cut, clean, whole)
	}
}

// TestProxy has a client-go client behind the proxy: what it sees of faults is what the API and broken connections look like.
func TestProxy(t *testing.T) {
	u := &upstream{}
	server := httptest.NewServer(u)
	defer server.Close()
	i := NewInjector(1, Chances{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := NewProxy(&rest.Config{Host: server.URL}, listener, i)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := proxy.Kubeconfig(path); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	pods := kubernetes.NewForConfigOrDie(config).CoreV1().Pods("default")
	create := func(c Chances) error {
		i.mu.Lock()
		i.chances = c
		i.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, metav1.CreateOptions{})
		return err
	}
	if err := create(Chances{}); err != nil {
		t.Error(err)
	}
	if err := create(Chances{Fail: 1}); !apierrors.IsInternalError(err) {
		t.Error(err)
	}
	for name, c := range map[string]Chances{"lost": {Lose: 1}, "cut": {CutConnection: 1}} {
		var status apierrors.APIStatus
		if err := create(c); err == nil || errors.As(err, &status) {
			t.Error(name, err)
		}
	}
	if n := u.reached.Load(); n != 2 {
		t.Errorf("%d requests arrived", n)
	}
	i.Off(true)
	if err := create(Chances{Drop: 1}); err != nil {
		t.Error("faults go on:", err)
	}
	i.Apart(true)
	if err := create(Chances{}); err == nil {
		t.Error("traffic goes on")
	}
}
