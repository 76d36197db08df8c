package kinds

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// probeKind is what a probe is asked for.
type probeKind int

const (
	livenessProbe probeKind = iota
	readinessProbe
	startupProbe
)

func validateProbe(p *corev1.Probe, kind probeKind, grace *int64, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := slices.Concat(
		validateHandler(&handler{exec: p.Exec, httpGet: p.HTTPGet, tcpSocket: p.TCPSocket, grpc: p.GRPC}, grace, path),
		nonnegative(p.InitialDelaySeconds, path.Child("initialDelaySeconds")),
		nonnegative(p.TimeoutSeconds, path.Child("timeoutSeconds")),
		nonnegative(p.PeriodSeconds, path.Child("periodSeconds")),
		nonnegative(p.SuccessThreshold, path.Child("successThreshold")),
		nonnegative(p.FailureThreshold, path.Child("failureThreshold")),
	)
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0"))
	}
	if kind == readinessProbe {
		if s := p.TerminationGracePeriodSeconds; s != nil {
			errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *s, "must not be set for readinessProbes"))
		}
	} else if p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	return errs
}

func (c *podSpecCheck) validateLifecycle(l *corev1.Lifecycle, path *field.Path) field.ErrorList {
	if l == nil {
		return nil
	}
	grace := c.spec.TerminationGracePeriodSeconds
	var errs field.ErrorList
	if h := l.PostStart; h != nil {
		errs = append(errs, validateHandler(lifecycleHandler(h), grace, path.Child("postStart"))...)
	}
	if h := l.PreStop; h != nil {
		errs = append(errs, validateHandler(lifecycleHandler(h), grace, path.Child("preStop"))...)
	}
	return errs
}

// handler is the union of what probes and hooks can do.
type handler struct {
	exec      *corev1.ExecAction
	httpGet   *corev1.HTTPGetAction
	tcpSocket *corev1.TCPSocketAction
	grpc      *corev1.GRPCAction
	sleep     *corev1.SleepAction
}

func lifecycleHandler(h *corev1.LifecycleHandler) *handler {
	return &handler{exec: h.Exec, httpGet: h.HTTPGet, tcpSocket: h.TCPSocket, sleep: h.Sleep}
}

// validateHandler checks that there is one action, and the first there is.
func validateHandler(h *handler, grace *int64, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	one := func(set bool, name string, check func(path *field.Path) field.ErrorList) {
		switch {
		case !set:
		case found:
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
		default:
			found = true
			errs = append(errs, check(path.Child(name))...)
		}
	}
	one(h.exec != nil, "exec", func(at *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(at.Child("command"), "")}
		}
		return nil
	})
	one(h.httpGet != nil, "httpGet", func(at *field.Path) field.ErrorList { return validateHTTPGet(h.httpGet, at) })
	one(h.tcpSocket != nil, "tcpSocket", func(at *field.Path) field.ErrorList {
		return portNumberOrName(h.tcpSocket.Port, at.Child("port"))
	})
	one(h.grpc != nil, "grpc", func(at *field.Path) field.ErrorList {
		return portNumberOrName(intstr.FromInt32(h.grpc.Port), at.Child("port"))
	})
	one(h.sleep != nil, "sleep", func(at *field.Path) field.ErrorList {
		if grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
			return field.ErrorList{field.Invalid(at, h.sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
		}
		return nil
	})
	if !found {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(h *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if h.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	}
	errs = append(errs, portNumberOrName(h.Port, path.Child("port"))...)
	errs = append(errs, among(h.Scheme, path.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		errs = append(errs, invalid(path.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	return errs
}
