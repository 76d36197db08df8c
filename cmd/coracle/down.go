package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/containerd"
	"github.com/coracle-dev/coracle/agent/csi"
	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/network/cni"
	"github.com/coracle-dev/coracle/cmd/coracle/lab"
	"github.com/coracle-dev/coracle/internal/iface"
	"github.com/coracle-dev/coracle/internal/paths"
	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/proxy/policy"
)

func newDown() *cobra.Command {
	var purge bool
	var kubeconfigOut string
	cmd := command(&cobra.Command{
		Use:   "down",
		Short: "Stop the cluster and leave no process, mount, link, rule or cgroup behind",
	}, func(cmd *cobra.Command, o *options) error {
		if err := needRoot("coracle down"); err != nil {
			return err
		}
		o.kubeconfigOut = kubeconfigOut
		return down(cmd.Context(), o, cmd.OutOrStdout(), purge)
	}, placeFlags, cniBinFlag)
	cmd.Flags().BoolVar(&purge, "purge", false, "also remove the cluster's data and the admin's kubeconfig")
	cmd.Flags().StringVar(&kubeconfigOut, "kubeconfig-out", paths.DefaultKubeconfig, "the admin's kubeconfig, removed with --purge")
	return cmd
}

// down stops everything that up, server or agent started with this layout, and removes what they made. What
// is gone already is no error, so down can be repeated.
func down(ctx context.Context, o *options, out io.Writer, purge bool) error {
	l := o.layout
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	do := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	do("stop the supervisor", stopSupervisor(ctx, l))
	do("stop processes", stopProcesses(ctx, l))
	do("stop pods", stopPods(ctx, cgroupRoot(l)))
	do("stop containerd", containerd.Stop(ctx, l))
	do("stop shims", killUnder(l.Bin()))
	do("remove pods from CNI networks", cni.Cleanup(ctx, l.CNI(), o.cniBin))
	unmounted := unmountUnder(l.Run, l.Data)
	do("unmount", unmounted)
	do("unmount the volumes of drivers", abandonVolumes(l))
	do("remove services", cleanupProxy())
	do("remove network policies", policy.Cleanup())
	do("remove the pod network", network.Cleanup())
	do("remove the node's link", iface.Delete(lonelyLink))
	do("restore sysctls", sysctl.NewKeeper(l.Sysctls()).Restore())
	do("remove the shims' sockets", os.RemoveAll(l.ShimSockets()))
	if unmounted == nil { // else removing could reach through a mount into what is not ours
		do("remove "+l.Run, removeAllButLabs(l.Run, lab.DefaultRun))
	}
	if purge && unmounted == nil {
		do("remove the containers' logs", removeContainerLogs(l)) // those that are not below the data folder
		do("remove "+l.Data, removeAllButLabs(l.Data, lab.DefaultData))
		do("remove the kubeconfig", removeKubeconfig(o.kubeconfigOut))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	fmt.Fprintln(out, "Coracle is down.")
	return nil
}

// abandonVolumes unmounts what CSI drivers have put in place for this cluster's pods.
func abandonVolumes(l paths.Layout) error {
	pods, err := podsOf(l)
	if err != nil {
		return err
	}
	uids := make([]types.UID, 0, len(pods))
	for _, pod := range pods {
		uids = append(uids, types.UID(pod))
	}
	if err := csi.Abandon(l.Kubelet(), uids); err != nil {
		return err
	}
	for _, dir := range []string{"pods", "plugins_registry", "plugins/kubernetes.io/csi", "plugins/kubernetes.io", "plugins", "."} {
		_ = os.Remove(filepath.Join(l.Kubelet(), dir)) // fails where others use it
	}
	return nil
}

// podsOf are the pods that this cluster keeps a folder of.
func podsOf(l paths.Layout) ([]string, error) {
	entries, err := os.ReadDir(l.Pods())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// removeContainerLogs removes the logs of this cluster's pods, which are those that it keeps a folder of, and the links to them.
// The folders may be another kubelet's too.
func removeContainerLogs(l paths.Layout) error {
	pods, err := podsOf(l)
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range pods {
		dirs, err := filepath.Glob(filepath.Join(l.PodLogs(), "*_"+pod))
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	links, err := filepath.Glob(filepath.Join(l.ContainerLogs(), "*.log"))
	for _, link := range links {
		to, lerr := os.Readlink(link)
		if lerr != nil || filepath.Dir(filepath.Dir(filepath.Dir(to))) != l.PodLogs() {
			continue
		}
		if _, serr := os.Stat(link); errors.Is(serr, fs.ErrNotExist) {
			errs = append(errs, os.Remove(link))
		}
	}
	for _, dir := range []string{l.PodLogs(), l.ContainerLogs()} {
		_ = os.Remove(dir) // fails where others use it
	}
	return errors.Join(append(errs, err)...)
}

// removeKubeconfig removes the file, and its folder if that was ours alone.
func removeKubeconfig(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if dir := filepath.Dir(path); filepath.Base(dir) == "coracle" {
		_ = os.Remove(dir) // fails where a config file is left in it
	}
	return nil
}

// supervisorPid gives the live supervisor's id: the one that holds the pid file's lock.
func supervisorPid(l paths.Layout) (int, bool) {
	f, err := os.Open(l.PidFile())
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, false // nobody holds it
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid, err == nil
}

func stopSupervisor(ctx context.Context, l paths.Layout) error {
	pid, running := supervisorPid(l)
	if !running {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		if _, running := supervisorPid(l); !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// killUnder kills the processes whose executable lies in dir, such as shims, and waits for their end.
func killUnder(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids, err := processesUnder(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func processesUnder(dir string) ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(exe, dir+"/") || elsewhere(filepath.Dir(link)) {
			continue // ended, a kernel thread, another program, or a lab's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// unmountUnder unmounts whatever is mounted below the folders, the last first, until nothing is left.
func unmountUnder(dirs ...string) error {
	for i, dir := range dirs {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dirs[i] = real
		}
	}
	mounts, err := mountsUnder(dirs)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", mounts[i].Mountpoint, err))
		}
	}
	left, err := mountsUnder(dirs)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s stays mounted", left[0].Mountpoint)
	}
	return errors.Join(append(errs, err)...)
}

func mountsUnder(dirs []string) ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		for _, dir := range dirs {
			if strings.HasPrefix(m.Mountpoint, dir+"/") {
				return false, false
			}
		}
		return true, false
	})
}

// removeAllButLabs removes a folder, or what is in it besides the labs, which are not this cluster's.
func removeAllButLabs(dir, labs string) error {
	if _, err := os.Lstat(labs); filepath.Dir(labs) != dir || err != nil {
		return removeData(dir)
	}
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); path != labs {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// removeData removes a folder; one that is a disk of its own is emptied.
func removeData(dir string) error {
	err := os.RemoveAll(dir)
	if errors.Is(err, unix.EBUSY) {
		if left, readErr := os.ReadDir(dir); readErr == nil && len(left) == 0 {
			return nil
		}
	}
	return err
}
