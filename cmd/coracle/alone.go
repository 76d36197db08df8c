package main

import (
	"context"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/identity"
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
	name, err := o.resolveNodeName()
	if err != nil {
		return err
	}
	label := func(ctx context.Context) error { return s.labelControlPlane(ctx, name) }
	return run.All(ctx, keepSmall, s.runAPI, s.runScheduler, s.runControllers, label, func(ctx context.Context) error {
		config, err := s.local(ctx, pki.Node(name))
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		id, err := identity.Open(o.layout.Kubeconfig("agent"), "", slog.Default())
		if err != nil {
			return err
		}
		n := &node{o: o, config: config, identity: id}
		return n.run(ctx)
	})
}

// labelControlPlane gives this machine's node its role, once it has registered: a node may not do so itself.
func (s *server) labelControlPlane(ctx context.Context, name string) error {
	config, err := s.local(ctx, pki.Admin)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	kube, err := client.Config{RestConfig: config, Component: "up"}.Clientset()
	if err != nil {
		return err
	}
	patch := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`)
	for {
		_, err := kube.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			return nil
		}
		if !apierrors.IsNotFound(err) && ctx.Err() == nil {
			slog.Warn("cannot label the node with its role yet", "component", "up", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}
