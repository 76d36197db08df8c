package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

const (
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 60 * 60

	// warnOnlySeconds is the lifetime that the ServiceAccount admission plug-in asks for. It marks tokens of clients that
	// may not know that tokens must be read again: those are told of it, but their token lives as long as the pod, a year at most.
	warnOnlySeconds  = 60*60 + 7
	extendedLifetime = 365 * 24 * time.Hour
)

// Issue answers a create of serviceaccounts/NAME/token. Errors are API status errors; req is not changed.
func (t *Tokens) Issue(ctx context.Context, namespace, name string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := req.DeepCopy()
	// Attestations are behind a feature gate that is off: dropped, as upstream does.
	out.Spec.Attestations = nil
	if err := t.defaultRequest(out, namespace, name); err != nil {
		return nil, err
	}
	if errs := validateTokenRequest(out); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), out.Name, errs)
	}
	sa, err := find[*corev1.ServiceAccount](ctx, t.reader, "serviceaccounts", namespace, name)
	if err != nil {
		return nil, err
	}
	if out.UID != "" && out.UID != sa.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: authenticationv1.GroupName, Resource: "tokenrequests"}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", out.UID, sa.UID))
	}
	bound := boundClaims{Namespace: namespace, ServiceAccount: objectRef{Name: sa.Name, UID: sa.UID}}
	if err := t.bind(ctx, &bound, out.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	now := t.now()
	token, err := t.sign(t.claims(bound, &out.Spec, now))
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("signing a service account token: %w", err))
	}
	if out.CreationTimestamp.IsZero() {
		out.CreationTimestamp = metav1.NewTime(now).Rfc3339Copy()
	}
	out.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(*out.Spec.ExpirationSeconds) * time.Second)).Rfc3339Copy(),
	}
	return out, nil
}

func (t *Tokens) defaultRequest(req *authenticationv1.TokenRequest, namespace, name string) error {
	if req.Name != "" && req.Name != name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", req.Name, name))
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	req.Name, req.Namespace = name, namespace
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = append([]string(nil), t.audiences...)
	}
	return nil
}

func validateTokenRequest(req *authenticationv1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	seconds := *req.Spec.ExpirationSeconds
	if seconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > maxTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// bind fills the claims of the object that the token shall not outlive.
func (t *Tokens) bind(ctx context.Context, claims *boundClaims, ref *authenticationv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var uid types.UID
	switch gvk {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, err := find[*corev1.Pod](ctx, t.reader, "pods", claims.Namespace, ref.Name)
		if err != nil {
			return err
		}
		if pod.Spec.ServiceAccountName != claims.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", claims.ServiceAccount.Name))
		}
		uid, claims.Pod = pod.UID, &objectRef{Name: pod.Name, UID: pod.UID}
		if claims.Node, err = t.nodeOf(ctx, pod); err != nil {
			return err
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, err := find[*corev1.Secret](ctx, t.reader, "secrets", claims.Namespace, ref.Name)
		if err != nil {
			return err
		}
		uid, claims.Secret = secret.UID, &objectRef{Name: secret.Name, UID: secret.UID}
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, err := find[*corev1.Node](ctx, t.reader, "nodes", "", ref.Name)
		if err != nil {
			return err
		}
		uid, claims.Node = node.UID, &objectRef{Name: node.Name, UID: node.UID}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// nodeOf is what a pod's token says of its node. A node that is gone already is named without UID.
func (t *Tokens) nodeOf(ctx context.Context, pod *corev1.Pod) (*objectRef, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil
	}
	node, err := find[*corev1.Node](ctx, t.reader, "nodes", "", pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return &objectRef{Name: pod.Spec.NodeName}, nil
	}
	if err != nil {
		return nil, err
	}
	return &objectRef{Name: node.Name, UID: node.UID}, nil
}

func (t *Tokens) claims(bound boundClaims, spec *authenticationv1.TokenRequestSpec, now time.Time) *tokenClaims {
	lifetime := time.Duration(*spec.ExpirationSeconds) * time.Second
	if *spec.ExpirationSeconds == warnOnlySeconds && bound.Pod != nil && t.forAPIServer(spec.Audiences) {
		bound.WarnAfter = jwt.NewNumericDate(now.Add(lifetime))
		lifetime = extendedLifetime
	}
	return &tokenClaims{
		Claims: jwt.Claims{
			Issuer:    t.issuer,
			Subject:   serviceaccount.MakeUsername(bound.Namespace, bound.ServiceAccount.Name),
			Audience:  jwt.Audience(spec.Audiences),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			Expiry:    jwt.NewNumericDate(now.Add(lifetime)),
			ID:        string(uuid.NewUUID()),
		},
		Kubernetes: bound,
	}
}

func (t *Tokens) forAPIServer(audiences []string) bool {
	return len(t.audiences.Intersect(audiences)) == len(audiences)
}

func (t *Tokens) sign(claims *tokenClaims) (string, error) {
	return jwt.Signed(t.signer).Claims(claims).Serialize()
}
