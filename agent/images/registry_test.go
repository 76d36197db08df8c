package images_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

func keyring(t *testing.T, host, user, password string) images.Keyring {
	t.Helper()
	var k images.Keyring
	if err := k.AddSecret("ns/secret-of-"+user+"/uid", dockerConfig(host, user, password)); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestMirror pulls an image of a registry that does not exist through a mirror: private, over TLS with a CA of its own, configured by a
// file that changes between pulls. The registry's own credentials do not go to the mirror.
func TestMirror(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	var mu sync.Mutex
	var users []string
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, sent := r.BasicAuth()
		if sent {
			mu.Lock()
			users = append(users, user)
			mu.Unlock()
		}
		if r.Header.Get("X-Setup") == "" && (password != "right" || r.Header.Get("X-Node") != "n1") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "https://")
	trusted := server.Client().Transport
	push(t, host+"/team/app:v1", img(t, ours, ""), remote.WithTransport(transport(func(r *http.Request) (*http.Response, error) {
		r.Header.Set("X-Setup", "1")
		r.URL.Scheme = "https"
		return trusted.RoundTrip(r)
	})))
	certs := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(certs, "registry.invalid", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := images.New(e.Ctx, images.Config{Client: e.Client, CertsDir: certs, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	const ref = "registry.invalid/team/app:v1"
	pull := func(k images.Keyring) error {
		_, err := store.Pull(e.Ctx, ref, images.PullOptions{Keyring: k})
		return err
	}
	hosts := fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", server.URL)
	write("hosts.toml", hosts)
	both := keyring(t, "registry.invalid", "registry", "secret")
	if err := both.AddSecret("ns/mirror/uid", dockerConfig(host, "mirror", "right")); err != nil {
		t.Fatal(err)
	}
	if err := pull(both); err == nil || !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "no such host") && !strings.Contains(err.Error(), "lookup registry.invalid") {
		t.Errorf("a mirror with an unknown CA: %v", err)
	}
	write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	write("hosts.toml", hosts+"ca = \"ca.pem\"\n[host."+fmt.Sprintf("%q", server.URL)+".header]\nx-node = \"n1\"\n")
	if err := pull(keyring(t, "registry.invalid", "registry", "secret")); err == nil {
		t.Error("pulled without the mirror's credentials")
	}
	mu.Lock()
	if len(users) > 0 {
		t.Errorf("the mirror was sent the credentials of %q", users)
	}
	mu.Unlock()
	if err := pull(both); err != nil {
		t.Error(err)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPrivateImagesAreForThoseWithCredentials: what was pulled with a secret is only for who has it, by what it holds or by its name.
func TestPrivateImagesAreForThoseWithCredentials(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	locked := true
	host := registryServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, _ := r.BasicAuth(); locked && r.Header.Get("X-Setup") == "" && password != "right" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := host + "/private:v1"
	i := img(t, ours, "")
	push(t, ref, i, remote.WithTransport(setup{}))
	digest, err := i.Digest()
	if err != nil {
		t.Fatal(err)
	}
	alice, bob, carol := keyring(t, host, "alice", "right"), keyring(t, host, "bob", "right"), keyring(t, host, "carol", "wrong")
	var rotated images.Keyring
	if err := rotated.AddSecret("ns/secret-of-alice/uid", dockerConfig(host, "alice", "new")); err != nil {
		t.Fatal(err)
	}
	may := func(k images.Keyring, ref string) bool {
		t.Helper()
		got, err := e.Images.Get(e.Ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		return k.MayUse(ref, got)
	}
	pull := func(k images.Keyring) error {
		_, err := e.Images.Pull(e.Ctx, ref, images.PullOptions{Keyring: k})
		return err
	}
	if err := pull(alice); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ref, host + "/private@" + digest.String()} {
		if !may(alice, name) || !may(rotated, name) || may(bob, name) || may(carol, name) || may(images.Keyring{}, name) {
			t.Errorf("%s is not alice's alone", name)
		}
	}
	if err := pull(carol); err == nil || may(carol, ref) {
		t.Errorf("a wrong password: %v", err)
	}
	if err := pull(bob); err != nil || !may(bob, ref) || !may(alice, ref) || may(images.Keyring{}, ref) {
		t.Errorf("after bob's pull: %v", err)
	}
	locked = false
	if err := pull(images.Keyring{}); err != nil || !may(images.Keyring{}, ref) || !may(carol, ref) {
		t.Errorf("after a pull without credentials: %v", err)
	}
	if err := pull(alice); err != nil || !may(carol, ref) {
		t.Errorf("what anyone could pull is private again: %v", err)
	}
}

// TestPullKeepsPins: an imported image stays pinned and free to use where the registry has the same.
func TestPullKeepsPins(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	host := registryServer(t, nil)
	ref := host + "/app:v1"
	push(t, ref, img(t, ours, ""))
	var none images.Keyring
	if _, err := e.Images.Pull(e.Ctx, ref, images.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Images.Pin(e.Ctx, ref, true); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Images.Pull(e.Ctx, ref, images.PullOptions{Keyring: keyring(t, host, "u", "p")}); err != nil || !got.Pinned || !none.MayUse(ref, got) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestStalledPullIsGivenUp has a registry that stops in the middle of a layer.
func TestStalledPullIsGivenUp(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	release := make(chan struct{})
	host := registryServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Setup") == "" && strings.Contains(r.URL.Path, "/blobs/") {
				w.Header().Set("Content-Length", "1000")
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	defer close(release)
	push(t, host+"/slow:v1", img(t, ours, ""), remote.WithTransport(setup{}))
	_, err := e.Images.Pull(e.Ctx, host+"/slow:v1", images.PullOptions{StallAfter: 200 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "the registry has sent nothing for 200ms") {
		t.Errorf("%v", err)
	}
}
