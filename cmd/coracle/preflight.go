package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// neverAgain is a failure that restarting cannot mend.
func neverAgain(format string, args ...any) error {
	return codedError{fmt.Errorf(format, args...), exitUsage}
}

// needRoot refuses anyone else, in one sentence.
func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return neverAgain("%s needs root: it makes namespaces, cgroups and network links; try again with sudo", what)
	}
	return nil
}

// checkNode tells what this machine lacks to run pods.
func checkNode() error {
	if _, err := runtimeBinary(); err != nil {
		return err
	}
	if err := checkNftables(); err != nil {
		return neverAgain("this kernel has no nftables (%v): load or build the nf_tables module", err)
	}
	if err := checkCgroups(); err != nil {
		return err
	}
	return nil
}

// runtimeBinary finds the OCI runtime.
func runtimeBinary() (string, error) {
	for _, name := range []string{"runc", "crun"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", neverAgain("runc is missing: install it, as with `apt-get install runc`")
}

func checkNftables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

func checkCgroups() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return neverAgain("cgroups are not mounted at /sys/fs/cgroup: %v", err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	for _, controller := range []string{"memory", "cpu", "pids"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + controller); err != nil {
			return neverAgain("the %s cgroup controller is not mounted below /sys/fs/cgroup", controller)
		}
	}
	return nil
}

// checkPort tells whether the API's port can be taken.
func checkPort(listen string) error {
	l, err := net.Listen("tcp", listen)
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return neverAgain("%s is taken by another program; choose another port with --listen", listen)
	}
	return neverAgain("cannot listen on %s: %v", listen, err)
}
