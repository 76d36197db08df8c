package main

import (
	"context"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/pki"
	"github.com/coracle-dev/coracle/internal/run"
)

// runAlone is a whole cluster in this process: the control plane and one node, which reach each other without TCP
// or TLS but for the tunnel.
func runAlone(ctx context.Context, o *options) error {
	if err := checkNode(); err != nil {
		return err
	}
	s, err := openServer(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	return run.All(ctx, keepSmall, s.runAPI, s.runScheduler, s.runControllers, func(ctx context.Context) error {
		name, err := o.resolveNodeName()
		if err != nil {
			return err
		}
		config, err := s.local(ctx, pki.Node(name))
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		remote, err := client.Config{Kubeconfig: o.layout.Kubeconfig("agent"), Component: "agent"}.REST()
		if err != nil {
			return err
		}
		n := &node{o: o, config: config, remote: remote, controlPlane: true}
		return n.run(ctx)
	})
}
