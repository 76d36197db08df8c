// Command witness is the one program of the containers that the crash test runs: it writes down when it starts and ends, and holds a lock for
// its life, so that two instances of one container at the same time are seen.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one line of what was seen. What is start, end, twice, postStart or preStop.
type entry struct {
	At                       time.Time
	What, UID, Name, Attempt string
	Code                     int
}

func main() {
	name := flag.String("name", "", "the container's name")
	_ = flag.String("of", "", "whose test it is, for whoever looks at the command line")
	runs := flag.Duration("for", 0, "how long to run; 0 is until SIGTERM")
	dies := flag.Duration("dies", 0, "how long to take to end after SIGTERM")
	code := flag.Int("code", 0, "the exit code")
	fails := flag.Bool("fails-first", false, "exit with 9 where this is the container's first attempt")
	flag.Parse()
	e := entry{UID: os.Getenv("POD_UID"), Name: *name, Attempt: attempt()}
	if hook := flag.Arg(0); hook != "" {
		e.note(hook)
		return
	}
	lock, err := os.OpenFile("/record/"+e.UID+"."+e.Name+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		fail(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		e.note("twice")
		fail(err)
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, unix.SIGTERM)
	e.note("start")
	var over <-chan time.Time
	if *runs > 0 {
		over = time.After(*runs)
	}
	select {
	case <-over:
	case <-terminate:
		time.Sleep(*dies)
	}
	if e.Code = *code; *fails && e.Attempt == "0" {
		e.Code = 9
	}
	e.note("end")
	os.Exit(e.Code)
}

// attempt is the container's restart count: the agent names the file for the termination message after it.
func attempt() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		fail(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/dev/termination-log" {
			return path.Base(fields[3])
		}
	}
	return "?"
}

// note appends a line: one write, so that lines of several containers do not mix.
func (e entry) note(what string) {
	e.At, e.What = time.Now(), what
	line, err := json.Marshal(e)
	if err != nil {
		fail(err)
	}
	f, err := os.OpenFile("/record/record", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fail(err)
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "witness:", err)
	os.Exit(70)
}
