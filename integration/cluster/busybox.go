package cluster

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/coracle-dev/coracle/internal/testenv"
)

// Busybox is the name of the image that ImportBusybox makes: a shell and the tools to look around with from inside a pod. Its user 1000 is
// called "user" and belongs to the groups 1000, "extra" (50000) and "more" (60000) by the image's own /etc/group.
const Busybox = "docker.io/library/busybox:1"

// ImportBusybox makes the image of the machine's /bin/busybox (Debian's package busybox-static) and imports it, under further names too.
func (c *Cluster) ImportBusybox(also ...string) {
	c.t.Helper()
	archive := filepath.Join(c.t.TempDir(), "busybox.tar")
	if err := writeBusybox(archive, append(also, Busybox)); err != nil {
		c.fatalf("make the busybox image: %v", err)
	}
	if out, err := c.Image("import", archive); err != nil {
		c.fatalf("import the busybox image: %v\n%s", err, out)
	}
}

// writeBusybox writes the image, with further programs, under these names to an archive.
func writeBusybox(archive string, names []string, programs ...string) error {
	content, err := busyboxLayer(programs)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config.Env, file.Config.Cmd, file.Config.WorkingDir = []string{"PATH=/bin"}, []string{"sh"}, "/"
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	images := map[name.Tag]v1.Image{}
	for _, n := range names {
		tag, err := name.NewTag(n)
		if err != nil {
			return err
		}
		images[tag] = img
	}
	return tarball.MultiWriteToFile(archive, images)
}

// busyboxLayer has the program, a link for each of its applets, and the files of users and groups.
func busyboxLayer(programs []string) ([]byte, error) {
	const path = "/bin/busybox"
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = io.WriteString(w, content)
		}
	}
	for dir, mode := range map[string]int64{"bin/": 0o755, "etc/": 0o755, "home/": 0o755, "root/": 0o700, "tmp/": 0o1777} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: mode}, "")
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, string(program))
	for _, p := range programs {
		data, rerr := os.ReadFile(p)
		if rerr != nil {
			return nil, rerr
		}
		add(tar.Header{Name: "bin/" + filepath.Base(p), Typeflag: tar.TypeReg, Mode: 0o755}, string(data))
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:\nuser:x:1000:\nextra:x:50000:user\nmore:x:60000:user\nnogroup:x:65534:\n")
	if err == nil {
		err = w.Close()
	}
	return buf.Bytes(), err
}

// ImportProgram makes an image of busybox and one program, built from a package of this repository, and imports it.
func (c *Cluster) ImportProgram(image, pkg string) {
	c.t.Helper()
	dir := c.t.TempDir()
	program, archive := filepath.Join(dir, filepath.Base(pkg)), filepath.Join(dir, "program.tar")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./"+pkg)
	build.Dir, build.Env = testenv.Repository(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.fatalf("build %s: %v\n%s", pkg, err, out)
	}
	if err := writeBusybox(archive, []string{image}, program); err != nil {
		c.fatalf("make the image %s: %v", image, err)
	}
	if out, err := c.Image("import", archive); err != nil {
		c.fatalf("import the image %s: %v\n%s", image, err, out)
	}
}
