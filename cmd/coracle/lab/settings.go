package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Settings are what was asked for when the lab was made. All else is read from what exists.
type Settings struct {
	Subnet netip.Prefix `json:"subnet"`
	// ServerFlags and AgentFlags are given to `coracle server` and `coracle agent` besides their own.
	ServerFlags []string `json:"serverFlags,omitempty"`
	AgentFlags  []string `json:"agentFlags,omitempty"`
	// Merged is nil unless the lab's kubeconfig was merged into another.
	Merged *merged `json:"merged,omitempty"`
	// Images are the names of those that all nodes have.
	Images []string `json:"images,omitempty"`
}

// Lab is one lab of this machine.
type Lab struct {
	Plan
	Settings
}

// ErrNone is returned (wrapped) for a lab that is not there.
var ErrNone = errors.New("there is no such lab")

// Open finds a lab.
func Open(root Root, name string) (*Lab, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	l := &Lab{Plan: Plan{Root: root, Name: name}}
	data, err := os.ReadFile(l.settings())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s; make it with `coracle lab up%s`, or see `coracle lab list`", ErrNone, name, nameFlag(name))
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &l.Settings); err != nil || !l.Settings.Subnet.IsValid() {
		return nil, fmt.Errorf("%s is damaged: remove the lab with `coracle lab down%s`", l.settings(), nameFlag(name))
	}
	l.Plan.Subnet = l.Settings.Subnet
	return l, nil
}

// nameFlag is how a lab is named on the command line, with a blank before it; empty for the usual one.
func nameFlag(name string) string {
	if name == DefaultName {
		return ""
	}
	return " --name " + name
}

func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.Settings, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(l.settings(), append(data, '\n'), 0o600)
}

// writeFile replaces a file as a whole.
func writeFile(path string, data []byte, mode os.FileMode) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, data, mode); err != nil {
		return err
	}
	if err := os.Chmod(temp, mode); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// Names lists the labs of this machine, also those that are damaged or half made.
func Names(root Root) ([]string, error) {
	entries, err := os.ReadDir(root.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Machines are the lab's server and nodes, running or not.
func (p Plan) Machines() ([]string, error) {
	entries, err := os.ReadDir(p.nodes())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, node := NodeNumber(e.Name()); node || e.Name() == Server {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, CompareNodes)
	return names, err
}

// has tells whether the lab has a machine, in words where it has not.
func (l *Lab) has(node string) error {
	machines, err := l.Machines()
	if err != nil {
		return err
	}
	if !slices.Contains(machines, node) {
		return fmt.Errorf("the lab %s has no machine %q: it has %v", l.Name, node, machines)
	}
	return nil
}

// lock keeps others from changing labs of this machine at the same time; it waits for them.
func lock(root Root) (unlock func(), err error) {
	if err := os.MkdirAll(root.Run, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(root.Run, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
