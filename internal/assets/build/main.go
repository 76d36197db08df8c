// Command build makes the files that package assets embeds: the stripped, compressed helper programs and the
// demo image. Its output depends on the sources and the Go release alone. Run it at the module's root:
//
//	go run ./internal/assets/build [-out internal/assets/files] [-arch amd64]
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	out := flag.String("out", "internal/assets/files", "folder to write to")
	arch := flag.String("arch", runtime.GOARCH, "GOARCH of the helpers")
	flag.Parse()
	if err := build(*out, *arch); err != nil {
		fmt.Fprintln(os.Stderr, "assets:", err)
		os.Exit(1)
	}
}

func build(out, arch string) error {
	tmp, err := os.MkdirTemp("", "coracle-assets-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, helper := range []string{"containerd", "containerd-shim-runc-v2", "supervise"} {
		if _, err := os.Stat(filepath.Join("cmd", helper)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		program, err := compile(tmp, arch, helper)
		if err != nil {
			return err
		}
		if err := writeGzip(filepath.Join(out, helper+".gz"), program); err != nil {
			return err
		}
	}
	program, err := compile(tmp, arch, "demo")
	if err != nil {
		return err
	}
	archive, err := demoArchive(program, arch)
	if err != nil {
		return err
	}
	return writeGzip(filepath.Join(out, "demo.tar.gz"), archive)
}

// compile builds a command static, stripped and without paths of this machine. The shim's tag leaves the gRPC services,
// of which it uses none, out of containerd's API: that makes it half as large.
func compile(dir, arch, command string) ([]byte, error) {
	to := filepath.Join(dir, command)
	tags := ""
	if command == "containerd-shim-runc-v2" {
		tags = "no_grpc"
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags="+tags, "-ldflags=-s -w -buildid= "+stamp(), "-o", to, "./cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go build ./cmd/%s: %w", command, err)
	}
	return os.ReadFile(to)
}

// stamp gives containerd's code the version that go.mod names, which it reports.
func stamp() string {
	const module = "github.com/containerd/containerd/v2"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return ""
	}
	return "-X " + module + "/version.Version=" + strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
}

// writeGzip writes the compressed content unless the file has it already.
func writeGzip(to string, content []byte) error {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if old, err := os.ReadFile(to); err == nil && bytes.Equal(old, buf.Bytes()) {
		return nil
	}
	return os.WriteFile(to, buf.Bytes(), 0o644)
}

// links are the names under which the demo program is found in /bin.
const links = "demo sh cat ls env echo tar sleep wget hostname id true false pwd mkdir rm kill test [ date stress touch kv-get kv-set kv-push kv-pop ask lookup load"

// demoArchive is a docker archive with both versions; they share the one layer.
func demoArchive(program []byte, arch string) ([]byte, error) {
	content, err := layerTar(program)
	if err != nil {
		return nil, err
	}
	// Not compressed within the archive: the archive is compressed as a whole.
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithCompressionLevel(gzip.BestCompression))
	if err != nil {
		return nil, err
	}
	images := map[name.Tag]v1.Image{}
	for _, version := range []string{"v1", "v2"} {
		img, err := demoImage(layer, version, arch)
		if err != nil {
			return nil, err
		}
		tag, err := name.NewTag("docker.io/coracle/demo:"+version, name.StrictValidation)
		if err != nil {
			return nil, err
		}
		images[tag] = img
	}
	var buf bytes.Buffer
	refs := map[name.Reference]v1.Image{}
	for tag, img := range images {
		refs[tag] = img
	}
	if err := tarball.MultiRefWrite(refs, &buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func demoImage(layer v1.Layer, version, arch string) (v1.Image, error) {
	base := mutate.MediaType(empty.Image, "application/vnd.docker.distribution.manifest.v2+json")
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "coracle demo"}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Created = v1.Time{Time: epoch}
	file.Config = v1.Config{
		Entrypoint:   []string{"/bin/demo"},
		Cmd:          []string{"serve"},
		Env:          []string{"PATH=/bin", "VERSION=" + version},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		WorkingDir:   "/",
		Labels:       map[string]string{"org.opencontainers.image.title": "coracle demo", "org.opencontainers.image.version": version},
	}
	return mutate.ConfigFile(img, file)
}

// epoch is every file's time: builds of the same source are the same bytes.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func layerTar(program []byte) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	dir := func(name string, mode int64) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}
	}
	file := func(name, content string) (tar.Header, string) {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}, content
	}
	add := func(h tar.Header, content string) error {
		h.ModTime, h.Format = epoch, tar.FormatPAX
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(tw, content)
		return err
	}
	passwd, passwdText := file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndemo:x:1000:1000:demo:/home/demo:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	group, groupText := file("etc/group", "root:x:0:\ndemo:x:1000:\nstaff:x:50:demo\nnogroup:x:65534:\n")
	hosts, hostsText := file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	err := errors.Join(
		add(dir("bin/", 0o755), ""), add(dir("etc/", 0o755), ""), add(dir("tmp/", 0o1777), ""), add(dir("root/", 0o700), ""),
		add(passwd, passwdText), add(group, groupText), add(hosts, hostsText),
		add(tar.Header{Name: "bin/demo", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))}, string(program)),
	)
	if err != nil {
		return nil, err
	}
	for _, link := range strings.Fields(links) {
		if link == "demo" {
			continue
		}
		if err := add(tar.Header{Name: "bin/" + link, Typeflag: tar.TypeSymlink, Linkname: "demo", Mode: 0o777}, ""); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), tw.Close()
}
