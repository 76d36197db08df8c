package etcd

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// releasePages gives back the pages of the database file that opening it has read into memory: all of them,
// including those that hold nothing. They stay in the page cache, and come back when touched. It must run
// while nothing can unmap the file: between the opening and the start of the server.
func releasePages(dataDir string) error {
	path, err := filepath.Abs(filepath.Join(dataDir, "member", "snap", "db"))
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	start, err := mappingOf(path)
	if start == 0 || err != nil {
		return err
	}
	pages := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), start)), info.Size())
	return unix.Madvise(pages, unix.MADV_DONTNEED)
}

// mappingOf is the address at which this process maps the file; zero where it does not.
func mappingOf(path string) (uintptr, error) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if !strings.HasSuffix(lines.Text(), " "+path) {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &start, &end); err != nil {
			return 0, err
		}
		return start, nil
	}
	return 0, nil
}
