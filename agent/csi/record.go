package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// record is what is written down of a volume beside its target, before a driver is asked for it.
type record struct {
	Driver    string    `json:"driverName"`
	Handle    string    `json:"volumeHandle"`
	Name      string    `json:"specVolID"`
	Pod       types.UID `json:"podUID"`
	Block     bool      `json:"block,omitempty"`
	Ephemeral bool      `json:"ephemeral,omitempty"`

	path string // the target
}

const recordFile = "vol_data.json"

// folder is where a pod's volumes of drivers lie, each in a folder of its own.
func (d *Drivers) folder(pod types.UID) string {
	return filepath.Join(d.cfg.Dir, "pods", string(pod), "volumes", "kubernetes.io~csi")
}

// target is where the driver puts the volume for the pod: a folder it mounts on, or a file that becomes a device.
func (d *Drivers) target(pod types.UID, v Volume) string {
	return filepath.Join(d.folder(pod), v.Name, targetName(v.Block))
}

func targetName(block bool) string {
	if block {
		return "device"
	}
	return "mount"
}

// staging is where the driver makes the volume ready for all pods of the node.
func (d *Drivers) staging(driver, handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return filepath.Join(d.cfg.Dir, "plugins", "kubernetes.io", "csi", driver, hex.EncodeToString(sum[:]), "globalmount")
}

// write notes the volume down, once.
func (d *Drivers) write(target string, r record) error {
	file := filepath.Join(filepath.Dir(target), recordFile)
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	d.cfg.Changed()
	return nil
}

// records are the volumes noted down for a pod.
func (d *Drivers) records(pod types.UID) ([]record, error) {
	return readRecords(filepath.Join(d.folder(pod), "*", recordFile))
}

func readRecords(pattern string) ([]record, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var out []record
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		r := record{}
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		r.path = filepath.Join(filepath.Dir(file), targetName(r.Block))
		out = append(out, r)
	}
	return out, nil
}

// used reports whether any pod of the node has the volume.
func (d *Drivers) used(r record) (bool, error) {
	all, err := d.records("*")
	for _, other := range all {
		if other.Driver == r.Driver && other.Handle == r.Handle {
			return true, nil
		}
	}
	return false, err
}

// InUse lists the volumes that are in place for any pod, under the names they have in Node.status.volumesInUse.
func (d *Drivers) InUse() ([]v1.UniqueVolumeName, error) {
	all, err := d.records("*")
	var out []v1.UniqueVolumeName
	for _, r := range all {
		if !r.Ephemeral {
			out = append(out, v1.UniqueVolumeName("kubernetes.io/csi/"+r.Driver+"^"+r.Handle))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// Abandon unmounts and removes what is in place for pods that nothing runs of any more, without asking the drivers, which may be gone as well: a cluster
// is being taken down. dir is Config.Dir.
func Abandon(dir string, pods []types.UID) error {
	d := New(Config{Dir: dir, Changed: func() {}})
	var errs []error
	for _, pod := range pods {
		records, err := d.records(pod)
		errs = append(errs, err)
		for _, r := range records {
			errs = append(errs, abandon(r.path), d.erase(r))
			if staging := d.staging(r.Driver, r.Handle); !r.Ephemeral {
				errs = append(errs, abandon(staging), removeUnmounted(filepath.Dir(staging)))
			}
		}
		errs = append(errs, d.removePod(pod))
	}
	return errors.Join(errs...)
}

// abandon unmounts all that is mounted on a path.
func abandon(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// erase removes what is left of a volume that the driver has taken away: the record last.
func (d *Drivers) erase(r record) error {
	if err := removeUnmounted(r.path); err != nil {
		return err
	}
	defer d.cfg.Changed()
	return os.RemoveAll(filepath.Dir(r.path))
}

// removeUnmounted removes a folder, but nothing that is mounted below it: that would be the volume's data.
func removeUnmounted(path string) error {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return err
	}
	if len(infos) > 0 {
		return fmt.Errorf("%s is still mounted", infos[0].Mountpoint)
	}
	return os.RemoveAll(path)
}

func mounted(path string) bool {
	ok, err := mountinfo.Mounted(path)
	return err == nil && ok
}

// removePod removes the pod's empty folders.
func (d *Drivers) removePod(pod types.UID) error {
	for _, dir := range []string{d.folder(pod), filepath.Dir(d.folder(pod)), filepath.Join(d.cfg.Dir, "pods", string(pod))} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
