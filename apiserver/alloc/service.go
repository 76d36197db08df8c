package alloc

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// BeginCreate reserves what a new Service needs and writes it into obj.
func (a *Allocator) BeginCreate(ctx context.Context, obj runtime.Object, dryRun bool) (func(written bool), error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("alloc: not a service: %T", obj)
	}
	if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	return a.run(ctx, svc, dryRun, func(t *transaction) error {
		if err := t.clusterIPs(svc); err != nil {
			return err
		}
		if needsNodePort(&svc.Spec) {
			if err := t.nodePorts(svc); err != nil {
				return err
			}
		}
		if needsHealthCheckPort(&svc.Spec) {
			return t.healthCheckPort(svc)
		}
		return nil
	})
}

// BeginUpdate reserves what obj needs beyond oldObj, and sets free what it no longer needs once it is written.
func (a *Allocator) BeginUpdate(ctx context.Context, obj, oldObj runtime.Object, dryRun bool) (func(written bool), error) {
	svc, ok := obj.(*corev1.Service)
	old, okOld := oldObj.(*corev1.Service)
	if !ok || !okOld {
		return nil, fmt.Errorf("alloc: not services: %T, %T", obj, oldObj)
	}
	return a.run(ctx, svc, dryRun, func(t *transaction) error {
		if err := t.changeClusterIPs(svc, old); err != nil {
			return err
		}
		if err := t.changeNodePorts(svc, old); err != nil {
			return err
		}
		return t.changeHealthCheckPort(svc, old)
	})
}

// AfterDelete gives back everything a deleted Service held.
func (a *Allocator) AfterDelete(ctx context.Context, obj runtime.Object) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	ctx = context.WithoutCancel(ctx)
	all, _, err := a.ips.pools(ctx)
	if err != nil {
		a.log.Warn("A service's address could not be given back yet", "service", svc.Namespace+"/"+svc.Name, "err", err)
		return
	}
	a.giveAll(ctx, a.holdings(svc, all), ownerOf(svc))
}

// run does one transaction's reservations; if one fails, those before it are undone.
func (a *Allocator) run(ctx context.Context, svc *corev1.Service, dryRun bool, reserve func(*transaction) error) (func(bool), error) {
	t := a.begin(ctx, svc, dryRun)
	if malformed(&svc.Spec) {
		return t.finish, nil // for validation to refuse
	}
	if err := initFamilies(svc); err != nil {
		return nil, err
	}
	if err := a.sync(ctx); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := reserve(t); err != nil {
		if !t.dry {
			a.giveAll(context.WithoutCancel(ctx), t.taken, t.owner)
		}
		return nil, err
	}
	return t.finish, nil
}

// malformed tells of addresses that make no sense. Validation, which runs next, says so better than allocation could.
func malformed(spec *corev1.ServiceSpec) bool {
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 || len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP || len(spec.ClusterIPs) > 2 {
		return true
	}
	if isHeadless(spec) {
		return len(spec.ClusterIPs) > 1 || needsNodePort(spec)
	}
	return slices.ContainsFunc(spec.ClusterIPs, func(ip string) bool { return netutils.ParseIPSloppy(ip) == nil })
}

func (t *transaction) clusterIPs(svc *corev1.Service) error {
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName || isHeadless(spec) {
		return nil
	}
	if len(spec.ClusterIPs) == 0 {
		ip, err := t.takeNextIP()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %v", err))
		}
		spec.ClusterIP = ip
		spec.ClusterIPs = []string{spec.ClusterIP}
		return nil
	}
	ip := spec.ClusterIPs[0]
	err := t.takeIP(ip)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errIPTaken), errors.Is(err, errNoRange), errors.As(err, new(*rangeError)):
		return invalidService(svc, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), []string{ip}, fmt.Sprintf("failed to allocate IP %v: %v", ip, err))})
	}
	return apierrors.NewInternalError(fmt.Errorf("failed to allocate IP %v: %w", ip, err))
}

func (t *transaction) takeIP(ip string) error {
	canonical := netutils.ParseIPSloppy(ip).String() // malformed has seen that it parses
	all, _, err := t.a.ips.pools(t.ctx)
	if err != nil {
		return err
	}
	if h, ok := of(all, canonical); ok {
		return t.take(h.pool, h.slot)
	}
	if p := near(all, canonical); p != nil {
		return &rangeError{fmt.Sprintf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", canonical, p.shown)}
	}
	return errNoRange
}

func (t *transaction) takePort(port int32) error {
	slot, ok := t.a.ports.slotOf(fmt.Sprint(port))
	if !ok {
		return &rangeError{fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", t.a.ports.shown)}
	}
	return t.take(t.a.ports, slot)
}

// rangeError: what was asked for is not the pool's to give.
type rangeError struct{ text string }

func (e *rangeError) Error() string { return e.text }

func (t *transaction) changeClusterIPs(svc, old *corev1.Service) error {
	wasExternal, isExternal := old.Spec.Type == corev1.ServiceTypeExternalName, svc.Spec.Type == corev1.ServiceTypeExternalName
	switch {
	case wasExternal && !isExternal:
		return t.clusterIPs(svc)
	case isExternal && !wasExternal && !isHeadless(&old.Spec):
		all, _, err := t.a.ips.pools(t.ctx)
		if err != nil {
			return err
		}
		for _, ip := range old.Spec.ClusterIPs {
			if h, ok := of(all, ip); ok {
				t.free(h.pool, h.slot)
			}
		}
	}
	return nil
}

// nodePorts reserves the node ports a new Service asks for and chooses the others. Ports of one number and several
// protocols share a node port.
func (t *transaction) nodePorts(svc *corev1.Service) error {
	ports := svc.Spec.Ports
	chosen := map[int32]int32{} // port to node port
	for i := range ports {
		p := &ports[i]
		if p.NodePort == 0 && !choosesNodePorts(&svc.Spec) {
			continue
		}
		shared := chosen[p.Port]
		if p.NodePort == 0 {
			p.NodePort = shared
		}
		if p.NodePort == 0 {
			p.NodePort = requested(ports[i:], p.Port)
		}
		switch {
		case p.NodePort == 0:
			if err := t.choosePort(p); err != nil {
				return err
			}
		case p.NodePort != shared:
			if err := t.takePort(p.NodePort); err != nil {
				return t.portRefusal(svc, i, err)
			}
		}
		if shared == 0 {
			chosen[p.Port] = p.NodePort
		}
	}
	return nil
}

func (t *transaction) choosePort(p *corev1.ServicePort) error {
	slot, err := t.takeNext(t.a.ports)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %v", err))
	}
	p.NodePort = t.portOf(slot)
	return nil
}

// requested is the node port that a later port of the same number asks for.
func requested(ports []corev1.ServicePort, port int32) int32 {
	for i := range ports {
		if ports[i].Port == port && ports[i].NodePort != 0 {
			return ports[i].NodePort
		}
	}
	return 0
}

func (t *transaction) portOf(slot int) int32 {
	return t.a.ports.first + int32(slot)
}

func (t *transaction) portRefusal(svc *corev1.Service, i int, err error) error {
	if errors.Is(err, t.a.ports.errTaken) || errors.As(err, new(*rangeError)) {
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		return invalidService(svc, field.ErrorList{field.Invalid(path, svc.Spec.Ports[i].NodePort, err.Error())})
	}
	return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
}

func (t *transaction) changeNodePorts(svc, old *corev1.Service) error {
	had, taken := nodePorts(&old.Spec), map[int32]bool{}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		switch {
		case !needsNodePort(&svc.Spec), p.NodePort == 0 && !choosesNodePorts(&svc.Spec):
			continue
		case p.NodePort == 0:
			if err := t.choosePort(p); err != nil {
				return err
			}
		case !had[p.NodePort] && !taken[p.NodePort]:
			if err := t.takePort(p.NodePort); err != nil {
				return t.portRefusal(svc, i, err)
			}
		}
		taken[p.NodePort] = true
	}
	has := nodePorts(&svc.Spec)
	for port := range had {
		if !has[port] {
			t.freePort(port)
		}
	}
	return nil
}

// nodePorts is the set of a Service's node ports, without that for health checks.
func nodePorts(spec *corev1.ServiceSpec) map[int32]bool {
	out := map[int32]bool{}
	if !needsNodePort(spec) {
		return out
	}
	for i := range spec.Ports {
		if p := spec.Ports[i].NodePort; p != 0 {
			out[p] = true
		}
	}
	return out
}

func (t *transaction) freePort(port int32) {
	if slot, ok := t.a.ports.slotOf(fmt.Sprint(port)); ok {
		t.free(t.a.ports, slot)
	}
}

func (t *transaction) healthCheckPort(svc *corev1.Service) error {
	if port := svc.Spec.HealthCheckNodePort; port != 0 {
		if err := t.takePort(port); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", port, err))
		}
		return nil
	}
	slot, err := t.takeNext(t.a.ports)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
	}
	svc.Spec.HealthCheckNodePort = t.portOf(slot)
	return nil
}

func (t *transaction) changeHealthCheckPort(svc, old *corev1.Service) error {
	needed, needs := needsHealthCheckPort(&old.Spec), needsHealthCheckPort(&svc.Spec)
	switch {
	case !needed && needs:
		return t.healthCheckPort(svc)
	case needed && !needs && old.Spec.HealthCheckNodePort != 0:
		t.freePort(old.Spec.HealthCheckNodePort)
	}
	return nil
}

// holdings is everything a Service holds.
func (a *Allocator) holdings(svc *corev1.Service, ips []*pool) []held {
	var out []held
	spec := &svc.Spec
	if spec.Type != corev1.ServiceTypeExternalName {
		for _, ip := range spec.ClusterIPs {
			if parsed := netutils.ParseIPSloppy(ip); parsed != nil {
				if h, ok := of(ips, parsed.String()); ok {
					out = append(out, h)
				}
			}
		}
	}
	ports := nodePorts(spec)
	if needsHealthCheckPort(spec) && spec.HealthCheckNodePort != 0 {
		ports[spec.HealthCheckNodePort] = true
	}
	for port := range ports {
		if slot, ok := a.ports.slotOf(fmt.Sprint(port)); ok {
			out = append(out, held{a.ports, slot})
		}
	}
	return out
}
