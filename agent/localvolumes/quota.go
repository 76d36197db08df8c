package localvolumes

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNoQuota: the file system keeps no project quotas.
var errNoQuota = errors.New("no project quotas")

// quota holds folders to a size by project quotas, as ext4 and xfs have them when mounted with prjquota: each folder is a project of its
// own, whose number stands in the folder itself.
type quota struct{ mu sync.Mutex }

// From linux/fs.h and linux/quota.h.
const (
	getAttributes    = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes    = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritProject   = 0x200      // FS_XFLAG_PROJINHERIT
	projectQuota     = 2          // PRJQUOTA
	getQuota         = 0x800007   // Q_GETQUOTA
	setQuota         = 0x800008   // Q_SETQUOTA
	blockLimits      = 1          // QIF_BLIMITS
	quotaBlock       = 1024       // bytes
	firstProject     = 1 << 20    // below are those that administrators give
	quotactlByFolder = unix.SYS_QUOTACTL_FD
)

// attributes is struct fsxattr.
type attributes struct {
	flags, extentSize, extents, project, cowExtentSize uint32
	_                                                  [8]byte
}

// limits is struct if_dqblk.
type limits struct {
	hardBlocks, softBlocks, space, hardInodes, softInodes, inodes, blockTime, inodeTime uint64
	valid                                                                               uint32
}

// limit holds the folder, one directly below parent, to size bytes; zero is no limit. A folder that is no project yet must be empty.
func (q *quota) limit(parent, folder string, size int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := quotactl(dir, getQuota, 0, &limits{}); err != nil {
		return errNoQuota // not on this file system, not switched on, not in this kernel, not allowed: it makes no difference
	}
	project, err := projectOf(dir)
	if err != nil {
		return err
	}
	if project == 0 {
		if project, err = freeProject(parent); err != nil {
			return err
		}
		if err := setProject(dir, project); err != nil {
			return err
		}
	}
	l := limits{hardBlocks: uint64((size + quotaBlock - 1) / quotaBlock), valid: blockLimits}
	return quotactl(dir, setQuota, project, &l)
}

func quotactl(dir *os.File, command uint32, project uint32, l *limits) error {
	_, _, errno := unix.Syscall6(quotactlByFolder, dir.Fd(), uintptr(command<<8|projectQuota), uintptr(project), uintptr(unsafe.Pointer(l)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("quotactl", errno)
	}
	return nil
}

func ioctl(dir *os.File, request uintptr, a *attributes) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(a))); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

// projectOf is the number of the folder's project; zero is none.
func projectOf(dir *os.File) (uint32, error) {
	var a attributes
	err := ioctl(dir, getAttributes, &a)
	return a.project, err
}

// setProject makes the folder a project, with all that will be made in it.
func setProject(dir *os.File, project uint32) error {
	var a attributes
	if err := ioctl(dir, getAttributes, &a); err != nil {
		return err
	}
	a.project, a.flags = project, a.flags|inheritProject
	return ioctl(dir, setAttributes, &a)
}

// freeProject is a number that no folder below parent has, those that are being removed included.
func freeProject(parent string) (uint32, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return 0, err
	}
	highest := uint32(firstProject)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir, err := os.Open(filepath.Join(parent, e.Name()))
		if err != nil {
			return 0, err
		}
		project, err := projectOf(dir)
		dir.Close()
		if err != nil {
			return 0, err
		}
		highest = max(highest, project)
	}
	return highest + 1, nil
}
