//go:build linux

// Command containerd-shim-runc-v2 is the process that stands between containerd and a pod's containers: it
// starts runc, holds the containers' standard streams and reports their exits. It is a binary of its own
// because containerd's plugin registry is global to a process. One shim serves all containers of a pod and
// outlives containerd and the agent.
//
// Called with the argument "pause" it is the init process of a PID namespace that a pod's containers share.
package main

import (
	"context"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		pause()
	}
	registry.Register(&plugin.Registration{
		Type:   plugins.TTRPCPlugin,
		ID:     "keeper",
		InitFn: func(*plugin.InitContext) (any, error) { return newKeeper(), nil },
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
