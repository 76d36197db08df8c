// Escape tries, from inside a container, what no container may do to the machine and to other pods, and tells what it managed. It is
// part of the tests.
//
//	escape [PATH...]                  tries everything, and to read these files of the host
//	escape send FROM TO PORT TEXT...   sends a datagram for each text, those that begin with "forged" from the address FROM
//	escape hear PORT                  prints the datagrams that come to a port
//	escape euid                       prints the effective user
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// attempt is something that must fail: do returns nil where it was managed.
type attempt struct {
	name string
	do   func() error
}

// innerArg has the attempts made again with all powers within a user namespace of the container's own making.
const innerArg = "inner"

func main() {
	args := os.Args[1:]
	var err error
	switch {
	case len(args) == 1 && args[0] == "euid":
		fmt.Println(os.Geteuid())
	case len(args) > 4 && args[0] == "send":
		err = send(args[1], args[2], args[3], args[4:])
	case len(args) == 2 && args[0] == "hear":
		err = hear(args[1])
	case len(args) > 0 && args[0] == innerArg:
		err = tryAll("inner ", append(mountAttempts(), kernelAttempts()...))
	default:
		err = errors.Join(tryAll("", outerAttempts(args)), tryInner())
		if err == nil {
			fmt.Println("held")
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func tryAll(prefix string, list []attempt) error {
	var errs []error
	for _, a := range list {
		if err := a.do(); err == nil {
			errs = append(errs, errors.New("MANAGED "+prefix+a.name))
		} else {
			fmt.Printf("refused %s%s: %v\n", prefix, a.name, err)
		}
	}
	return errors.Join(errs...)
}

// tryInner makes user, mount and other namespaces, which needs no privilege unless a seccomp profile forbids it.
func tryInner() error {
	cmd := exec.Command("/proc/self/exe", innerArg)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	own := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{UidMappings: own, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
		syscall.CLONE_NEWNET | syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Printf("refused user namespace: %v\n", err)
		return nil
	}
	return err
}

func outerAttempts(hostPaths []string) []attempt {
	list := append(fileAttempts(hostPaths), deviceAttempts()...)
	list = append(list, namespaceAttempts()...)
	list = append(list, mountAttempts()...)
	list = append(list, processAttempts()...)
	list = append(list, networkAttempts()...)
	return append(list, kernelAttempts()...)
}

// call makes a system call of which only the error counts.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := syscall.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// write opens an existing file for writing; nothing is written, unless text is given.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if text == "" {
		return nil
	}
	_, err = f.WriteString(text)
	return err
}

// read fails where nothing can be read: masked files are empty.
func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	_, err = f.Read(b[:])
	return err
}

// list fails where a folder has nothing in it.
func list(path string) error {
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) == 0 {
		err = errors.New("empty")
	}
	return err
}

// openDevice makes a device's node and opens it.
func openDevice(kind uint32, major, minor uint32, flags int) error {
	path := fmt.Sprintf("/tmp/node-%d-%d-%d", kind, major, minor)
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	defer os.Remove(path)
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return unix.Close(fd)
}
