package eviction

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine reads the signals of the machine it runs on.
type Machine struct {
	// Root is where /proc and /sys are found; empty is /.
	Root string
	// Data is a folder of the node's file system, Images one of that with the images.
	Data, Images string
}

// Split tells whether images have a file system of their own.
func (m Machine) Split() bool {
	var data, images unix.Stat_t
	return unix.Stat(m.Data, &data) == nil && unix.Stat(m.Images, &images) == nil && data.Dev != images.Dev
}

// Observe reads all signals; what can be read is returned beside an error.
func (m Machine) Observe(context.Context) (Observations, error) {
	o := Observations{}
	errs := []error{m.memory(o), m.processes(o)}
	for _, f := range []struct {
		dir           string
		bytes, inodes Signal
	}{{m.Data, NodeFsAvailable, NodeFsInodesFree}, {m.Images, ImageFsAvailable, ImageFsInodesFree}} {
		var st unix.Statfs_t
		if err := unix.Statfs(f.dir, &st); err != nil {
			errs = append(errs, &os.PathError{Op: "statfs", Path: f.dir, Err: err})
			continue
		}
		o[f.bytes] = Observation{Available: int64(st.Bavail) * st.Bsize, Capacity: int64(st.Blocks) * st.Bsize}
		if st.Files > 0 { // some file systems make inodes as they need them, and count none
			o[f.inodes] = Observation{Available: int64(st.Ffree), Capacity: int64(st.Files)}
		}
	}
	return o, errors.Join(errs...)
}

func (m Machine) path(name string) string {
	root := m.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(root, name)
}

// memory is what is left of it by the kubelet's reckoning: the working set is all that is used but for page cache that was not
// touched of late.
func (m Machine) memory(o Observations) error {
	info, err := keyed(m.path("proc/meminfo"), ":", 1024)
	if err != nil {
		return err
	}
	total := info["MemTotal"]
	used, inactive := total-info["MemFree"], info["Inactive(file)"]
	// With cgroup v1 the root's own count; v2 has none for the root.
	if n, err := m.number("sys/fs/cgroup/memory/memory.usage_in_bytes"); err == nil {
		if stat, err := keyed(m.path("sys/fs/cgroup/memory/memory.stat"), " ", 1); err == nil {
			used, inactive = n, stat["total_inactive_file"]
		}
	}
	o[MemoryAvailable] = Observation{Available: total - max(used-inactive, 0), Capacity: total}
	return nil
}

// processes counts threads against the lower of the kernel's two limits.
func (m Machine) processes(o Observations) error {
	limit, err := m.number("proc/sys/kernel/pid_max")
	if err != nil {
		return err
	}
	if threads, err := m.number("proc/sys/kernel/threads-max"); err == nil {
		limit = min(limit, threads)
	}
	data, err := os.ReadFile(m.path("proc/loadavg"))
	if err != nil {
		return err
	}
	// 0.10 0.20 0.30 1/234 567: running and all threads
	fields := strings.Fields(string(data))
	if len(fields) < 4 {
		return fmt.Errorf("loadavg: %q", data)
	}
	_, all, _ := strings.Cut(fields[3], "/")
	running, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return fmt.Errorf("loadavg: %w", err)
	}
	o[PIDAvailable] = Observation{Available: limit - running, Capacity: limit}
	return nil
}

func (m Machine) number(name string) (int64, error) {
	data, err := os.ReadFile(m.path(name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// keyed reads lines of a key, a separator and a number in units.
func keyed(file, separator string, unit int64) (map[string]int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		key, rest, _ := strings.Cut(line, separator)
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
				out[key] = n * unit
			}
		}
	}
	return out, nil
}

// Alarm gives an element whenever processes have waited for memory for a tenth of a second within one second, which the kernel
// tells by itself (PSI): nothing is read in between. It is nil where the kernel does not have that.
func (m Machine) Alarm(ctx context.Context) <-chan struct{} {
	trigger, err := unix.Open(m.path("proc/pressure/memory"), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var end [2]int
	if _, err = unix.Write(trigger, []byte("some 100000 1000000\x00")); err == nil {
		err = unix.Pipe2(end[:], unix.O_CLOEXEC)
	}
	if err != nil {
		unix.Close(trigger)
		return nil
	}
	context.AfterFunc(ctx, func() { unix.Close(end[1]) })
	alarm := make(chan struct{}, 1)
	go func() {
		defer unix.Close(trigger)
		defer unix.Close(end[0])
		for {
			// The trigger tells by POLLPRI, which Go's own poller does not wait for.
			fds := []unix.PollFd{{Fd: int32(trigger), Events: unix.POLLPRI}, {Fd: int32(end[0])}}
			_, err := unix.Poll(fds, -1)
			if err != nil && !errors.Is(err, unix.EINTR) || fds[0].Revents&unix.POLLERR != 0 || fds[1].Revents != 0 {
				return
			}
			if fds[0].Revents&unix.POLLPRI == 0 {
				continue
			}
			select {
			case alarm <- struct{}{}:
			default:
			}
		}
	}()
	return alarm
}

// Measure is what the files below dir take. What cannot be read counts as nothing, a file with several names once.
func Measure(dir string) (sum Disk) {
	type file struct{ dev, ino uint64 }
	linked := map[file]bool{}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			key := file{st.Dev, st.Ino}
			if linked[key] {
				return nil
			}
			linked[key] = true
		}
		sum = sum.plus(Disk{st.Blocks * 512, 1})
		return nil
	})
	return sum
}
