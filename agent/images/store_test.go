package images_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/coracle-dev/coracle/agent/images"
	"github.com/coracle-dev/coracle/agent/runtime/runtimetest"
)

const ours, foreign = runtime.GOARCH, "s390x"

func TestMain(m *testing.M) { runtimetest.Main(m) }

// img is a small image for a platform.
func img(t *testing.T, arch, user string) v1.Image {
	t.Helper()
	i, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	file, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config.User = "linux", arch, user
	if i, err = mutate.ConfigFile(i, file); err != nil {
		t.Fatal(err)
	}
	return i
}

// registryServer serves an in-process registry behind a guard and returns its host.
func registryServer(t *testing.T, guard func(http.Handler) http.Handler) string {
	t.Helper()
	var h http.Handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if guard != nil {
		h = guard(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, ref string, i v1.Image, opts ...remote.Option) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, i, opts...); err != nil {
		t.Fatal(err)
	}
}

func TestPull(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	host := registryServer(t, nil)
	i := img(t, ours, "1000:1000")
	push(t, host+"/team/app:v1", i)
	var last images.Progress
	got, err := e.Images.Pull(e.Ctx, host+"/team/app:v1", images.PullOptions{Progress: func(p images.Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	config, _ := i.ConfigName()
	digest, _ := i.Digest()
	if got.ID != config.String() || got.User != "1000:1000" || got.UID == nil || *got.UID != 1000 || got.Pinned || last.Total == 0 || last.Done != last.Total {
		t.Errorf("%+v, progress %+v", got, last)
	}
	if again, err := e.Images.Get(e.Ctx, host+"/team/app@"+digest.String()); err != nil || again.ID != got.ID {
		t.Errorf("by digest: %+v %v", again, err)
	}
	if again, err := e.Images.Get(e.Ctx, got.ID); err != nil || len(again.Names) != 1 || len(again.Digests) != 1 || again.Digests[0] != host+"/team/app@"+digest.String() {
		t.Errorf("by ID: %+v %v", again, err)
	}
	_, err = e.Images.Pull(e.Ctx, host+"/team/none:v1", images.PullOptions{})
	want := fmt.Sprintf("failed to pull and unpack image %q: failed to resolve reference %q: ", host+"/team/none:v1", host+"/team/none:v1")
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "not found") || !errors.Is(err, images.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	if _, err = e.Images.Pull(e.Ctx, "UPPER", images.PullOptions{}); err == nil || !strings.Contains(err.Error(), "couldn't parse image name") {
		t.Errorf("a bad name: %v", err)
	}
	if err := e.Images.Remove(e.Ctx, host+"/team/app:v1"); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Images.List(e.Ctx); err != nil || len(list) != 0 {
		t.Errorf("left after removal: %+v %v", list, err)
	}
	if err := e.Images.Remove(e.Ctx, "nothing"); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("removal of nothing: %v", err)
	}
}

func TestPullChoosesThePlatform(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	host := registryServer(t, nil)
	mine, other := img(t, ours, ""), img(t, foreign, "")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: foreign}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: ours}}})
	ref, err := name.ParseReference(host + "/multi:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	got, err := e.Images.Pull(e.Ctx, host+"/multi:v1", images.PullOptions{})
	config, _ := mine.ConfigName()
	if err != nil || got.ID != config.String() {
		t.Errorf("%+v %v", got, err)
	}
	push(t, host+"/other:v1", other)
	// An image without an index is taken as it is, like upstream does.
	if _, err := e.Images.Pull(e.Ctx, host+"/other:v1", images.PullOptions{}); err != nil {
		t.Error(err)
	}
}

func dockerConfig(host, user, password string) []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth)
}

func TestPullWithBasicAuth(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	host := registryServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); r.Header.Get("X-Setup") == "" && (user != "u" || password != "p:w") {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	push(t, host+"/private:v1", img(t, ours, ""), remote.WithTransport(setup{}))
	_, err := e.Images.Pull(e.Ctx, host+"/private:v1", images.PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "failed to resolve reference") || !strings.Contains(err.Error(), "401 Unauthorized") && !strings.Contains(err.Error(), "no basic auth credentials") {
		t.Errorf("anonymous: %v", err)
	}
	var keys images.Keyring
	if err := errors.Join(keys.Add(dockerConfig(host, "u", "wrong")), keys.Add(dockerConfig(host, "u", "p:w"))); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images.Pull(e.Ctx, host+"/private:v1", images.PullOptions{Keyring: keys}); err != nil {
		t.Errorf("the second credential: %v", err)
	}
}

// setup marks the test's own requests, which pass the guard.
type setup struct{}

func (setup) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("X-Setup", "1")
	return http.DefaultTransport.RoundTrip(r)
}

func TestPullWithToken(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" || r.FormValue("scope") != "repository:private:pull" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": "secret"})
	}))
	t.Cleanup(tokens.Close)
	host := registryServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Setup") == "" && r.Header.Get("Authorization") != "Bearer secret" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:private:pull"`, tokens.URL))
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	push(t, host+"/private:v1", img(t, ours, ""), remote.WithTransport(setup{}))
	if _, err := e.Images.Pull(e.Ctx, host+"/private:v1", images.PullOptions{}); err == nil || !strings.Contains(err.Error(), "failed to authorize") && !strings.Contains(err.Error(), "401") {
		t.Errorf("anonymous: %v", err)
	}
	var keys images.Keyring
	if err := keys.Add(dockerConfig("https://"+host+"/v1/", "u", "p")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images.Pull(e.Ctx, host+"/private:v1", images.PullOptions{Keyring: keys}); err != nil {
		t.Error(err)
	}
}

func TestImportAndSave(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	i := img(t, ours, "")
	tag, _ := name.NewTag("docker.io/library/mine:v1")
	var archive bytes.Buffer
	if err := tarball.Write(tag, i, &archive); err != nil {
		t.Fatal(err)
	}
	names, err := e.Images.Import(e.Ctx, bytes.NewReader(archive.Bytes()), images.ImportOptions{})
	if err != nil || len(names) != 1 || names[0] != "docker.io/library/mine:v1" {
		t.Fatalf("%v %v", names, err)
	}
	got, err := e.Images.Get(e.Ctx, "mine:v1")
	if err != nil || !got.Pinned {
		t.Fatalf("%+v %v", got, err)
	}
	var saved bytes.Buffer
	if err := e.Images.Save(e.Ctx, &saved, "mine:v1"); err != nil {
		t.Fatal(err)
	}
	if err := e.Images.Remove(e.Ctx, got.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images.Get(e.Ctx, "mine:v1"); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	if names, err = e.Images.Import(e.Ctx, &saved, images.ImportOptions{Unpinned: true}); err != nil || len(names) != 1 {
		t.Fatalf("import of what was saved: %v %v", names, err)
	}
	if again, err := e.Images.Get(e.Ctx, "mine:v1"); err != nil || again.ID != got.ID || again.Pinned {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := e.Images.Import(e.Ctx, strings.NewReader("no archive at all"), images.ImportOptions{}); err == nil {
		t.Error("rubbish was imported")
	}
	archive.Reset()
	if err := tarball.Write(tag, img(t, foreign, ""), &archive); err != nil {
		t.Fatal(err)
	}
	if names, err := e.Images.Import(e.Ctx, &archive, images.ImportOptions{}); err == nil || !strings.Contains(err.Error(), "the archive has nothing for linux/"+ours) {
		t.Errorf("other platform: %v %v", names, err)
	}
}

func TestDemoVersionsShareALayer(t *testing.T) {
	t.Parallel()
	e := runtimetest.Start(t)
	v1, v2 := e.Demo()
	if v1 == v2 {
		t.Error("one image")
	}
	a, err := e.Images.Rootfs(e.Ctx, v1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Images.Rootfs(e.Ctx, "coracle/demo:v2")
	if err != nil || a.Parent != b.Parent || !strings.Contains(string(a.Passwd), "nobody") {
		t.Errorf("%+v %+v %v", a, b, err)
	}
	// Removing one name keeps the other's content.
	if err := e.Images.Remove(e.Ctx, "coracle/demo:v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images.Rootfs(e.Ctx, "coracle/demo:v2"); err != nil {
		t.Error(err)
	}
}
