package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// ownCgroup is the part of a machine's cgroup that its own processes are in, but for the pods'. In version 2 a cgroup has either processes or
// controlled cgroups below it.
const ownCgroup = "system"

// hierarchy is one tree of cgroups of the machine below.
type hierarchy struct {
	dir     string
	v2      bool
	options string // of its mount, for version 1
}

// hierarchies are all that are mounted below /sys/fs/cgroup.
func hierarchies() ([]hierarchy, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		inside := m.Mountpoint == cgroupMount || filepath.Dir(m.Mountpoint) == cgroupMount
		return !inside || m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return nil, err
	}
	var all []hierarchy
	for _, m := range mounts {
		all = append(all, hierarchy{dir: m.Mountpoint, v2: m.FSType == "cgroup2", options: controllers(m.VFSOptions)})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted at %s", cgroupMount)
	}
	return all, nil
}

// controllers keeps of a mount's options those that say which hierarchy it is.
func controllers(options string) string {
	kept := slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		return o == "rw" || o == "ro" || strings.HasPrefix(o, "release_agent=") || o == "clone_children" || o == "cpuset_v2_mode"
	})
	return strings.Join(kept, ",")
}

// makeCgroups makes a machine's cgroups in every hierarchy.
func makeCgroups(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		dir := h.dir
		for part := range strings.SplitSeq(filepath.Join(path, ownCgroup), "/") {
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cgroup: %w", err)
			}
			if h.v2 && part != ownCgroup {
				delegate(parent)
			} else if !h.v2 {
				inheritCPUs(parent, dir)
			}
		}
	}
	return nil
}

// delegate lets cgroups below have every controller that there is. What cannot be had is missed by who sets its limits.
func delegate(dir string) {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for _, c := range strings.Fields(string(data)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// inheritCPUs fills in what a new cgroup of the cpuset controller must have before a process can enter. Other hierarchies have no such files.
func inheritCPUs(parent, dir string) {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if data, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
			_ = os.WriteFile(filepath.Join(dir, file), data, 0)
		}
	}
}

// enterCgroups moves this process into the cgroup in every hierarchy.
func enterCgroups(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h.dir, path, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter the cgroup: %w", err)
		}
	}
	return nil
}

// ownCgroups are where this process is, by hierarchy.
func ownCgroups() (map[string]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	in := map[string]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers (none in version 2), path
		if len(parts) < 3 {
			continue
		}
		name, _, _ := strings.Cut(parts[1], ",")
		for _, h := range all {
			if h.v2 && name == "" || !h.v2 && name != "" && slices.Contains(strings.Split(h.options, ","), name) {
				in[h.dir] = parts[2]
			}
		}
	}
	return in, nil
}

// returnTo moves this process back to where ownCgroups has found it.
func returnTo(in map[string]string) error {
	var errs []error
	for dir, path := range in {
		errs = append(errs, os.WriteFile(filepath.Join(dir, path, "cgroup.procs"), []byte("0"), 0))
	}
	return errors.Join(errs...)
}

// removeCgroups removes a cgroup and all below it in every hierarchy. It waits for processes that are just ending.
func removeCgroups(ctx context.Context, path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := removeTree(ctx, filepath.Join(h.dir, path)); err != nil {
			return err
		}
	}
	return nil
}

func removeTree(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		select {
		case <-ctx.Done():
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// processes lists those of a cgroup and all below it, as one hierarchy knows them; deep=false those of the cgroup itself.
func processes(path string, deep bool) ([]int, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(tracker(all).dir, path)
	var pids []int
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while we look
		case err != nil:
			return err
		case entry.IsDir() && path != dir && !deep:
			return filepath.SkipDir
		case entry.Name() != "cgroup.procs":
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, line := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// tracker is the hierarchy that processes are looked up in: the one of version 2 where it is alone, else that of memory, which holds all pods.
func tracker(all []hierarchy) hierarchy {
	for _, h := range all {
		if filepath.Base(h.dir) == "memory" || h.dir == cgroupMount {
			return h
		}
	}
	return all[0]
}

// children are the names of the cgroups right below one.
func children(path string) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, h := range all {
		entries, _ := os.ReadDir(filepath.Join(h.dir, path))
		for _, e := range entries {
			if e.IsDir() {
				found[e.Name()] = true
			}
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
