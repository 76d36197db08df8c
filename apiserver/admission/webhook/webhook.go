// Package webhook asks servers outside about writes: those that MutatingWebhookConfigurations and
// ValidatingWebhookConfigurations name. Its invariant: a request that no configuration selects costs a look at two lists,
// which are empty in most clusters.
package webhook

import (
	"context"
	"net"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	"github.com/coracle-dev/coracle/internal/admissioncel"
)

// ServiceDialer connects to a port of a Service.
type ServiceDialer func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)

// Config is what webhooks need of the server.
type Config struct {
	Reader   admission.Reader
	Versions match.Versions
	Service  ServiceDialer
	// Authorizer answers the expressions of match conditions that ask it.
	Authorizer authorizer.UnconditionalAuthorizer
}

// New gives the plug-ins for mutating and for validating webhooks.
func New(cfg Config) (mutating, validating admission.Plugin, err error) {
	clients, err := newClients(cfg.Service)
	if err != nil {
		return nil, nil, err
	}
	d := &dispatcher{Matcher: match.Matcher{Reader: cfg.Reader, Versions: cfg.Versions}, clients: clients, authorizer: cfg.Authorizer}
	return &mutator{dispatcher: d, hooks: newSource("mutatingwebhookconfigurations", d)},
		&validator{dispatcher: d, hooks: newSource("validatingwebhookconfigurations", d)}, nil
}

// dispatcher is what both kinds of webhook have in common.
type dispatcher struct {
	match.Matcher
	clients    *utilwebhook.ClientManager
	authorizer authorizer.UnconditionalAuthorizer
}

// hook is one webhook, ready to be asked.
type hook struct {
	configuration string
	name          string
	uid           string // both
	phase         string // as annotations name it
	client        utilwebhook.ClientConfig
	criteria      *match.Criteria
	conditions    matchconditions.Matcher // nil where there are none
	failClosed    bool
	dryRun        bool // it may be asked about dry runs
	reinvoke      bool
	timeout       int32 // seconds
	versions      []string
	hasNoRules    bool
	invalid       error // why the configuration cannot be used
}

// invocation is a hook with the object as it is to see it.
type invocation struct {
	*hook
	target match.Target
	attrs  *kadmission.VersionedAttributes
}

// applies tells whether a hook is to be asked; nil where it is not.
func (d *dispatcher) applies(ctx context.Context, r *admission.Request, h *hook) (*invocation, error) {
	if h.invalid != nil {
		return nil, apierrors.NewInternalError(h.invalid)
	}
	if h.hasNoRules {
		return nil, nil
	}
	target, ok, err := d.Match(ctx, r, h.criteria)
	if !ok || err != nil {
		return nil, err
	}
	attrs, err := d.Versioned(r, target)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if h.conditions != nil {
		switch result := h.conditions.Match(ctx, attrs, nil, d.authorizer); {
		case result.Error != nil:
			return nil, apierrors.NewForbidden(r.Resource.GroupResource(), r.Name, result.Error)
		case !result.Matches:
			return nil, nil
		}
	}
	return &invocation{h, target, attrs}, nil
}

// hookOf compiles what the two kinds of webhook have in common.
func hookOf(configuration, name, phase string, client *admissionv1.WebhookClientConfig, rules []admissionv1.RuleWithOperations,
	conditions []admissionv1.MatchCondition, failure *admissionv1.FailurePolicyType, sideEffects *admissionv1.SideEffectClass,
	timeout *int32, versions []string) *hook {
	h := &hook{
		configuration: configuration, uid: configuration + "/" + name, name: name, phase: phase, hasNoRules: len(rules) == 0, versions: versions,
		client:     clientConfig(name, client),
		failClosed: failure == nil || *failure == admissionv1.Fail,
		dryRun:     sideEffects != nil && (*sideEffects == admissionv1.SideEffectClassNone || *sideEffects == admissionv1.SideEffectClassNoneOnDryRun),
		timeout:    defaultTimeout,
	}
	if timeout != nil {
		h.timeout = *timeout
	}
	if len(conditions) > 0 {
		kind := map[string]string{mutationPhase: "admit", validationPhase: "validating"}[phase]
		h.conditions = matchconditions.NewMatcher(admissioncel.CompileConditions(conditions), failure, "webhook", kind, name)
	}
	return h
}

func clientConfig(name string, c *admissionv1.WebhookClientConfig) utilwebhook.ClientConfig {
	out := utilwebhook.ClientConfig{Name: name, CABundle: c.CABundle}
	if c.URL != nil {
		out.URL = *c.URL
	}
	if s := c.Service; s != nil {
		out.Service = &utilwebhook.ClientConfigService{Name: s.Name, Namespace: s.Namespace, Port: 443}
		if s.Port != nil {
			out.Service.Port = *s.Port
		}
		if s.Path != nil {
			out.Service.Path = *s.Path
		}
	}
	return out
}

// hooksOf compiles a configuration.
func hooksOf(obj runtime.Object) []*hook {
	switch c := obj.(type) {
	case *admissionv1.MutatingWebhookConfiguration:
		out := make([]*hook, len(c.Webhooks))
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			h := hookOf(c.Name, w.Name, mutationPhase, &w.ClientConfig, w.Rules, w.MatchConditions, w.FailurePolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions)
			h.criteria, h.invalid = match.Compile(match.Named(w.Rules), nil, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector)
			h.reinvoke = w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy
			out[i] = h
		}
		return out
	case *admissionv1.ValidatingWebhookConfiguration:
		out := make([]*hook, len(c.Webhooks))
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			h := hookOf(c.Name, w.Name, validationPhase, &w.ClientConfig, w.Rules, w.MatchConditions, w.FailurePolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions)
			h.criteria, h.invalid = match.Compile(match.Named(w.Rules), nil, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector)
			out[i] = h
		}
		return out
	}
	return nil
}

// newSource gives the hooks of one kind of configuration in the order in which they are asked: by the configuration's
// name, and as the configuration has them.
func newSource(resource string, d *dispatcher) *match.Source[*hook] {
	return match.NewSource(d.Reader, schema.GroupResource{Group: admissionv1.GroupName, Resource: resource}, hooksOf)
}

// reviewed are the versions of AdmissionReview that are spoken here.
var reviewed = []string{admissionreviewv1.SchemeGroupVersion.Version, "v1beta1"}
