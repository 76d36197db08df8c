//go:build linux

// Command containerd is the node's containerd: package agent/containerd/server as a process of its own. It is
// carried inside coracle and unpacked like the shim, because the whole of coracle would cost it 50 MB of resident
// memory and a tenth of a second at every start, for code that it never runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/coracle-dev/coracle/agent/containerd/server"
	"github.com/coracle-dev/coracle/internal/paths"
)

func main() {
	cfg := server.Config{}
	flag.StringVar(&cfg.Layout.Data, "data-dir", paths.DefaultData, "folder for what survives a reboot")
	flag.StringVar(&cfg.Layout.Run, "run-dir", paths.DefaultRun, "folder for sockets and state")
	flag.BoolVar(&cfg.Debug, "debug", false, "log every step")
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "containerd" { // as coracle's subcommand
		args = args[1:]
	}
	if flag.CommandLine.Parse(args) != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "containerd: unexpected argument", flag.Arg(0))
		os.Exit(2)
	}
	if err := server.Main(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}
