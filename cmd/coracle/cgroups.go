package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/paths"
)

// podGrace is how long pods get to end by themselves when the cluster goes down.
const podGrace = 5 * time.Second

// cgroupRoot is the cgroup of a cluster's pods. The usual cluster has the name that tools know; others of the same
// machine have one of their own.
func cgroupRoot(l paths.Layout) string {
	if l.Run == paths.DefaultRun {
		return "kubepods"
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(l.Run))
	return fmt.Sprintf("kubepods-%08x", h.Sum32())
}

// stopPods ends every process in the pods' cgroup: asked first, killed after podGrace; then it removes the cgroup.
func stopPods(ctx context.Context, root string) error {
	pids, err := cgroupProcesses(root)
	if err != nil {
		return err
	}
	signalAll(pids, unix.SIGTERM)
	killAt := time.Now().Add(podGrace)
	for len(pids) > 0 {
		if time.Now().After(killAt) {
			signalAll(pids, unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end", pids)
		case <-time.After(20 * time.Millisecond):
		}
		if pids, err = cgroupProcesses(root); err != nil {
			return err
		}
	}
	return runtime.RemoveCgroup("/" + root)
}

func signalAll(pids []int, sig unix.Signal) {
	for _, pid := range pids {
		_ = unix.Kill(pid, sig) // it may have ended
	}
}

// cgroupProcesses lists the processes of a cgroup and all below it. Where there are several hierarchies, that of memory counts.
func cgroupProcesses(root string) ([]int, error) {
	dir := filepath.Join("/sys/fs/cgroup/memory", root)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir = filepath.Join("/sys/fs/cgroup", root)
	}
	var pids []int
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we look
		}
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, line := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(line); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// stopProcesses ends the layout's coracle processes but containerd: asked first, killed after ten seconds.
func stopProcesses(ctx context.Context, l paths.Layout) error {
	killAt := time.Now().Add(10 * time.Second)
	for sig := unix.SIGTERM; ; {
		processes, err := clusterProcesses(l)
		if err != nil {
			return err
		}
		var pids []int
		for _, p := range processes {
			if strings.HasPrefix(p.name, "coracle ") && p.name != "coracle containerd" {
				pids = append(pids, p.pid)
			}
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(killAt) {
			sig = unix.SIGKILL
		}
		signalAll(pids, sig)
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end", pids)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
