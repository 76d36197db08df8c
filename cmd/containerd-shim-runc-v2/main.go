//go:build linux

// Command containerd-shim-runc-v2 is the process that stands between containerd and a pod's containers: it
// starts runc, holds the containers' standard streams and reports their exits. It is a binary of its own
// because containerd's plugin registry is global to a process. One shim serves all containers of a pod and
// outlives containerd and the agent.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
