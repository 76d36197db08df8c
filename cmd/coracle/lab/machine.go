package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/assets"
	"github.com/coracle-dev/coracle/internal/paths"
)

// first is the process of a machine that all others of it are below; 0 where it is off.
func (p Plan) first(node string) (int, error) {
	pids, err := processes(filepath.Join(p.NodeCgroup(node), ownCgroup), false)
	if err != nil {
		return 0, err
	}
	depth := len(namespacePIDs("self"))
	for _, pid := range pids {
		if ids := namespacePIDs(strconv.Itoa(pid)); len(ids) == depth+1 && ids[depth] == "1" {
			return pid, nil
		}
	}
	return 0, nil
}

// namespacePIDs are a process's ids, in the namespace of /proc first; none once it has ended.
func namespacePIDs(pid string) []string {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.Fields(ids)
		}
	}
	return nil
}

// running lists the machines that are on.
func (p Plan) running() ([]string, error) {
	machines, err := p.Machines()
	if err != nil {
		return nil, err
	}
	var on []string
	for _, node := range machines {
		pid, err := p.first(node)
		if err != nil {
			return nil, err
		}
		if pid != 0 {
			on = append(on, node)
		}
	}
	return on, nil
}

// boot starts a machine, which must be off, with its folder in place. It returns when its first process runs.
func (l *Lab) boot(node string, command []string) error {
	if err := makeCgroups(l.NodeCgroup(node)); err != nil {
		return err
	}
	gateway, err := l.gateway()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	id := sha256.Sum256([]byte(l.Dir() + "/" + node))
	spec := bootSpec{
		Node: node, Root: l.NodeRoot(node), Self: self, Cgroup: l.NodeCgroup(node), Gateway: gateway,
		Address: netip.PrefixFrom(l.Address(node), l.Plan.Subnet.Bits()), Hosts: l.hosts(), Resolv: l.resolv(),
		MachineID: hex.EncodeToString(id[:16]), BootID: newUUID(),
		Command: append([]string{filepath.Join(paths.DefaultData, "bin", assets.Supervise),
			"-pidfile", paths.DefaultRun + "/coracle.pid", "-log", paths.DefaultData + "/log/coracle.log", "--", nodeSelf}, command...),
	}
	if err := l.launch(spec); err != nil {
		_ = l.kill(context.Background(), node)
		return fmt.Errorf("boot %s: %w", node, err)
	}
	return nil
}

// launch starts the first process in its namespaces, gives it its cable and its orders, and waits until it has carried them out.
func (l *Lab) launch(spec bootSpec) error {
	orders, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	problems, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer problems.Close()
	out, err := os.OpenFile(l.bootLog(spec.Node), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		tell.Close()
		return err
	}
	defer out.Close()
	cmd := exec.Command(spec.Self, "lab", "boot")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.Dir = out, out, []*os.File{tell}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		tell.Close()
		return err
	}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return fmt.Errorf("%w: this kernel may lack namespaces", err)
	}
	go func() { _ = cmd.Wait() }() // it is waited for so that it leaves nothing when it ends before this process does
	err = l.connect(spec.Node, cmd.Process.Pid)
	if err == nil {
		_, err = io.Copy(in, bytes.NewReader(orders))
	}
	in.Close()
	problem, rerr := io.ReadAll(problems)
	if len(problem) > 0 {
		err = errors.New(string(problem))
	}
	if err = errors.Join(err, rerr); err != nil {
		_ = cmd.Process.Kill()
	}
	return err
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// gateway is the machines' way out; invalid where there is none.
func (l *Lab) gateway() (netip.Addr, error) {
	out, err := wayOut()
	if err != nil || !out {
		return netip.Addr{}, err
	}
	return l.Host(), nil
}

// kill ends a machine as a power cut does: its network first, then all its processes at once. What it kept in memory is lost, what it wrote
// to its disk stays. A machine that is off already is left as it is.
func (p Plan) kill(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cut := p.disconnect(node)
	if err := errors.Join(cut, endAll(ctx, p.NodeCgroup(node))); err != nil {
		return err
	}
	return removeCgroups(ctx, p.NodeCgroup(node))
}

// endAll kills the processes of a cgroup until none is left. The first of a machine comes first: with it the kernel ends all of its namespace.
func endAll(ctx context.Context, cgroup string) error {
	for {
		pids, err := processes(cgroup, true)
		if err != nil || len(pids) == 0 {
			return err
		}
		slices.SortStableFunc(pids, func(a, b int) int { return len(namespacePIDs(strconv.Itoa(a))) - len(namespacePIDs(strconv.Itoa(b))) })
		for _, pid := range pids {
			if pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end", pids)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
