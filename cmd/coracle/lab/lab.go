// Package lab makes clusters of several machines on one: each has namespaces for network, mounts, processes, names and cgroups, its own
// root folder and a cable to the lab's bridge, and runs `coracle server` or `coracle agent` as a real machine would.
//
// Its invariant: what a lab is, is read from what exists. A machine is its folder; it is on while the first process of its PID namespace
// lives, which is found by its cgroup; its namespaces, mounts and links go with that process. One small file holds what was asked for.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/internal/assets"
	"github.com/coracle-dev/coracle/internal/paths"
)

// Tools are what the lab needs of the rest of the program.
type Tools struct {
	// Token makes a token by which nodes join, valid for an hour.
	Token func(ctx context.Context, kubeconfig string) (string, error)
	// Step is told of each thing that is done.
	Step func(format string, args ...any)
}

// Request is what a new lab shall be.
type Request struct {
	Name  string
	Nodes int
	// Subnet is a /24; the zero value chooses a free one.
	Subnet                  netip.Prefix
	ServerFlags, AgentFlags []string
}

// Up makes a lab and waits until all its nodes are Ready. A lab that cannot be made leaves nothing.
func Up(ctx context.Context, root Root, r Request, t Tools) (l *Lab, err error) {
	if err := errors.Join(CheckName(r.Name), checkFlags("--server-flag", r.ServerFlags, "kubeconfig-out"), checkFlags("--agent-flag", r.AgentFlags, "server", "token")); err != nil {
		return nil, err
	}
	if r.Nodes < 1 || r.Nodes > MaxNodes {
		return nil, fmt.Errorf("--nodes %d: a lab has 1 to %d nodes", r.Nodes, MaxNodes)
	}
	if err := checkMachine(serverMemory, r.Nodes, r.Nodes); err != nil {
		return nil, err
	}
	if l, err = claim(ctx, root, r); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down(context.WithoutCancel(ctx)))
		}
	}()
	t.Step("network %s, bridge %s", l.Plan.Subnet, l.Bridge())
	if err := l.startServer(ctx); err != nil {
		return l, err
	}
	t.Step("control plane ready at %s", l.Address(Server))
	nodes, err := l.newNodes(r.Nodes)
	if err != nil {
		return l, err
	}
	if err := l.startNodes(ctx, nodes, t); err != nil {
		return l, err
	}
	if err := l.importDemo(ctx); err != nil {
		return l, fmt.Errorf("import the demo images: %w", err)
	}
	t.Step("demo images coracle/demo:v1 and coracle/demo:v2 imported")
	return l, nil
}

// checkFlags refuses flags that the lab gives itself.
func checkFlags(by string, flags []string, taken ...string) error {
	for _, flag := range flags {
		name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		if !strings.HasPrefix(flag, "--") {
			return fmt.Errorf("%s %q: want a whole flag, as --log-level=debug", by, flag)
		}
		for _, own := range append(taken, "config", "data-dir", "run-dir", "node-name", "node-ip", "advertise-address") {
			if name == own {
				return fmt.Errorf("%s %q: the lab gives --%s itself", by, flag, own)
			}
		}
	}
	return nil
}

// claim takes the name and a network, and makes the lab's folder and bridge.
func claim(ctx context.Context, root Root, r Request) (*Lab, error) {
	unlock, err := lock(root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	l := &Lab{Plan: Plan{Root: root, Name: r.Name}}
	if _, err := os.Stat(l.Dir()); err == nil {
		return nil, fmt.Errorf("there is a lab %s already: see `coracle lab status%[2]s`, remove it with `coracle lab down%[2]s`, or give this one another --name", r.Name, nameFlag(r.Name))
	}
	taken, err := usedNetworks()
	if err != nil {
		return nil, err
	}
	if l.Plan.Subnet = r.Subnet; r.Subnet.IsValid() {
		err = checkSubnet(r.Subnet, taken)
	} else {
		l.Plan.Subnet, err = freeSubnet(taken)
	}
	if err != nil {
		return nil, err
	}
	l.Settings = Settings{Subnet: l.Plan.Subnet, ServerFlags: r.ServerFlags, AgentFlags: r.AgentFlags}
	if err := errors.Join(os.MkdirAll(root.Data, 0o711), os.Mkdir(l.Dir(), 0o711), os.Mkdir(l.nodes(), 0o711)); err != nil {
		return nil, err
	}
	err = errors.Join(l.save(), l.ensureNetwork())
	if err == nil {
		err = assets.Unpack(l.bin())
	}
	if err != nil {
		return nil, errors.Join(err, l.remove(context.WithoutCancel(ctx)))
	}
	return l, nil
}

// ensureNetwork makes what machines share and a reboot takes away, and what they are told of names.
func (l *Lab) ensureNetwork() error {
	out, err := wayOut()
	if err != nil {
		return err
	}
	if err := errors.Join(l.ensureBridge(), l.openWayOut(out)); err != nil {
		return err
	}
	read := func(path string) string { data, _ := os.ReadFile(path); return string(data) }
	conf := resolvConf(out, read("/etc/resolv.conf"), read("/run/systemd/resolve/resolv.conf"))
	return errors.Join(os.WriteFile(l.resolv(), []byte(conf), 0o644), l.writeHosts())
}

func (p Plan) hosts() string { return filepath.Join(p.Dir(), "hosts") }

func (p Plan) resolv() string { return filepath.Join(p.Dir(), "resolv.conf") }

// writeHosts writes the file in place: machines have it bound over their own.
func (p Plan) writeHosts() error {
	machines, err := p.Machines()
	if err != nil {
		return err
	}
	return os.WriteFile(p.hosts(), []byte(p.hostsFile(machines)), 0o644)
}

// prepare makes a machine's folder, with the helpers as links to the lab's, so that their memory is shared too.
func (p Plan) prepare(node string) error {
	in := p.inside(node)
	for _, dir := range []string{in.Bin(), in.Logs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(p.NodeRoot(node), 0o755); err != nil {
		return err
	}
	helpers, err := os.ReadDir(p.bin().Bin())
	if err != nil {
		return err
	}
	for _, h := range helpers {
		from, to := filepath.Join(p.bin().Bin(), h.Name()), filepath.Join(in.Bin(), h.Name())
		if err := os.Link(from, to); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// startServer boots the control plane and waits until its API is ready.
func (l *Lab) startServer(ctx context.Context) error {
	err := l.bootLocked([]string{Server}, func(string) error {
		if err := errors.Join(l.prepare(Server), l.writeHosts()); err != nil {
			return err
		}
		command := []string{"server", "--config=/dev/null", "--kubeconfig-out=" + nodeKubeconfig, "--advertise-address=" + l.Address(Server).String()}
		return l.boot(Server, append(command, l.ServerFlags...))
	})
	if err != nil {
		return err
	}
	return l.explain(Server, l.awaitAPI(ctx))
}

// startNodes boots nodes that are off, and waits until they are Ready.
func (l *Lab) startNodes(ctx context.Context, nodes []string, t Tools) error {
	url, err := l.serverURL()
	if err != nil {
		return err
	}
	token, err := l.token(ctx, nodes, t)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := l.bootLocked(nodes, func(node string) error { return l.startNode(node, url, token) }); err != nil {
		return err
	}
	if err := l.awaitNodes(ctx, nodes, started, t.Step); err != nil {
		return err
	}
	if err := l.supply(ctx, nodes); err != nil {
		return fmt.Errorf("give the nodes the lab's images: %w", err)
	}
	return nil
}

// token makes one if any of the nodes has yet to join.
func (l *Lab) token(ctx context.Context, nodes []string, t Tools) (string, error) {
	for _, node := range nodes {
		if _, err := os.Stat(l.inside(node).Kubeconfig("agent")); err == nil {
			continue
		}
		token, err := t.Token(ctx, l.Kubeconfig())
		if err != nil {
			err = fmt.Errorf("make a token: %w", err)
		}
		return token, err
	}
	return "", nil
}

func (l *Lab) startNode(node, server, token string) error {
	settings := map[string]string{"node-name": node, "node-ip": l.Address(node).String(), "server": server}
	if token != "" {
		settings["token"] = token
	}
	config, err := yaml.Marshal(settings)
	if err != nil {
		return err
	}
	path := filepath.Join(l.NodeRoot(node), nodeConfig)
	if err := writeFile(path, config, 0o600); err != nil {
		return err
	}
	// The nodes share this machine's disk with all else on it: that it is nearly full is not theirs to mend.
	command := []string{"agent", "--config=" + nodeConfig, "--eviction-hard=memory.available<100Mi", "--image-gc-high-threshold=100"}
	return l.boot(node, append(command, l.AgentFlags...))
}

// explain adds the last lines of a machine's log to an error.
func (p Plan) explain(node string, err error) error {
	if err == nil {
		return nil
	}
	for _, log := range []string{p.NodeLog(node), p.bootLog(node)} {
		if data, rerr := os.ReadFile(log); rerr == nil && len(data) > 0 {
			lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
			return fmt.Errorf("%s: %w\nthe last lines of %s:\n%s", node, err, log, strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	}
	return fmt.Errorf("%s: %w", node, err)
}

// Down removes a lab and all that belongs to it, whatever is there of it: half of it, or what a crash of the machine has left. Nothing at
// all is no error.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := lock(l.Root)
	if err != nil {
		return err
	}
	defer unlock()
	if now, err := Open(l.Root, l.Name); err == nil {
		l = now // another may have changed it
	}
	return l.remove(ctx)
}

func (l *Lab) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	machines, err := children(l.Cgroup())
	errs := []error{err, endAll(ctx, l.Cgroup())}
	for _, node := range machines {
		errs = append(errs, l.disconnect(node))
	}
	errs = append(errs, removeCgroups(ctx, l.Cgroup()), l.removeLinks(), l.removeTables(), l.unmergeKubeconfig(), unmountBelow(l.Dir()))
	if err := errors.Join(errs...); err != nil {
		return err // the folder stays, by which it can be tried again
	}
	if err := os.RemoveAll(l.Dir()); err != nil {
		return err
	}
	return removeRoot(l.Root)
}

// unmountBelow unmounts what someone mounted inside a machine's folder: a lab itself mounts nothing there that others see.
func unmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	for i := len(mounts) - 1; i >= 0 && err == nil; i-- {
		err = unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return err
}

// removeRoot removes the folders of all labs, and what was changed for all, when none is left.
func removeRoot(root Root) error {
	if names, err := Names(root); err != nil || len(names) > 0 {
		return err
	}
	if err := root.closeWayOut(); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(root.Run, "lock"))
	dirs := []string{root.Data, root.Run}
	if root.Data == DefaultData {
		dirs = append(dirs, paths.DefaultData)
	}
	if root.Run == DefaultRun {
		dirs = append(dirs, paths.DefaultRun)
	}
	for _, dir := range dirs {
		_ = os.Remove(dir) // fails where others use it
	}
	return nil
}
