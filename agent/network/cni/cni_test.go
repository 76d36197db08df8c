package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// world is a node with the plug-in for tests.
type world struct {
	t    *testing.T
	dir  string
	pods map[string]string // UID -> path of the namespace
}

func newWorld(t *testing.T) *world {
	testenv.NetNS(t)
	w := &world{t: t, dir: t.TempDir(), pods: map[string]string{}}
	for _, dir := range []string{"conf", "bin"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(w.dir, "bin", "tester"), "./testdata/plugin").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return w
}

// open is an agent that starts.
func (w *world) open() *Network {
	return New(Config{ConfDir: filepath.Join(w.dir, "conf"), BinDirs: []string{filepath.Join(w.dir, "bin")}, CacheDir: filepath.Join(w.dir, "cache")})
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// configure writes a configuration with an address, and capabilities as JSON.
func (w *world) configure(name, address, capabilities string) {
	w.t.Helper()
	w.write("conf/"+name, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "testnet", "plugins": [
		{"type": "tester", "address": %q, "log": %q, "broken": %q, "capabilities": {%s}}]}`, address, filepath.Join(w.dir, "log"), filepath.Join(w.dir, "broken"), capabilities))
}

// log is what the plug-in was asked since the last time.
func (w *world) log() string {
	w.t.Helper()
	path := filepath.Join(w.dir, "log")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	_ = os.Remove(path)
	return strings.TrimSpace(string(text))
}

func (w *world) pod(uid string) network.Pod {
	if w.pods[uid] == "" {
		w.pods[uid] = testenv.PodNetNS(w.t)
	}
	return network.Pod{PodRef: runtime.PodRef{UID: uid, Namespace: "ns", Name: "web"}, NetNS: w.pods[uid]}
}

func links(t *testing.T) string {
	t.Helper()
	list, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range list {
		if strings.HasPrefix(l.Attrs().Name, "test-") {
			names = append(names, l.Attrs().Name)
		}
	}
	return strings.Join(names, " ")
}

func TestPluginsGivePodsTheirNetwork(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	n := w.open()
	if err := n.Configure(ctx, netip.Prefix{}); !errors.Is(err, ErrNotReady) || err.Error() != "Network plugin returns error: cni plugin not initialized" {
		t.Fatalf("without a configuration: %v", err)
	}
	if _, err := n.Setup(ctx, w.pod("u1")); !errors.Is(err, ErrNotReady) {
		t.Fatalf("a pod without a configuration: %v", err)
	}
	w.write("conf/10-bad.conflist", "{")
	w.write("conf/20-missing.conf", `{"cniVersion": "1.0.0", "name": "x", "type": "nonesuch"}`)
	if err := n.Configure(ctx, netip.Prefix{}); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "10-bad.conflist") || !strings.Contains(err.Error(), `failed to find plugin "nonesuch"`) {
		t.Fatalf("with bad configurations: %v", err)
	}
	w.configure("30-good.conflist", "10.1.2.3/24", `"portMappings": true, "bandwidth": true`)
	w.write("broken", "")
	if err := n.Configure(ctx, netip.Prefix{}); err == nil || !strings.Contains(err.Error(), "Network plugin returns error: ") || !strings.Contains(err.Error(), "the plug-in is broken") {
		t.Fatalf("a plug-in that is not ready: %v", err)
	}
	if err := os.Remove(filepath.Join(w.dir, "broken")); err != nil {
		t.Fatal(err)
	}
	if err := n.Configure(ctx, netip.Prefix{}); err != nil {
		t.Fatal(err)
	}

	pod := w.pod("u1")
	pod.Ports = []network.HostPort{{Protocol: "UDP", Port: 53, PodPort: 5353}, {Address: netip.MustParseAddr("127.0.0.1"), Protocol: "TCP", Port: 80, PodPort: 8080}}
	pod.Bandwidth = network.Bandwidth{Ingress: 1_000_000}
	addrs, err := n.Setup(ctx, pod)
	if err != nil || len(addrs) != 1 || addrs[0].String() != "10.1.2.3" {
		t.Fatalf("%v, %v", addrs, err)
	}
	want := `ADD u1 eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=u1;K8S_POD_UID=u1 ` +
		`{"bandwidth":{"ingressBurst":4294967295,"ingressRate":1000000},"portMappings":[{"containerPort":5353,"hostPort":53,"protocol":"udp"},` +
		`{"containerPort":8080,"hostIP":"127.0.0.1","hostPort":80,"protocol":"tcp"}]}`
	if got := w.log(); got != want {
		t.Errorf("the plug-in was asked\n%s\nwant\n%s", got, want)
	}

	// An agent that starts anew, with another configuration, leaves the pod as it is, and removes it as it was added.
	w.configure("30-good.conflist", "10.1.2.4/24", "")
	n = w.open()
	if err := n.Configure(ctx, netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	if addrs, err := n.Setup(ctx, pod); err != nil || addrs[0].String() != "10.1.2.3" || w.log() != "" {
		t.Errorf("after a restart: %v, %v", addrs, err)
	}
	if pods := n.Pods(); len(pods) != 1 || pods["u1"].String() != "10.1.2.3" {
		t.Errorf("pods %v", pods)
	}
	for range 2 { // the second time there is nothing to do
		if err := n.Teardown(ctx, pod.PodRef); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.log(); got != strings.Replace(want, "ADD", "DEL", 1) {
		t.Errorf("the plug-in was asked\n%s", got)
	}
	if left := links(t); left != "" || len(n.Pods()) != 0 {
		t.Errorf("left behind: %s, %v", left, n.Pods())
	}

	// What no plug-in can do is refused, and what fails leaves nothing.
	if _, err := n.Setup(ctx, pod); err == nil || !strings.Contains(err.Error(), `no plugin of network "testnet" has the capability`) {
		t.Errorf("host ports without the capability: %v", err)
	}
	gone := w.pod("u2")
	gone.NetNS = "/nowhere"
	if _, err := n.Setup(ctx, gone); err == nil || !strings.Contains(err.Error(), `plugin of network "testnet" failed (add)`) || !strings.Contains(w.log(), "DEL u2") {
		t.Errorf("no namespace: %v", err)
	}

	// A namespace that was made anew, as after the machine's restart.
	again := w.pod("u3")
	if _, err := n.Setup(ctx, again); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(w.pods["u3"], unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	delete(w.pods, "u3")
	again = w.pod("u3")
	if pods := n.Pods(); len(pods) != 0 {
		t.Errorf("on the network without an interface: %v", pods)
	}
	if addrs, err := n.Setup(ctx, again); err != nil || addrs[0].String() != "10.1.2.4" || !strings.Contains(w.log(), "DEL u3") {
		t.Errorf("a new namespace: %v, %v", addrs, err)
	}
	if err := Cleanup(ctx, filepath.Join(w.dir, "cache"), []string{filepath.Join(w.dir, "bin")}); err != nil {
		t.Fatal(err)
	}
	if left := links(t); left != "" || len(n.Pods()) != 0 {
		t.Errorf("left behind: %s, %v", left, n.Pods())
	}
}

func TestChangesOfTheConfigurationAreTold(t *testing.T) {
	w := &world{t: t, dir: t.TempDir()}
	n := w.open()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	told := func(what string) {
		t.Helper()
		select {
		case <-n.Changes():
		case <-time.After(time.Minute):
			t.Fatal(what)
		}
	}
	told("the start")
	w.write("conf/a.conf", "{}")
	told("a new file")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
