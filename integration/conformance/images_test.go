package conformance

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

var imageTests = map[string]func(*env){
	"private images are for pods with credentials":                      privateImages,
	"a registry's mirror speaks TLS with a CA of its own":               mirroredImages,
	"images that cannot be had are told of":                             missingImages,
	"archives in the folder of images are imported":                     bundledImages,
	"images are listed, saved and removed unless they are in use":       imageCommands,
	"a pod that writes more than its limit of local storage is evicted": writesTooMuch,
	"a volume that holds more than its size limit has its pod evicted":  volumeTooLarge,
	"an image is pulled and known by its digest":                        digestImages,
}

// serveRegistry serves a registry inside the cluster's network, which needs a password where one is given, and gives its host.
func serveRegistry(t *testing.T, c *cluster.Cluster, password string, tls bool) *httptest.Server {
	t.Helper()
	listener, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given, _ := r.BasicAuth(); password != "" && given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	s.Listener.Close()
	s.Listener = listener
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func hostOf(s *httptest.Server) string { return s.Listener.Addr().String() }

// busybox is the cluster's image as an archive has it, with a label that makes it another one.
func busybox(t *testing.T, c *cluster.Cluster, label string) v1.Image {
	t.Helper()
	file := filepath.Join(t.TempDir(), "busybox.tar")
	if out, err := c.Image("save", file, cluster.Busybox); err != nil {
		t.Fatalf("save: %v\n%s", err, out)
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Labels = map[string]string{"test": label}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// pushTo pushes an image from outside.
func pushTo(t *testing.T, c *cluster.Cluster, s *httptest.Server, repository, password string, img v1.Image) (digest string) {
	t.Helper()
	ref, err := name.ParseReference(hostOf(s)+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	client := s.Client().Transport.(*http.Transport).Clone()
	client.DialContext = c.Dial
	err = remote.Write(ref, img, remote.WithTransport(roundTrip(func(r *http.Request) (*http.Response, error) {
		if s.TLS != nil {
			r.URL.Scheme = "https"
		}
		if password != "" {
			r.SetBasicAuth("pusher", password)
		}
		return client.RoundTrip(r)
	})))
	if err != nil {
		t.Fatalf("push: %v", err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// sleeper runs an image until it is deleted.
func sleeper(name, image string, policy corev1.PullPolicy) *corev1.Pod {
	p := onePod(name, shell("c", "sleep 3600"))
	p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, policy
	return p
}

// waits waits for a pod's container to wait for a reason, and gives the message.
func (e *env) waits(name, reason string) (message string) {
	e.Helper()
	e.until(name, func(p *corev1.Pod) error {
		if len(p.Status.ContainerStatuses) > 0 {
			if w := p.Status.ContainerStatuses[0].State.Waiting; w != nil && w.Reason == reason {
				message = w.Message
				return nil
			}
		}
		return fmt.Errorf("not waiting because of %s: %s", reason, describe(p))
	})
	return message
}

func privateImages(e *env) {
	s := serveRegistry(e.T, e.cluster, "secret", false)
	image := hostOf(s) + "/team/private:v1"
	digest := pushTo(e.T, e.cluster, s, "team/private:v1", "secret", busybox(e.T, e.cluster, "private"))
	e.create(sleeper("stranger", image, ""))
	if m := e.waits("stranger", "ErrImagePull"); !strings.HasPrefix(m, fmt.Sprintf("failed to pull and unpack image %q: failed to resolve reference %q: ", image, image)) || !strings.Contains(m, "401") && !strings.Contains(m, "authorization failed") {
		e.Errorf("message %q", m)
	}
	if m := e.waits("stranger", "ImagePullBackOff"); !strings.HasPrefix(m, fmt.Sprintf("Back-off pulling image %q: ErrImagePull: ", image)) {
		e.Errorf("message %q", m)
	}
	e.told("stranger", "BackOff", fmt.Sprintf("Back-off pulling image %q", image))
	auth := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	_, err := e.kube.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, hostOf(s)+"/team", auth)}}, metav1.CreateOptions{})
	e.must(err)
	friend := sleeper("friend", image, "")
	friend.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	e.create(friend)
	p := e.ready("friend")
	equal(e, "image ID", p.Status.ContainerStatuses[0].ImageID, hostOf(s)+"/team/private@"+digest)
	e.told("friend", "Pulling", fmt.Sprintf("Pulling image %q", image))
	e.told("friend", "Pulled", fmt.Sprintf("Successfully pulled image %q in ", image))
	// The service account's secrets are its pods'.
	_, err = e.kube.CoreV1().ServiceAccounts(e.ns).Create(e.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}}, metav1.CreateOptions{})
	e.must(err)
	member := sleeper("member", image, corev1.PullNever)
	member.Spec.ServiceAccountName = "puller"
	e.create(member)
	e.ready("member")
	e.told("member", "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", image))
	// The image is here now, and still not for pods without credentials.
	e.create(sleeper("thief", image, corev1.PullNever))
	equal(e, "message", e.waits("thief", "ErrImageNeverPull"), fmt.Sprintf("Container image %q is not present with pull policy of Never", image))
	e.create(sleeper("late", image, corev1.PullIfNotPresent))
	e.waits("late", "ErrImagePull")
}

func mirroredImages(e *env) {
	s := serveRegistry(e.T, e.cluster, "", true)
	pushTo(e.T, e.cluster, s, "team/app:v1", "", busybox(e.T, e.cluster, "mirrored"))
	dir := filepath.Join(e.cluster.Registries(), "registry.invalid")
	e.must(os.MkdirAll(dir, 0o755))
	e.must(os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	e.must(os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"ca.pem\"\n", s.URL), 0o600))
	e.create(sleeper("mirrored", "registry.invalid/team/app:v1", ""))
	e.ready("mirrored")
}

func missingImages(e *env) {
	s := serveRegistry(e.T, e.cluster, "", false)
	image := hostOf(s) + "/none:v1"
	e.create(sleeper("missing", image, ""))
	e.create(sleeper("never", image, corev1.PullNever))
	e.create(sleeper("invalid", "Not/A:Name:", corev1.PullAlways))
	e.told("missing", "Failed", fmt.Sprintf("Failed to pull image %q: ", image))
	e.told("missing", "Failed", "Error: ErrImagePull")
	e.waits("missing", "ImagePullBackOff")
	e.told("missing", "Failed", "Error: ImagePullBackOff")
	e.waits("never", "ErrImageNeverPull")
	e.told("never", "ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", image))
	if m := e.waits("invalid", "InvalidImageName"); !strings.HasPrefix(m, `Failed to apply default image tag "Not/A:Name:": couldn't parse image name`) {
		e.Errorf("message %q", m)
	}
	e.told("invalid", "InspectFailed", "Failed to apply default image tag")
}

// writeArchive writes an image as docker save does.
func writeArchive(t *testing.T, file, tag string, img v1.Image) {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err == nil {
		err = tarball.WriteToFile(file, ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func bundledImages(e *env) {
	img := busybox(e.T, e.cluster, "bundled")
	e.create(sleeper("airgapped", "docker.io/library/bundled:v1", corev1.PullNever))
	e.waits("airgapped", "ErrImageNeverPull")
	writeArchive(e.T, filepath.Join(e.cluster.Layout.Images(), "bundle.tar"), "docker.io/library/bundled:v1", img)
	e.ready("airgapped")
}

// listed finds an image in `coracle image list -o json`.
func (e *env) listed(name string) (found struct {
	ID            string
	Names         []string
	Pinned, InUse bool
}) {
	e.Helper()
	out, err := e.cluster.Image("list", "-o", "json")
	if err != nil {
		e.Fatalf("%v\n%s", err, out)
	}
	all := []struct {
		ID            string
		Names         []string
		Pinned, InUse bool
	}{}
	e.must(json.Unmarshal([]byte(out), &all))
	for _, img := range all {
		for _, n := range img.Names {
			if n == name {
				return img
			}
		}
	}
	return found
}

func imageCommands(e *env) {
	const tag = "docker.io/library/commands:v1"
	dir := e.TempDir()
	writeArchive(e.T, filepath.Join(dir, "in.tar"), tag, busybox(e.T, e.cluster, "commands"))
	image := func(command string, args ...string) string {
		e.Helper()
		out, err := e.cluster.Image(command, args...)
		if err != nil {
			e.Fatalf("image %s %q: %v\n%s", command, args, err, out)
		}
		return out
	}
	equal(e, "import", image("import", filepath.Join(dir, "in.tar")), "imported "+tag+"\n")
	if got := e.listed(tag); !got.Pinned || got.InUse {
		e.Errorf("listed as %+v", got)
	}
	e.create(sleeper("user", tag, corev1.PullNever))
	e.ready("user")
	if got := e.listed(tag); !got.InUse {
		e.Errorf("listed as %+v while a pod runs it", got)
	}
	if out := image("list"); !strings.Contains(out, tag) || !strings.Contains(out, "IN USE") {
		e.Errorf("list:\n%s", out)
	}
	if out, err := e.cluster.Image("remove", tag); err == nil || !strings.Contains(err.Error(), "containers use this image; to remove it nevertheless add --force") {
		e.Errorf("removal of an image in use: %v\n%s", err, out)
	}
	image("save", filepath.Join(dir, "out.tar"), tag)
	equal(e, "remove", image("remove", "--force", tag), "removed "+tag+"\n")
	if got := e.listed(tag); got.ID != "" {
		e.Errorf("after its removal listed as %+v", got)
	}
	image("import", filepath.Join(dir, "out.tar"))
	if got := e.listed(tag); got.ID == "" || !got.InUse {
		e.Errorf("imported again and listed as %+v", got)
	}
	if out, err := e.cluster.Image("remove", "nothing:v1"); err == nil || !strings.Contains(err.Error(), "not found") {
		e.Errorf("removal of nothing: %v\n%s", err, out)
	}
}

// evicted waits for a pod to be evicted with a message that begins so.
func (e *env) evicted(name, begin string) *corev1.Pod {
	e.Helper()
	p := e.until(name, func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed {
			return errors.New("not evicted: " + describe(p))
		}
		return nil
	})
	if p.Status.Reason != "Evicted" || !strings.HasPrefix(p.Status.Message, begin) {
		e.Errorf("%s: %q", p.Status.Reason, p.Status.Message)
	}
	e.told(name, "Evicted", begin)
	return p
}

func writesTooMuch(e *env) {
	p := onePod("writer", shell("c", "dd if=/dev/zero of=/big bs=64k count=64; sleep 3600"), shell("other", "sleep 3600"))
	limit := func(i int, quantity string) {
		p.Spec.Containers[i].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(quantity)}
	}
	limit(0, "1Mi")
	limit(1, "1Gi")
	e.create(p)
	e.evicted("writer", `Container c exceeded its local ephemeral storage limit "1Mi". `)
}

func volumeTooLarge(e *env) {
	size := resource.MustParse("1Mi")
	p := onePod("filler", shell("c", "dd if=/dev/zero of=/v/big bs=64k count=64; sleep 3600"))
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	e.create(p)
	e.evicted("filler", `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `)
}

func digestImages(e *env) {
	s := serveRegistry(e.T, e.cluster, "", false)
	digest := pushTo(e.T, e.cluster, s, "indexed:v1", "", busybox(e.T, e.cluster, "digest"))
	image := hostOf(s) + "/indexed@" + digest
	e.create(sleeper("digest", image, ""))
	p := e.ready("digest")
	equal(e, "pull policy", p.Spec.Containers[0].ImagePullPolicy, corev1.PullIfNotPresent)
	equal(e, "image ID", p.Status.ContainerStatuses[0].ImageID, image)
	e.create(sleeper("again", image, corev1.PullNever))
	e.ready("again")
}
