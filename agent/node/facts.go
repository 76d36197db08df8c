// Package node tells the cluster of the machine: it registers the Node, keeps its status true, and renews its Lease.
//
// Invariant: Status is a pure function of what was measured; a status is written when it differs from the last one in
// more than its heartbeat, or when that is five minutes old.
package node

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Facts are what does not change while the machine is up.
type Facts struct {
	CPUs    int
	Memory  int64 // bytes
	Storage int64 // bytes of the file system that holds the data folder
	// MaxPids is how many processes the machine can have.
	MaxPids   int64
	HugePages []HugePages
	Info      v1.NodeSystemInfo
	Host      string // the machine's own name
}

// ReadFacts reads the machine's facts below root, which is / but for tests; data is the folder that counts for storage.
func ReadFacts(root, data string) (Facts, error) {
	f := Facts{CPUs: goruntime.NumCPU()}
	mem, err := meminfo(root)
	if err != nil {
		return f, err
	}
	f.Memory = mem["MemTotal"]
	if f.Storage, err = fileSystemSize(data); err != nil {
		return f, err
	}
	f.Host, _ = os.Hostname()
	f.HugePages = hugePages(root)
	f.MaxPids, _ = strconv.ParseInt(line(root, "proc/sys/kernel/pid_max"), 10, 64)
	f.Info = v1.NodeSystemInfo{
		MachineID:       line(root, "etc/machine-id"),
		BootID:          line(root, "proc/sys/kernel/random/boot_id"),
		SystemUUID:      line(root, "sys/class/dmi/id/product_uuid"),
		KernelVersion:   line(root, "proc/sys/kernel/osrelease"),
		OSImage:         osImage(root),
		OperatingSystem: "linux",
		Architecture:    goruntime.GOARCH,
	}
	if swap := mem["SwapTotal"]; swap > 0 {
		f.Info.Swap = &v1.NodeSwapStatus{Capacity: &swap}
	}
	if f.Info.SystemUUID == "" {
		f.Info.SystemUUID = f.Info.MachineID
	}
	return f, nil
}

// fileSystemSize is that of the one that holds dir, which need not exist yet, in bytes.
func fileSystemSize(data string) (int64, error) {
	for dir := data; ; dir = filepath.Dir(dir) {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Blocks) * st.Bsize, nil
		}
		if dir == "/" || dir == "." {
			return 0, &os.PathError{Op: "statfs", Path: data, Err: err}
		}
	}
}

// meminfo is /proc/meminfo in bytes.
func meminfo(root string) (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for l := range strings.Lines(string(data)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("meminfo: %q: %w", l, err)
		}
		if len(f) > 2 && f[2] == "kB" {
			n *= 1024
		}
		out[strings.TrimSuffix(f[0], ":")] = n
	}
	return out, nil
}

func line(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(first)
}

func osImage(root string) string {
	data, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if err != nil {
		return "Linux"
	}
	for l := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(l, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return "Linux"
}
