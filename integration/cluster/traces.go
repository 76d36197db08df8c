package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Processes calls do for each process of the machine with its folder below /proc. It may have ended meanwhile.
func Processes(do func(pid int, dir string)) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed, which is all that could be wrong
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			do(pid, dir)
		}
	}
}

// ProcessesOf lists the processes that run a program.
func ProcessesOf(program string) []int {
	var pids []int
	Processes(func(pid int, dir string) {
		if exe, err := os.Readlink(dir + "/exe"); err == nil && exe == program {
			pids = append(pids, pid)
		}
	})
	return pids
}

// Owns tells whether a process, by its folder below /proc, belongs to the cluster: by its program, arguments or network namespace.
func (c *Cluster) Owns(dir string) bool {
	if dir == fmt.Sprintf("/proc/%d", os.Getpid()) {
		return false
	}
	if exe, err := os.Readlink(dir + "/exe"); err == nil && strings.HasPrefix(exe, c.Dir) {
		return true
	}
	line, _ := os.ReadFile(dir + "/cmdline")
	if strings.Contains(string(line), c.Layout.Run) {
		return true
	}
	var own, its unix.Stat_t
	return unix.Stat(c.NetNS, &own) == nil && unix.Stat(dir+"/ns/net", &its) == nil && own.Ino == its.Ino
}

// Mounts lists the mounts below the cluster's folders, but for its network namespace.
func (c *Cluster) Mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		c.fatalf("%v", err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], c.Dir+"/") && fields[4] != c.NetNS {
			found = append(found, fields[4])
		}
	}
	return found
}
