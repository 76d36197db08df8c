// Package cni gives pods their network by CNI plug-ins (Container Network Interface specification 1.1) in place of the built-in one. Its
// invariant: the plug-ins' kept results are the only record of who is on the network, so that an agent that starts anew knows it.
package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/fsnotify/fsnotify"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/runtime"
	"github.com/coracle-dev/coracle/internal/iface"
)

// podInterface is the interface's name inside a pod.
const podInterface = "eth0"

// uidArg is the argument by which plug-ins are told a pod's UID, and by which our results are known among others'.
const uidArg = "K8S_POD_UID"

// ErrNotReady: there is no configuration that can be used.
var ErrNotReady = errors.New("Network plugin returns error: cni plugin not initialized")

// Config is what New needs.
type Config struct {
	// ConfDir is the folder of configurations; the first by name counts. BinDirs are where plug-ins are looked for.
	ConfDir string
	BinDirs []string
	// CacheDir keeps the plug-ins' results, below results.
	CacheDir string
}

// Network has plug-ins do the work.
type Network struct {
	cfg     Config
	cni     *libcni.CNIConfig
	changes chan struct{}

	mu   sync.Mutex
	list *libcni.NetworkConfigList // nil before Configure
}

// New makes a Network; Configure must follow, and Run follows changes of the configuration.
func New(cfg Config) *Network {
	return &Network{cfg: cfg, cni: libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, nil), changes: make(chan struct{}, 1)}
}

// Changes has an element after the configuration has changed.
func (n *Network) Changes() <-chan struct{} { return n.changes }

// Status is unknown: plug-ins tell of the ways to other nodes themselves.
func (n *Network) Status() network.Status { return network.Status{} }

// Run tells of changes of the configuration until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	if err := os.MkdirAll(n.cfg.ConfDir, 0o755); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(n.cfg.ConfDir); err != nil {
		return fmt.Errorf("watch %s: %w", n.cfg.ConfDir, err)
	}
	for {
		select { // what came before the watch counts as changed too
		case n.changes <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
		case <-watcher.Errors:
		}
	}
}

// Configure reads the configuration, and asks the plug-ins whether they are ready. The node's range is theirs to look at.
func (n *Network) Configure(ctx context.Context, _ netip.Prefix) error {
	list, err := n.load(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = list
	return err
}

func (n *Network) load(ctx context.Context) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.cfg.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	slices.Sort(files)
	problems := []error{ErrNotReady}
	for _, file := range files {
		list, err := read(file)
		if err == nil {
			_, err = n.cni.ValidateNetworkList(ctx, list)
		}
		if err == nil {
			if err := n.cni.GetStatusNetworkList(ctx, list); err != nil {
				return nil, fmt.Errorf("Network plugin returns error: %w", err)
			}
			return list, nil
		}
		problems = append(problems, fmt.Errorf("%s: %w", file, err))
	}
	return nil, errors.Join(problems...)
}

// read reads a file with one plug-in's configuration, or a list of them.
func read(file string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(file, ".conflist") {
		return libcni.NetworkConfFromFile(file)
	}
	//lint:ignore SA1019 such files are common still
	one, err := libcni.ConfFromFile(file)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 such files are common still
	return libcni.ConfListFromConf(one)
}

func (n *Network) current() *libcni.NetworkConfigList {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list
}

// Setup has the plug-ins add the pod; one that is on the network stays as it is.
func (n *Network) Setup(ctx context.Context, pod network.Pod) ([]netip.Addr, error) {
	list := n.current()
	if list == nil {
		return nil, ErrNotReady
	}
	if addrs := n.addresses(pod.UID); len(addrs) > 0 && holds(pod.NetNS, addrs[0]) {
		return addrs, nil
	}
	// What an attempt left that was cut off, or an earlier namespace of the pod.
	if err := n.Teardown(ctx, pod.PodRef); err != nil {
		return nil, err
	}
	wishes, err := capabilities(list, pod)
	if err != nil {
		return nil, err
	}
	rt := &libcni.RuntimeConf{ContainerID: pod.UID, NetNS: pod.NetNS, IfName: podInterface, CapabilityArgs: wishes, Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", pod.Namespace}, {"K8S_POD_NAME", pod.Name}, {"K8S_POD_INFRA_CONTAINER_ID", pod.UID}, {uidArg, pod.UID}}}
	if _, err := n.cni.AddNetworkList(ctx, list, rt); err != nil {
		return nil, errors.Join(fmt.Errorf("plugin of network %q failed (add): %w", list.Name, err), n.cni.DelNetworkList(ctx, list, rt))
	}
	addrs := n.addresses(pod.UID)
	if len(addrs) == 0 {
		return nil, errors.Join(fmt.Errorf("plugins of network %q gave the pod no address", list.Name), n.cni.DelNetworkList(ctx, list, rt))
	}
	return addrs, nil
}

// capabilities are what the pod wants of plug-ins that can do it; that none can is an error.
func capabilities(list *libcni.NetworkConfigList, pod network.Pod) (map[string]any, error) {
	out := map[string]any{}
	if len(pod.Ports) > 0 {
		var ports []map[string]any
		for _, p := range pod.Ports {
			one := map[string]any{"hostPort": p.Port, "containerPort": p.PodPort, "protocol": strings.ToLower(p.Protocol)}
			if p.Address.IsValid() {
				one["hostIP"] = p.Address.String()
			}
			ports = append(ports, one)
		}
		out["portMappings"] = ports
	}
	if b := pod.Bandwidth; b != (network.Bandwidth{}) {
		limits := map[string]any{}
		if b.Ingress > 0 {
			limits["ingressRate"], limits["ingressBurst"] = b.Ingress, uint64(math.MaxUint32)
		}
		if b.Egress > 0 {
			limits["egressRate"], limits["egressBurst"] = b.Egress, uint64(math.MaxUint32)
		}
		out["bandwidth"] = limits
	}
	for wish := range out {
		if !slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[wish] }) {
			return nil, fmt.Errorf("no plugin of network %q has the capability %s, which the pod needs", list.Name, wish)
		}
	}
	return out, nil
}

// Teardown has the plug-ins remove the pod, as they were configured when they added it.
func (n *Network) Teardown(ctx context.Context, pod runtime.PodRef) error {
	attachments, err := n.attachments(pod.UID)
	if err != nil {
		return err
	}
	for _, a := range attachments {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			return fmt.Errorf("kept configuration of pod %s: %w", pod.UID, err)
		}
		rt := &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: namespaceAt(a.NetNS), IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs}
		if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
			return fmt.Errorf("plugin of network %q failed (delete): %w", list.Name, err)
		}
	}
	return nil
}

// namespaceAt is the path if there is a namespace: after the machine has started anew there is none, and plug-ins free what they keep by themselves.
func namespaceAt(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		return ""
	}
	return path
}

// Cleanup has plug-ins remove all pods that are on networks by their results in cacheDir.
func Cleanup(ctx context.Context, cacheDir string, binDirs []string) error {
	n := New(Config{BinDirs: binDirs, CacheDir: cacheDir})
	all, err := n.attachments("")
	errs := []error{err}
	for _, a := range all {
		errs = append(errs, n.Teardown(ctx, runtime.PodRef{UID: a.ContainerID}))
	}
	return errors.Join(errs...)
}

// attachments are the kept results of a pod, or of all pods if uid is empty.
func (n *Network) attachments(uid string) ([]*libcni.NetworkAttachment, error) {
	all, err := n.cni.GetCachedAttachments(uid)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return slices.DeleteFunc(all, func(a *libcni.NetworkAttachment) bool {
		return !slices.Contains(a.CniArgs, [2]string{uidArg, a.ContainerID}) // another's
	}), err
}

// addresses are those of a pod, as its kept results have them, IPv4 first.
func (n *Network) addresses(uid string) []netip.Addr {
	attachments, err := n.attachments(uid)
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range attachments {
		out = append(out, n.kept(a)...)
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) })
	return out
}

func (n *Network) kept(a *libcni.NetworkAttachment) []netip.Addr {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return nil
	}
	kept, err := n.cni.GetNetworkListCachedResult(list, &libcni.RuntimeConf{ContainerID: a.ContainerID, IfName: a.IfName})
	if err != nil || kept == nil {
		return nil
	}
	result, err := current.NewResultFromResult(kept)
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// Pods lists the pods that hold an address, by UID: those whose namespace still has it.
func (n *Network) Pods() map[string]netip.Addr {
	out := map[string]netip.Addr{}
	attachments, err := n.attachments("")
	if err != nil {
		return out
	}
	for _, a := range attachments {
		if addrs := n.addresses(a.ContainerID); len(addrs) > 0 && holds(a.NetNS, addrs[0]) {
			out[a.ContainerID] = addrs[0]
		}
	}
	return out
}

// holds tells whether the pod's interface has the address in the namespace at path.
func holds(path string, addr netip.Addr) bool {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return false
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return false
	}
	defer h.Close()
	link, err := h.LinkByName(podInterface)
	if err != nil {
		return false
	}
	addrs, err := iface.Whole(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	return err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(addr.AsSlice()) })
}
