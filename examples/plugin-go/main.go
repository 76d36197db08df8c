// Command plugin-go is a scheduler plug-in: pods may say with the annotation example.com/max-price how dear their node may be;
// of the others the cheapest is best. Nodes say what they cost with the label example.com/price.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plugin-go SOCKET")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plugin-go:", err)
		os.Exit(1)
	}
}

func serve(socket string) error {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	scheduling.RegisterSchedulerPluginServer(server, &plugin{})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(listener)
}

// plugin keeps what the nodes cost, and which state of theirs that is.
type plugin struct {
	scheduling.UnimplementedSchedulerPluginServer

	mu     sync.RWMutex
	state  scheduling.NodeState
	prices map[string]float64
}

// Describe implements the contract.
func (p *plugin) Describe(context.Context, *scheduling.DescribeRequest) (*scheduling.DescribeResponse, error) {
	return &scheduling.DescribeResponse{
		Name: "price", Version: "1", Filter: true, Score: true, Nodes: true, Objects: scheduling.ObjectFormat_PROTOBUF,
	}, nil
}

// SyncNodes implements the contract.
func (p *plugin) SyncNodes(_ context.Context, r *scheduling.SyncNodesRequest) (*scheduling.SyncNodesResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.Base.GetVersion() == 0:
		p.prices = map[string]float64{}
	case r.Base.Session != p.state.Session || r.Base.Version != p.state.Version:
		return &scheduling.SyncNodesResponse{UnknownState: true}, nil
	}
	for _, n := range r.Set {
		var node corev1.Node
		if err := node.Unmarshal(n.Object); err != nil {
			return nil, err
		}
		p.prices[n.Name], _ = strconv.ParseFloat(node.Labels["example.com/price"], 64)
	}
	for _, name := range r.Removed {
		delete(p.prices, name)
	}
	p.state.Session, p.state.Version = r.Base.GetSession(), r.Base.GetVersion()+1
	return &scheduling.SyncNodesResponse{}, nil
}

// Evaluate implements the contract.
func (p *plugin) Evaluate(_ context.Context, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r.State.GetSession() != p.state.Session || r.State.GetVersion() > p.state.Version {
		return &scheduling.EvaluateResponse{UnknownState: true}, nil
	}
	response := &scheduling.EvaluateResponse{}
	for _, q := range r.Pods {
		var pod corev1.Pod
		if err := pod.Unmarshal(q.Object); err != nil {
			return nil, err
		}
		limit, err := strconv.ParseFloat(pod.Annotations["example.com/max-price"], 64)
		candidates := q.Candidates
		if len(candidates) == 0 {
			candidates = all(len(r.Nodes))
		}
		answer := &scheduling.PodAnswer{Uid: q.Uid}
		for _, i := range candidates {
			price := p.prices[r.Nodes[i]]
			verdict := &scheduling.NodeVerdict{Node: r.Nodes[i], Verdict: &scheduling.NodeVerdict_Score{Score: 100 / (1 + price)}}
			if err == nil && r.Filter && price > limit {
				verdict.Verdict = &scheduling.NodeVerdict_Reject{Reject: "node(s) dearer than the pod's max-price"}
			}
			answer.Nodes = append(answer.Nodes, verdict)
		}
		response.Pods = append(response.Pods, answer)
	}
	return response, nil
}

func all(n int) []uint32 {
	indexes := make([]uint32, n)
	for i := range indexes {
		indexes[i] = uint32(i)
	}
	return indexes
}
