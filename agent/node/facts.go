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
	Info    v1.NodeSystemInfo
	Host    string // the machine's own name
}

// Usage is what does change.
type Usage struct {
	MemoryAvailable            int64
	DiskAvailable, DiskTotal   int64
	InodesAvailable, Inodes    int64
	Processes, ProcessesLimits int64
}

// ReadFacts reads the machine's facts below root, which is / but for tests; data is the folder that counts for storage.
func ReadFacts(root, data string) (Facts, error) {
	f := Facts{CPUs: goruntime.NumCPU()}
	mem, err := meminfo(root)
	if err != nil {
		return f, err
	}
	f.Memory = mem["MemTotal"]
	u := Usage{}
	if err := u.disk(data); err != nil {
		return f, err
	}
	f.Storage = u.DiskTotal
	f.Host, _ = os.Hostname()
	f.Info = v1.NodeSystemInfo{
		MachineID:       line(root, "etc/machine-id"),
		BootID:          line(root, "proc/sys/kernel/random/boot_id"),
		SystemUUID:      line(root, "sys/class/dmi/id/product_uuid"),
		KernelVersion:   line(root, "proc/sys/kernel/osrelease"),
		OSImage:         osImage(root),
		OperatingSystem: "linux",
		Architecture:    goruntime.GOARCH,
	}
	if f.Info.SystemUUID == "" {
		f.Info.SystemUUID = f.Info.MachineID
	}
	return f, nil
}

// ReadUsage measures the machine now.
func ReadUsage(root, data string) (Usage, error) {
	var u Usage
	mem, err := meminfo(root)
	if err != nil {
		return u, err
	}
	u.MemoryAvailable = mem["MemAvailable"]
	u.ProcessesLimits, _ = strconv.ParseInt(line(root, "proc/sys/kernel/pid_max"), 10, 64)
	// 0.10 0.20 0.30 1/234 567: running and all threads
	if f := strings.Fields(line(root, "proc/loadavg")); len(f) > 3 {
		_, all, _ := strings.Cut(f[3], "/")
		u.Processes, _ = strconv.ParseInt(all, 10, 64)
	}
	return u, u.disk(data)
}

func (u *Usage) disk(data string) error {
	for dir := data; ; dir = filepath.Dir(dir) {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			u.DiskTotal, u.DiskAvailable = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
			u.Inodes, u.InodesAvailable = int64(st.Files), int64(st.Ffree)
			return nil
		}
		if dir == "/" || dir == "." {
			return &os.PathError{Op: "statfs", Path: data, Err: err}
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
