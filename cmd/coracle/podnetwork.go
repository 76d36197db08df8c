package main

import (
	"context"
	"net/netip"

	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/agent"
	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/network/cni"
	"github.com/coracle-dev/coracle/internal/run"
)

// podNetwork is what gives pods their addresses, and what runs for it: CNI plug-ins where their configuration is given, else our own.
func (n *node) podNetwork(kube kubernetes.Interface, name string, addr netip.Addr, c cluster, netNS func(uid string) string) (agent.Network, func(context.Context) error) {
	if n.o.cniConf != "" {
		plugins := cni.New(cni.Config{ConfDir: n.o.cniConf, BinDirs: n.o.cniBin, CacheDir: n.o.layout.CNI()})
		return plugins, plugins.Run
	}
	own := network.New(network.Config{ClusterCIDR: c.pods, Sysctls: n.sysctls, NetNS: netNS,
		NodeName: name, NodeIP: addr, Overlay: network.Overlay(n.o.overlay)})
	return own, func(ctx context.Context) error {
		return run.All(ctx, own.Run, func(ctx context.Context) error { return network.FollowNodes(ctx, kube, name, own.SetPeers) })
	}
}
