package volumes

import (
	"io/fs"
	"path/filepath"
	"syscall"

	"k8s.io/apimachinery/pkg/types"
)

// EmptyDirPath is where the pod's emptyDir volume of that name lies.
func (m *Manager) EmptyDirPath(uid types.UID, name string) string {
	return m.volumeDir(uid, "emptyDir", name)
}

// DiskUsage is what the files below dir take on disk, in bytes. What cannot be read counts as nothing.
func DiskUsage(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total
}
