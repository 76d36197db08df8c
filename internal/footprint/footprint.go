// Package footprint keeps a process that mostly waits small. Most of what a Go program touches it touches once, when it
// starts: the code and tables of its packages' initialisation, and memory for what it then drops. Release gives both back
// to the kernel.
//
// Its invariant: only pages that the kernel can read again from the executable's file are dropped, so nothing can be
// lost; they come back one fault at a time when they are used.
package footprint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// checkEvery is how often Keep looks at the process, and the time over which it has to have been quiet.
	checkEvery = 30 * time.Second
	// quiet is the CPU time in checkEvery below which a process counts as waiting.
	quiet = checkEvery / 50
	// worth is the growth in bytes from which it pays to release again.
	worth = 12 << 20
)

// Keep releases once after settle, when the process has started up, and again whenever it is quiet after it has grown.
// It returns nil at ctx's end. Where the kernel does not show a process its own memory it does nothing.
func Keep(ctx context.Context, settle time.Duration) error {
	k := keeper{released: -worth}
	for wait := settle; ; wait = checkEvery {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err := k.look(wait == settle); err != nil {
			<-ctx.Done()
			return nil
		}
	}
}

// keeper remembers what a process was at the last look.
type keeper struct {
	released int64         // the RSS after the last release
	used     time.Duration // the CPU time
}

func (k *keeper) look(first bool) error {
	used, err := cpuTime()
	if err != nil {
		return err
	}
	resident, err := residentBytes()
	if err != nil {
		return err
	}
	waiting := first || used-k.used < quiet
	k.used = used
	if !waiting || resident-k.released < worth {
		return nil
	}
	if err := Release(); err != nil {
		return err
	}
	k.released, err = residentBytes()
	return err
}

// Release collects garbage, returns the free memory, and drops the pages of the executable from the process: they stay in
// the kernel's page cache as long as that sees fit.
func Release() error {
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	ranges, err := cleanRanges(f, exe)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range ranges {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("madvise %#x: %w", r.start, errno))
		}
	}
	return errors.Join(errs...)
}

// addresses is a range of the process's address space.
type addresses struct{ start, end uintptr }

// cleanRanges finds in a process's smaps the mappings of the executable that it cannot write and that hold nothing but the
// file's own pages. (Code with a debugger's breakpoints and tables that a loader has relocated hold others.)
func cleanRanges(smaps io.Reader, exe string) ([]addresses, error) {
	var found []addresses
	var current addresses
	candidate := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if r, ok := header(line); ok {
			current, candidate = r, readOnlyPrivate(line) && strings.HasSuffix(line, " "+exe)
			continue
		}
		if value, ok := strings.CutPrefix(line, "Anonymous:"); ok && candidate && strings.TrimSpace(value) == "0 kB" {
			found = append(found, current)
		}
	}
	return found, lines.Err()
}

// header parses the first line of a mapping: start-end perms offset device inode path.
func header(line string) (r addresses, ok bool) {
	span, _, _ := strings.Cut(line, " ")
	low, high, ok := strings.Cut(span, "-")
	if !ok {
		return r, false
	}
	start, err1 := strconv.ParseUint(low, 16, 64)
	end, err2 := strconv.ParseUint(high, 16, 64)
	return addresses{uintptr(start), uintptr(end)}, err1 == nil && err2 == nil
}

// readOnlyPrivate looks at the permissions in the first line of a mapping.
func readOnlyPrivate(line string) bool {
	f := strings.Fields(line)
	return len(f) > 1 && (f[1] == "r--p" || f[1] == "r-xp")
}

func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// residentBytes is the process's RSS.
func residentBytes() (int64, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(data))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/self/statm: %q", data)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
