package auth

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// Reviewer answers the create-only kinds that ask about users and permissions.
type Reviewer struct {
	Authorizer interface {
		authorizer.UnconditionalAuthorizer
		authorizer.RuleResolver
	}
	// Tokens answers token reviews.
	Tokens authenticator.Token
}

// Review answers obj, which u has sent, with a copy whose status is filled in. namespace is that of the
// URL. Errors are API status errors.
func (r *Reviewer) Review(ctx context.Context, u user.Info, namespace string, obj runtime.Object) (runtime.Object, error) {
	if local, ok := obj.(*authorizationv1.LocalSubjectAccessReview); ok {
		if local.Namespace != "" && local.Namespace != namespace {
			return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
		local = local.DeepCopy()
		local.Namespace = namespace
		obj = local
	}
	if errs := kinds.ValidateReview(obj); len(errs) > 0 {
		kind := reflect.TypeOf(obj).Elem().Name()
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName, Kind: kind}, "", errs)
	}
	switch in := obj.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		return r.selfAccess(ctx, u, in)
	case *authorizationv1.SubjectAccessReview:
		return r.access(ctx, in)
	case *authorizationv1.LocalSubjectAccessReview:
		return r.localAccess(ctx, in)
	case *authorizationv1.SelfSubjectRulesReview:
		return r.selfRules(ctx, u, in)
	case *authenticationv1.SelfSubjectReview:
		out := in.DeepCopy()
		out.Status.UserInfo = userInfo(u)
		return out, nil
	case *authenticationv1.TokenReview:
		return r.token(ctx, in)
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("not a review: %T", obj))
}

func (r *Reviewer) selfAccess(ctx context.Context, u user.Info, in *authorizationv1.SelfSubjectAccessReview) (runtime.Object, error) {
	out := in.DeepCopy()
	out.Status = r.decide(ctx, u, in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
	return out, nil
}

func (r *Reviewer) access(ctx context.Context, in *authorizationv1.SubjectAccessReview) (runtime.Object, error) {
	out := in.DeepCopy()
	out.Status = r.decide(ctx, subjectOf(&in.Spec), in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
	return out, nil
}

func (r *Reviewer) localAccess(ctx context.Context, in *authorizationv1.LocalSubjectAccessReview) (runtime.Object, error) {
	out := in.DeepCopy()
	out.Status = r.decide(ctx, subjectOf(&in.Spec), in.Spec.ResourceAttributes, nil)
	return out, nil
}

func (r *Reviewer) selfRules(ctx context.Context, u user.Info, in *authorizationv1.SelfSubjectRulesReview) (runtime.Object, error) {
	if in.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := r.Authorizer.RulesFor(ctx, u, in.Spec.Namespace)
	out := in.DeepCopy()
	out.Status = authorizationv1.SubjectRulesReviewStatus{
		Incomplete:       incomplete,
		ResourceRules:    []authorizationv1.ResourceRule{},
		NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	for _, rule := range resources {
		out.Status.ResourceRules = append(out.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
		})
	}
	for _, rule := range paths {
		out.Status.NonResourceRules = append(out.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	if err != nil {
		out.Status.EvaluationError = err.Error()
	}
	return out, nil
}

func (r *Reviewer) decide(ctx context.Context, u user.Info, ra *authorizationv1.ResourceAttributes, na *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := r.Authorizer.Authorize(ctx, attributes(u, ra, na))
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func (r *Reviewer) token(ctx context.Context, in *authenticationv1.TokenReview) (runtime.Object, error) {
	if in.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	out := in.DeepCopy()
	if len(in.Spec.Audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, in.Spec.Audiences)
	}
	resp, ok, err := r.Tokens.AuthenticateToken(ctx, in.Spec.Token)
	switch {
	case err != nil:
		out.Status = authenticationv1.TokenReviewStatus{Error: err.Error()}
	case ok:
		out.Status = authenticationv1.TokenReviewStatus{
			Authenticated: true,
			User:          userInfo(authenticated(resp).User),
			Audiences:     resp.Audiences,
		}
	}
	return out, nil
}

func subjectOf(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: slices.Clone(spec.Groups)}
	for key, value := range spec.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = value
	}
	return u
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, value := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[key] = value
	}
	return out
}

func attributes(u user.Info, ra *authorizationv1.ResourceAttributes, na *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if na != nil {
		return authorizer.AttributesRecord{User: u, Verb: na.Verb, Path: na.Path}
	}
	a := authorizer.AttributesRecord{
		User: u, Verb: ra.Verb, Namespace: ra.Namespace, APIGroup: ra.Group, APIVersion: ra.Version,
		Resource: ra.Resource, Subresource: ra.Subresource, Name: ra.Name, ResourceRequest: true,
	}
	if ra.FieldSelector != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(ra.FieldSelector)
	}
	if ra.LabelSelector != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(ra.LabelSelector)
	}
	return a
}

func fieldRequirements(in *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if in.RawSelector != "" {
		parsed, err := fields.ParseSelector(in.RawSelector)
		if err != nil {
			return nil, err
		}
		return parsed.Requirements(), nil
	}
	var out fields.Requirements
	for _, r := range in.Requirements {
		op := map[metav1.FieldSelectorOperator]selection.Operator{metav1.FieldSelectorOpIn: selection.Equals, metav1.FieldSelectorOpNotIn: selection.NotEquals}[r.Operator]
		// A requirement that cannot be expressed is left out: the request is then judged as a wider one.
		if op != "" && len(r.Values) == 1 {
			out = append(out, fields.Requirement{Field: r.Key, Operator: op, Value: r.Values[0]})
		}
	}
	return out, nil
}

func labelRequirements(in *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if in.RawSelector != "" {
		parsed, err := labels.Parse(in.RawSelector)
		if err != nil {
			return nil, err
		}
		out, _ := parsed.Requirements()
		return out, nil
	}
	parsed, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: in.Requirements})
	if err != nil {
		return nil, err
	}
	out, _ := parsed.Requirements()
	return out, nil
}
