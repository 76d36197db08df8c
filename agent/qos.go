package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/podspec"
)

// qosGroups weighs the cgroups that stand between the root of pods and the pods: those of burstable pods count
// together as much as they asked for, those of best effort pods as little as can be.
type qosGroups struct {
	mu      sync.Mutex
	written map[string]uint64
}

// weigh brings the weights up to date with the pods taken. The folders exist once a pod has been in them.
func (q *qosGroups) weigh(root string, cpus int, pods []*v1.Pod) error {
	var burstable int64
	for _, p := range pods {
		if lifecycle.QOSClass(&p.Spec) == v1.PodQOSBurstable {
			req := helpers.PodRequests(p, helpers.PodResourcesOptions{})
			burstable += req.Cpu().MilliValue()
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for path, shares := range map[string]uint64{
		root:                              podspec.Shares(int64(cpus) * 1000),
		filepath.Join(root, "burstable"):  podspec.Shares(burstable),
		filepath.Join(root, "besteffort"): podspec.Shares(0),
	} {
		if q.written[path] == shares {
			continue
		}
		err := writeShares("/sys/fs/cgroup", path, shares)
		switch {
		case err == nil:
			q.written[path] = shares
		case !errors.Is(err, os.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writeShares sets a cgroup's CPU shares, or the weight that version 2 has for them.
func writeShares(mount, path string, shares uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return fmt.Errorf("%s: %w", mount, err)
	}
	file, value := filepath.Join(mount, "cpu", path, "cpu.shares"), shares
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		file, value = filepath.Join(mount, path, "cpu.weight"), 1+(shares-2)*9999/262142
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatUint(value, 10))
	return errors.Join(err, f.Close())
}

func (a *Agent) weighQOS() {
	if err := a.qos.weigh(filepath.Join("/", a.cfg.CgroupRoot), a.facts.CPUs, a.taken()); err != nil {
		a.cfg.Log.Warn("CPU weights of the pods' cgroups not set", "error", err)
	}
}
