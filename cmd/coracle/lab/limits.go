package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// What machines need about, in bytes of memory and in inotify instances.
const (
	serverMemory = 200 << 20
	nodeMemory   = 80 << 20
	nodeWatches  = 4
)

// checkMachine refuses what this machine is too small for: other memory, and nodes that are new, of all that there will be.
func checkMachine(other, added, all int) error {
	return firstError(checkMemory(other+added*nodeMemory), checkWatches(all*nodeWatches))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkMemory refuses what this machine's free memory is not enough for.
func checkMemory(need int) error {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	if free, ok := availableMemory(string(data)); ok && free < need {
		return fmt.Errorf("not enough memory: that needs about %d MB and %d MB are free: ask for fewer nodes, or end something", need>>20, free>>20)
	}
	return nil
}

// availableMemory reads /proc/meminfo, in bytes.
func availableMemory(meminfo string) (int, bool) {
	for line := range strings.Lines(meminfo) {
		var kib int
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10, true
		}
	}
	return 0, false
}

// checkWatches refuses what would fail later, and then in ways that nobody understands: a user has but few inotify instances, and all machines are root's.
func checkWatches(need int) error {
	const file = "/proc/sys/fs/inotify/max_user_instances"
	data, err := os.ReadFile(file)
	if err != nil {
		return nil // a kernel that does not tell does not limit
	}
	if limit, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && limit < need {
		return fmt.Errorf("so many nodes need about %d inotify instances and this machine allows %d: allow more with `sysctl fs.inotify.max_user_instances=%d`", need, limit, 2*need)
	}
	return nil
}
