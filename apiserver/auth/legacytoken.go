package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// legacyIssuer is the "iss" of tokens that live in Secrets of type kubernetes.io/service-account-token and never expire.
const legacyIssuer = "kubernetes/serviceaccount"

// invalidSince is the label by which an administrator, or upstream's cleaner, switches such a token off.
const invalidSince = "kubernetes.io/legacy-token-invalid-since"

// legacyClaims is what these tokens say.
type legacyClaims struct {
	Namespace      string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName     string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	ServiceAccount string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	UID            string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// Legacy signs the token that belongs into a Secret of type kubernetes.io/service-account-token of an account. It is good for as
// long as both exist and the Secret holds it.
func (t *Tokens) Legacy(sa *corev1.ServiceAccount, secret string) (string, error) {
	return jwt.Signed(t.signer).Claims(&struct {
		jwt.Claims
		legacyClaims
	}{
		jwt.Claims{Issuer: legacyIssuer, Subject: serviceaccount.MakeUsername(sa.Namespace, sa.Name)},
		legacyClaims{Namespace: sa.Namespace, SecretName: secret, ServiceAccount: sa.Name, UID: string(sa.UID)},
	}).Serialize()
}

// authenticateLegacy checks a token whose signature holds.
func (t *Tokens) authenticateLegacy(ctx context.Context, token string, claims *tokenClaims) (*authenticator.Response, bool, error) {
	l := &claims.Legacy
	if l.Namespace == "" || l.SecretName == "" || l.ServiceAccount == "" || l.UID == "" ||
		claims.Subject != serviceaccount.MakeUsername(l.Namespace, l.ServiceAccount) {
		return nil, false, errInvalidToken
	}
	audiences, err := t.acceptedAudiences(ctx, t.audiences)
	if err != nil {
		return nil, false, err
	}
	secret, err := find[*corev1.Secret](ctx, t.reader, "secrets", l.Namespace, l.SecretName)
	if apierrors.IsNotFound(err) || err == nil && secret.DeletionTimestamp != nil {
		return nil, false, errors.New("service account token has been invalidated")
	}
	if err != nil {
		return nil, false, err
	}
	if subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, false, errors.New("service account token does not match server's copy")
	}
	if secret.Labels[invalidSince] != "" {
		return nil, false, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			l.Namespace, l.SecretName, l.Namespace, l.ServiceAccount, invalidSince)
	}
	sa, err := find[*corev1.ServiceAccount](ctx, t.reader, "serviceaccounts", l.Namespace, l.ServiceAccount)
	if err != nil {
		return nil, false, err
	}
	if sa.DeletionTimestamp != nil || string(sa.UID) != l.UID {
		return nil, false, errors.New("service account has been deleted")
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: l.Namespace, Name: l.ServiceAccount, UID: l.UID}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}
