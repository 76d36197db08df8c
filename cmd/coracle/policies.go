package main

import (
	"net/netip"

	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/proxy/policy"
)

// networkPolicies enforce what the cluster says of the traffic of this node's pods, whose addresses pods tells by UID.
func networkPolicies(kube kubernetes.Interface, node string, pods interface{ Pods() map[string]netip.Addr }) *policy.Enforcer {
	return policy.New(policy.Config{Client: kube, NodeName: node, Held: func(addr netip.Addr) bool {
		for _, held := range pods.Pods() {
			if held == addr {
				return true
			}
		}
		return false
	}})
}
