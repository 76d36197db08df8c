package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/coracle-dev/coracle/internal/sysctl"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// machine is a network namespace that stands for a node, with all that is done in it.
type machine struct {
	t    *testing.T
	path string
	addr netip.Addr
	cidr netip.Prefix
	file string // of the kernel parameters' originals

	n    *Network
	stop func()
	pods map[string]string // UID -> path of the namespace
}

// machines makes nodes at one switch, with the addresses 10.99.0.1, 10.99.0.2 and so on, of which the ranges 10.244.1.0/24, 10.244.2.0/24 and so on are.
func machines(t *testing.T, count, mtu int) []*machine {
	t.Helper()
	testenv.NetNS(t) // holds the switch
	shell(t, "", "ip link add switch0 type bridge; ip link set switch0 mtu %d up", mtu)
	var out []*machine
	for i := 1; i <= count; i++ {
		m := &machine{t: t, path: testenv.PodNetNS(t), addr: netip.AddrFrom4([4]byte{10, 99, 0, byte(i)}),
			cidr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24), file: filepath.Join(t.TempDir(), "sysctls"), pods: map[string]string{}}
		shell(t, "", "ip link add port%d mtu %d type veth peer name eth0 mtu %d netns %s; ip link set port%d master switch0 up", i, mtu, mtu, m.path, i)
		shell(t, m.path, "ip link set lo up; ip address add %s/24 dev eth0; ip link set eth0 up", m.addr)
		out = append(out, m)
	}
	return out
}

// shell runs commands in the namespace at path, in the calling thread's own if that is empty.
func shell(t *testing.T, path, format string, args ...any) string {
	t.Helper()
	for i, a := range args {
		if file, ok := a.(string); ok && strings.HasPrefix(file, "/") && strings.HasSuffix(file, "/net") {
			args[i] = nameNetNS(t, file)
		}
	}
	command := []string{"sh", "-ec", fmt.Sprintf(format, args...)}
	if path != "" {
		command = append([]string{"nsenter", "--net=" + path, "--"}, command...)
	}
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
	return string(out)
}

// nameNetNS gives ip(8) a name of the namespace at path: the id of a process in it.
func nameNetNS(t *testing.T, path string) string {
	t.Helper()
	sleeper := exec.Command("nsenter", "--net="+path, "--", "sleep", "600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	await(t, "a process in the namespace", func() error {
		a, _ := os.Stat(path)
		b, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", sleeper.Process.Pid))
		if err != nil || !os.SameFile(a, b) {
			return fmt.Errorf("not there yet: %v", err)
		}
		return nil
	})
	return fmt.Sprint(sleeper.Process.Pid)
}

// await asks until check gives nil, for a minute at most.
func await(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// start runs the node's network, as an agent that starts does.
func (m *machine) start(o Overlay) {
	m.t.Helper()
	m.n = New(Config{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), Sysctls: sysctl.NewKeeper(m.file),
		NetNS: func(uid string) string { return m.pods[uid] }, NodeName: m.name(), NodeIP: m.addr, Overlay: o})
	inside(m.t, m.path, func() error { return m.n.Configure(context.Background(), m.cidr) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(m.path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = m.n.Run(ctx)
		}
		done <- err
	}()
	m.stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Error(err)
		}
		m.stop = func() {}
	}
	m.t.Cleanup(func() { m.stop() })
}

func (m *machine) name() string { return "node-" + strings.TrimPrefix(m.addr.String(), "10.99.0.") }

func (m *machine) peer() Peer { return Peer{Name: m.name(), Addr: m.addr, Range: m.cidr} }

// know tells the node of the others.
func (m *machine) know(others ...*machine) {
	var list []Peer
	for _, o := range others {
		if o != m {
			list = append(list, o.peer())
		}
	}
	m.n.SetPeers(list)
}

// namespace makes one for a pod.
func (m *machine) namespace(uid string) string {
	m.pods[uid] = testenv.PodNetNS(m.t)
	return m.pods[uid]
}

// pod gives the node a pod, which serves its name on port 8080.
func (m *machine) pod(uid string, ports ...HostPort) (path string, addr netip.Addr) {
	m.t.Helper()
	path = m.namespace(uid)
	inside(m.t, m.path, func() error {
		addrs, err := m.n.Setup(context.Background(), onNetwork(uid, path, ports...))
		if err == nil {
			addr = addrs[0]
		}
		return err
	})
	serve(m.t, path, addr.String()+":8080", uid)
	return path, addr
}

// reaches asks a server from a namespace until it answers so.
func reaches(t *testing.T, from, addr, want string) {
	t.Helper()
	await(t, "from "+from+" to "+addr, func() error {
		var got string
		var err error
		inside(t, from, func() error { got, err = ask(addr); return nil })
		if err == nil && got != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return err
	})
}

func (m *machine) routes() string {
	m.t.Helper()
	lines := strings.Split(strings.TrimSpace(shell(m.t, m.path, "ip route show proto %d | sed 's/ *$//'", routeProtocol)), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
