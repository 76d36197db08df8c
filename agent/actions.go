package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coracle-dev/coracle/agent/lifecycle"
	"github.com/coracle-dev/coracle/agent/network"
	"github.com/coracle-dev/coracle/agent/podspec"
	"github.com/coracle-dev/coracle/agent/podspec/fields"
	"github.com/coracle-dev/coracle/agent/runtime"
)

// perform carries one action out. apply, if any, is what the worker's state takes over from it, also beside an error.
func (w *worker) perform(ctx context.Context, pod *v1.Pod, act lifecycle.Action) (apply func(*lifecycle.State), err error) {
	switch act.Kind {
	case lifecycle.MountVolumes:
		return w.mountVolumes(ctx, pod)
	case lifecycle.CreateSandbox:
		return w.createSandbox(ctx, pod, act)
	case lifecycle.PullImage:
		return w.pullImage(ctx, pod, act)
	case lifecycle.StartContainer:
		return w.startContainer(ctx, pod, act)
	case lifecycle.PostStart:
		return w.postStart(ctx, pod, act)
	case lifecycle.StopContainer:
		return nil, w.stopContainer(ctx, pod, act)
	case lifecycle.RemoveContainer:
		return nil, w.removeContainer(ctx, act)
	case lifecycle.Reclaim:
		return w.reclaim(ctx, act)
	case lifecycle.DeletePod:
		return w.deletePod(ctx, pod)
	case lifecycle.ResizePod:
		return w.resizePod(ctx, pod)
	}
	return nil, fmt.Errorf("unknown action %s", act.Kind)
}

// facts are what the downward API can tell of the pod now.
func (w *worker) facts() fields.Facts {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := fields.Facts{NodeName: w.a.cfg.NodeName, HostIPs: w.state.Node.IPs, Allocatable: w.a.allocatable()}
	if w.state.Sandbox != nil {
		f.PodIPs = w.state.Sandbox.IPs
	}
	if w.state.Pod.Spec.HostNetwork {
		f.PodIPs = f.HostIPs
	}
	return f
}

func (w *worker) createSandbox(ctx context.Context, pod *v1.Pod, act lifecycle.Action) (func(*lifecycle.State), error) {
	if act.Recreate {
		w.a.event(pod, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	sandbox, ips, err := w.sandbox(ctx, pod)
	if err != nil {
		if ctx.Err() == nil {
			w.a.event(pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
		}
		return nil, err
	}
	return func(s *lifecycle.State) {
		s.Sandbox = &lifecycle.Sandbox{CreatedAt: sandbox.CreatedAt, Networked: true, IPs: ips}
		if sandbox.Resources != nil { // one that there was already may be of another size
			target := podspec.PodCgroup(w.a.cfg.CgroupRoot, s.Pod, w.a.machine()).Resources
			s.Resize.Pod = !sameLimits(*sandbox.Resources, target)
		}
	}, nil
}

func (w *worker) sandbox(ctx context.Context, pod *v1.Pod) (*runtime.Sandbox, []string, error) {
	hostname, err := podspec.KernelHostname(pod, w.a.cfg.ClusterDomain)
	if err != nil {
		return nil, nil, err
	}
	group := podspec.PodCgroup(w.a.cfg.CgroupRoot, pod, w.a.machine())
	cfg := runtime.SandboxConfig{Pod: w.ref, Hostname: hostname, HostNetwork: pod.Spec.HostNetwork, HostIPC: pod.Spec.HostIPC,
		HostPID: pod.Spec.HostPID, UserNamespace: pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers, ShareProcess: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace,
		CgroupParent: group.Path, Resources: &group.Resources}
	if s := pod.Spec.SecurityContext; s != nil {
		cfg.Sysctls = map[string]string{}
		for _, kv := range s.Sysctls {
			cfg.Sysctls[kv.Name] = kv.Value
		}
	}
	if cfg.Handler, err = w.a.handler(ctx, pod); err != nil {
		return nil, nil, err
	}
	sandbox, err := w.a.cfg.Sandboxes.RunSandbox(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	w.a.weighQOS()
	if pod.Spec.HostNetwork {
		return sandbox, nil, nil
	}
	limits, err := network.ParseBandwidth(pod.Annotations)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to setup network for sandbox: %w", err)
	}
	addrs, err := w.a.cfg.Network.Setup(ctx, network.Pod{PodRef: w.ref, NetNS: sandbox.NetNS, Ports: hostPorts(pod), Bandwidth: limits})
	if err != nil {
		return nil, nil, fmt.Errorf("failed to setup network for sandbox: %w", err)
	}
	if w.a.cfg.Policies != nil {
		if err := w.a.cfg.Policies.Protect(ctx, pod, addrs); err != nil {
			return nil, nil, fmt.Errorf("failed to setup network for sandbox: %w", err)
		}
	}
	var ips []string
	for _, a := range addrs {
		ips = append(ips, a.String())
	}
	return sandbox, ips, nil
}

// hostPorts are the ports of the node that lead to the pod.
func hostPorts(pod *v1.Pod) []network.HostPort {
	var out []network.HostPort
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			protocol := string(p.Protocol)
			if protocol == "" {
				protocol = "TCP"
			}
			// The unspecified address of either family stands for all.
			address, err := netip.ParseAddr(p.HostIP)
			if err != nil || address.IsUnspecified() {
				address = netip.Addr{}
			}
			out = append(out, network.HostPort{Address: address, Protocol: protocol, Port: uint16(p.HostPort), PodPort: uint16(p.ContainerPort)})
		}
	}
	return out
}

// stopContainer runs the preStop hook, and stops the container in what is left of the grace period.
func (w *worker) stopContainer(ctx context.Context, pod *v1.Pod, act lifecycle.Action) error {
	c := containerSpec(pod, act.Container)
	if c == nil {
		return w.a.cfg.Containers.Stop(ctx, act.ID, act.Grace)
	}
	w.a.containerEvent(pod, c, v1.EventTypeNormal, "Killing", "%s", act.Message)
	left := act.Grace
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil && !act.NoHook && w.firstStop(act.ID) {
		began := time.Now()
		hook, cancel := context.WithTimeout(ctx, act.Grace)
		err := w.a.runHook(hook, c.Lifecycle.PreStop, w.hookTarget(pod, c, act.ID))
		cancel()
		if err != nil && ctx.Err() == nil {
			w.a.containerEvent(pod, c, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			w.log.Debug("preStop hook failed", "container", c.Name, "error", err)
		}
		// However long the hook took, the container gets the chance to end by itself.
		left = max(act.Grace-time.Since(began), min(2*time.Second, act.Grace))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.a.cfg.Containers.Stop(ctx, act.ID, left)
}

// firstStop tells whether the instance was not told to stop before: a grace that has become shorter starts no hook again.
func (w *worker) firstStop(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !w.stopping[id]
	w.stopping[id] = true
	return first
}

// removeContainer removes a dead instance, with its last words.
func (w *worker) removeContainer(ctx context.Context, act lifecycle.Action) error {
	if err := w.a.cfg.Containers.Remove(ctx, act.ID); err != nil {
		return err
	}
	if err := os.Remove(w.messagePath(act.Container, act.Attempt)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// leaveNetwork gives the pod's address back; what was said of its traffic holds until then.
func (w *worker) leaveNetwork(ctx context.Context) error {
	addr, had := w.a.cfg.Network.Pods()[w.ref.UID]
	if err := w.a.cfg.Network.Teardown(ctx, w.ref); err != nil {
		return err
	}
	if had && w.a.cfg.Policies != nil {
		w.a.cfg.Policies.Release(w.ref.UID, addr)
	}
	return nil
}

// reclaim gives everything of the pod back; with Purge nothing of it stays.
func (w *worker) reclaim(ctx context.Context, act lifecycle.Action) (func(*lifecycle.State), error) {
	if act.Purge {
		// The logs first: what else is left of the pod has an agent that starts anew do the rest, and only containers and the sandbox know the name.
		if err := os.RemoveAll(podspec.LogDir(w.a.cfg.Layout.PodLogs(), w.ref)); err != nil {
			return nil, err
		}
		if err := w.removeContainers(ctx); err != nil {
			return nil, err
		}
	}
	var g errgroup.Group
	g.Go(func() error {
		if err := w.leaveNetwork(ctx); err != nil {
			return err
		}
		return w.a.cfg.Sandboxes.RemoveSandbox(ctx, w.ref.UID)
	})
	g.Go(func() error {
		if act.Purge {
			return w.a.volumes.Teardown(ctx, types.UID(w.ref.UID))
		}
		return w.a.volumes.Unmount(ctx, types.UID(w.ref.UID))
	})
	if err := g.Wait(); err != nil {
		w.log.Warn("resources of the pod not given back yet", "error", err)
		return nil, err
	}
	w.a.weighQOS()
	return func(s *lifecycle.State) {
		s.Reclaimed, s.Purged, s.VolumesReady = true, s.Purged || act.Purge, false
	}, nil
}

func (w *worker) removeContainers(ctx context.Context) error {
	var g errgroup.Group
	for _, c := range w.a.cfg.Sandboxes.Pod(w.ref.UID).Containers {
		g.Go(func() error { return w.a.cfg.Containers.Remove(ctx, c.ID) })
	}
	return g.Wait()
}

// deletePod removes the API object, if it is still this pod's.
func (w *worker) deletePod(ctx context.Context, pod *v1.Pod) (func(*lifecycle.State), error) {
	opts := metav1.NewDeleteOptions(0)
	opts.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	err := w.a.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *opts)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err // a conflict with another by the same name ends when that is seen
	}
	return func(s *lifecycle.State) { s.Deleted = true }, nil
}
