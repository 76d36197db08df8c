package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modules are those that a node needs, as Debian's kernels have them: what they depend on is found, what is built in is no module.
var modules = []string{
	"virtio_pci", "virtio_blk", "overlay", "veth", "bridge", "dummy", "vxlan", "nf_conntrack", "nf_nat", "nf_conntrack_netlink", "nf_tables", "nft_chain_nat",
	"nft_nat", "nft_masq", "nft_redir", "nft_ct", "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_numgen", "nft_hash",
	"nft_limit", "nft_log", "nft_objref",
}

// kernel is what scripts/vm-kernel unpacked below dir.
type kernel struct {
	image   string
	modules map[string]string // paths by name
}

func findKernel(dir string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return nil, fmt.Errorf("no kernel below %s: run make test-vm", dir)
	}
	k := &kernel{image: images[0], modules: map[string]string{}}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return k, filepath.WalkDir(filepath.Join(dir, "lib", "modules", version), func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); err == nil && ok && !d.IsDir() {
			k.modules[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
}

// load gives the modules' contents in an order in which they can be loaded.
func (k *kernel) load(names []string) ([][]byte, error) {
	var list [][]byte
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path := k.modules[name]
		if seen[name] || path == "" {
			return nil
		}
		seen[name] = true
		data, err := readModule(path)
		if err != nil {
			return err
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		list = append(list, data)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// readModule reads a module, which may be compressed.
func readModule(path string) ([]byte, error) {
	for suffix, program := range map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"} {
		if strings.HasSuffix(path, suffix) {
			return exec.Command(program, "-dc", path).Output()
		}
	}
	return os.ReadFile(path)
}

// dependencies reads which modules a module needs.
func dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// early is the first process: it loads the modules and goes over to the disk.
const early = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for m in /modules/*; do /bin/busybox insmod $m; done
/bin/busybox mount -t ext4 /dev/vda /disk && exec /bin/busybox switch_root /disk /init
echo "guest: there is no disk"
/bin/busybox poweroff -f
`

// initramfs writes the archive that the kernel starts with.
func (k *kernel) initramfs(w io.Writer) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	loaded, err := k.load(modules)
	if err != nil {
		return err
	}
	a := &archive{w: w}
	for _, dir := range []string{"bin", "dev", "disk", "modules"} {
		a.add(dir, 0o40755, nil)
	}
	a.add("bin/busybox", 0o100755, busybox)
	a.add("init", 0o100755, []byte(early))
	for i, data := range loaded {
		a.add(fmt.Sprintf("modules/%03d.ko", i), 0o100644, data)
	}
	a.add("TRAILER!!!", 0, nil)
	return a.err
}

// archive writes cpio's "newc" format.
type archive struct {
	w     io.Writer
	inode int
	err   error
}

func (a *archive) add(name string, mode int, data []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	padding := func(n int) string { return "\x00\x00\x00"[:(4-n%4)%4] }
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	_, a.err = io.WriteString(a.w, head+padding(len(head))+string(data)+padding(len(data)))
}

// start is the first process on the disk. Everything that a test prints goes over the serial line, which is all that the machine has.
const start = `#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 run /run
mount --make-rshared /
hostname vm
ip link set lo up
cd /root
CORACLE_GUEST=1 guest -test.v -test.timeout 15m 2>&1
echo "guest: exit code $?"
sync
poweroff -f
`

// disk makes the file system of the machine, with the programs in it.
func disk(dir, coracle, guest string) (path string, err error) {
	root := filepath.Join(dir, "root")
	for _, name := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/sbin", "usr/bin", "var/lib", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return "", err
		}
	}
	for name, text := range map[string]string{
		"init": start, "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/hosts": "127.0.0.1 localhost\n", "etc/resolv.conf": "",
		"etc/os-release": "ID=guest\nPRETTY_NAME=\"Guest of the tests\"\n", "etc/machine-id": "8b3f0c1de2a94c7e9d0a6f5b4c3d2e1f\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			return "", err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return "", err
	}
	for from, to := range map[string]string{coracle: "bin/coracle", guest: "bin/guest", runc: "usr/sbin/runc", "/bin/busybox": "bin/busybox"} {
		if err := install(from, filepath.Join(root, to)); err != nil {
			return "", err
		}
	}
	if err := libraries(runc, root); err != nil {
		return "", err
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return "", err
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if err := os.Symlink("/bin/busybox", filepath.Join(root, "bin", applet)); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	path = filepath.Join(dir, "disk")
	out, err := exec.Command("mkfs.ext4", "-q", "-E", "root_owner=0:0", "-O", "^has_journal", "-d", root, path, "2G").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return path, os.RemoveAll(root)
}

func install(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// libraries copies what a dynamic program is linked with.
func libraries(program, root string) error {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil // a static one
	}
	for field := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(field, "/") {
			if err := install(field, filepath.Join(root, field)); err != nil {
				return err
			}
		}
	}
	return nil
}
