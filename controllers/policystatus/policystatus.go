// Package policystatus checks the expressions of ValidatingAdmissionPolicies against the schemas of what they are about, and
// writes what it finds into their status. Policies work whatever it finds: expressions see objects as they are.
package policystatus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/admissioncel"
	"github.com/coracle-dev/coracle/internal/loop"
)

// maxTypes is how many kinds a policy is checked against at most.
const maxTypes = 10

// Controller serves ValidatingAdmissionPolicies.
type Controller struct {
	client   kubernetes.Interface
	policies admissionlisters.ValidatingAdmissionPolicyLister
	loop     *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	informer := e.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	c := &Controller{client: e.Client, policies: informer.Lister()}
	c.loop = e.Loop(loop.Config{Name: "policystatus", Sync: c.sync, Workers: 1})
	loop.On(c.loop, informer.Informer(), func(_, p *admissionv1.ValidatingAdmissionPolicy) {
		if p != nil {
			c.loop.Add(p.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, name string) error {
	p, err := c.policies.Get(name)
	if apierrors.IsNotFound(err) || err == nil && p.Status.ObservedGeneration >= p.Generation {
		return nil
	}
	if err != nil {
		return err
	}
	warnings, err := (&checker{discovery: c.client.Discovery()}).check(p)
	if err != nil {
		return err
	}
	updated := p.DeepCopy()
	updated.Status.ObservedGeneration = p.Generation
	updated.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: warnings}
	_, err = c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// checker knows kinds and their schemas from what the API server publishes.
type checker struct {
	discovery discovery.DiscoveryInterface
}

// typed is a kind with its schema.
type typed struct {
	kind   schema.GroupVersionKind
	schema *apiservercel.DeclType
}

// check gives one warning for every expression that is wrong for some kind.
func (c *checker) check(p *admissionv1.ValidatingAdmissionPolicy) ([]admissionv1.ExpressionWarning, error) {
	kinds, err := c.kinds(p)
	if err != nil {
		return nil, err
	}
	types := admissioncel.Types{HasParams: p.Spec.ParamKind != nil}
	if k := p.Spec.ParamKind; k != nil {
		gv, err := schema.ParseGroupVersion(k.APIVersion)
		if err != nil {
			return nil, err
		}
		if types.Params, err = c.typeOf(gv.WithKind(k.Kind), "params"); err != nil {
			return nil, err
		}
	}
	var warnings []admissionv1.ExpressionWarning
	warn := func(expression string, at *field.Path) error {
		warning, err := checkAll(kinds, types, p.Spec.Variables, expression)
		if warning != "" {
			warnings = append(warnings, admissionv1.ExpressionWarning{FieldRef: at.String(), Warning: warning})
		}
		return err
	}
	path := field.NewPath("spec", "validations")
	for i, v := range p.Spec.Validations {
		if err := warn(v.Expression, path.Index(i).Child("expression")); err != nil {
			return nil, err
		}
		if v.MessageExpression == "" {
			continue
		}
		if err := warn(v.MessageExpression, path.Index(i).Child("messageExpression")); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

func checkAll(kinds []typed, types admissioncel.Types, variables []admissionv1.Variable, expression string) (string, error) {
	var found []string
	for _, k := range kinds {
		types.Object = k.schema
		issues, err := types.Check(variables, expression)
		if err != nil {
			return "", err
		}
		if issues != "" {
			found = append(found, fmt.Sprintf("%v: %s\n", k.kind, issues))
		}
	}
	return strings.Join(found, "\n"), nil
}

// kinds are those that the policy's rules name in full, with known schemas.
func (c *checker) kinds(p *admissionv1.ValidatingAdmissionPolicy) ([]typed, error) {
	if p.Spec.MatchConstraints == nil {
		return nil, nil
	}
	seen := map[schema.GroupVersionKind]bool{}
	for i := range p.Spec.MatchConstraints.ResourceRules {
		rule := &p.Spec.MatchConstraints.ResourceRules[i].Rule
		if slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.APIVersions, "*") {
			continue
		}
		for _, group := range rule.APIGroups {
			for _, version := range rule.APIVersions {
				if err := c.collect(schema.GroupVersion{Group: group, Version: version}, rule.Resources, seen); err != nil {
					return nil, err
				}
			}
		}
	}
	var out []typed
	for kind := range seen {
		t, err := c.typeOf(kind, "object"+fmt.Sprint(len(out)))
		if err != nil {
			return nil, err
		}
		if t != nil {
			out = append(out, typed{kind, t})
		}
	}
	slices.SortFunc(out, func(a, b typed) int { return cmp.Compare(a.kind.String(), b.kind.String()) })
	return out, nil
}

// collect adds the kinds of a group's resources that are named without wildcard.
func (c *checker) collect(gv schema.GroupVersion, resources []string, into map[schema.GroupVersionKind]bool) error {
	served, err := c.discovery.ServerResourcesForGroupVersion(gv.String())
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range served.APIResources {
		if slices.Contains(resources, r.Name) && !strings.Contains(r.Name, "/") && len(into) < maxTypes {
			into[gv.WithKind(r.Kind)] = true
		}
	}
	return nil
}

// typeOf is the type that a kind's schema describes, under a name of its own; nil where it has none.
func (c *checker) typeOf(kind schema.GroupVersionKind, name string) (*apiservercel.DeclType, error) {
	s, err := (&resolver.ClientDiscoveryResolver{Discovery: c.discovery}).ResolveSchema(kind)
	if errors.Is(err, resolver.ErrSchemaNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := common.SchemaDeclType(&openapi.Schema{Schema: s}, true)
	if t == nil {
		return nil, nil
	}
	return t.MaybeAssignTypeName("coracle." + name + "." + kind.Kind), nil
}
