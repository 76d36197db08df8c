package auth

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	lru "github.com/hashicorp/golang-lru/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

const (
	// clockLeeway is how far this machine's clock may be from the one that issued a token.
	clockLeeway = time.Minute
	// deletionLeeway is how long a token outlives the deletionTimestamp of what it is bound to.
	deletionLeeway = time.Minute
	// maxTokenBytes bounds the work that an unauthenticated client can cause.
	maxTokenBytes = 16 << 10
)

// TokenConfig sets up Tokens.
type TokenConfig struct {
	// Issuer is the "iss" of our tokens; tokens of any other are refused.
	Issuer string
	// Audiences are those of this API server; by default the issuer.
	Audiences []string
	// Signer signs new tokens: ECDSA P-256 or RSA.
	Signer crypto.Signer
	// Retired are public keys whose tokens are still accepted.
	Retired []crypto.PublicKey
	// Reader shows the objects tokens are bound to.
	Reader Reader
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

// Tokens issues and checks service account tokens, and checks bootstrap tokens.
type Tokens struct {
	issuer    string
	audiences authenticator.Audiences
	keys      keySet
	signer    jose.Signer
	reader    Reader
	now       func() time.Time
	// verified remembers signatures, never decisions: dates, audiences and objects are looked at every time.
	verified *lru.Cache[[sha256.Size]byte, *tokenClaims]
}

// NewTokens checks the keys.
func NewTokens(cfg TokenConfig) (*Tokens, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.Issuer}
	}
	keys, err := newKeySet(append([]crypto.PublicKey{cfg.Signer.Public()}, cfg.Retired...)...)
	if err != nil {
		return nil, err
	}
	id, err := keyID(cfg.Signer.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: keys[id].algorithm,
		Key:       jose.JSONWebKey{Key: cfg.Signer, KeyID: id, Algorithm: string(keys[id].algorithm)},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	cache, err := lru.New[[sha256.Size]byte, *tokenClaims](4096)
	if err != nil {
		return nil, err
	}
	return &Tokens{issuer: cfg.Issuer, audiences: cfg.Audiences, keys: keys, signer: signer, reader: cfg.Reader, now: cfg.Now, verified: cache}, nil
}

// AuthenticateToken implements authenticator.Token. The audiences asked for are those in ctx (TokenReview sets
// them), else the API server's own.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if len(token) > maxTokenBytes {
		return nil, false, errInvalidToken
	}
	if m := bootstrapToken.FindStringSubmatch(token); m != nil {
		return t.authenticateBootstrap(ctx, m[1], m[2])
	}
	claims, err := t.verify(token)
	if err != nil {
		return nil, false, err
	}
	if claims.Issuer == legacyIssuer && claims.Kubernetes.Namespace == "" {
		return t.authenticateLegacy(ctx, token, claims)
	}
	if claims.Issuer != t.issuer {
		return nil, false, errInvalidToken
	}
	if err := checkDates(&claims.Claims, t.now()); err != nil {
		return nil, false, err
	}
	accepted, err := t.acceptedAudiences(ctx, authenticator.Audiences(claims.Audience))
	if err != nil {
		return nil, false, err
	}
	info, err := t.checkObjects(ctx, claims)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: accepted}, true, nil
}

func (t *Tokens) verify(token string) (*tokenClaims, error) {
	sum := sha256.Sum256([]byte(token))
	if claims, ok := t.verified.Get(sum); ok {
		return claims, nil
	}
	claims, err := t.keys.verify(token)
	if err != nil {
		return nil, err
	}
	t.verified.Add(sum, claims)
	return claims, nil
}

// checkDates requires an expiry: a token without one was not made here.
func checkDates(c *jwt.Claims, now time.Time) error {
	switch {
	case c.Expiry == nil || now.Add(-clockLeeway).After(c.Expiry.Time()):
		return errors.New("service account token has expired")
	case c.NotBefore != nil && now.Add(clockLeeway).Before(c.NotBefore.Time()):
		return errors.New("service account token is not valid yet")
	case c.IssuedAt != nil && now.Add(clockLeeway).Before(c.IssuedAt.Time()):
		return errors.New("service account token is issued in the future")
	}
	return nil
}

// acceptedAudiences are those of a token that are asked for; there must be one.
func (t *Tokens) acceptedAudiences(ctx context.Context, audiences authenticator.Audiences) (authenticator.Audiences, error) {
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(wanted) == 0 {
		wanted = t.audiences
	}
	accepted := wanted.Intersect(audiences)
	if len(accepted) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(audiences), []string(wanted))
	}
	return accepted, nil
}

// checkObjects requires that everything the token is bound to still lives, with the same UID.
func (t *Tokens) checkObjects(ctx context.Context, claims *tokenClaims) (*serviceaccount.ServiceAccountInfo, error) {
	k := &claims.Kubernetes
	if k.Namespace == "" || k.ServiceAccount.Name == "" || k.ServiceAccount.UID == "" ||
		claims.Subject != serviceaccount.MakeUsername(k.Namespace, k.ServiceAccount.Name) {
		return nil, errInvalidToken
	}
	if err := t.lives(ctx, "serviceaccounts", k.Namespace, &k.ServiceAccount); err != nil {
		return nil, err
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: string(k.ServiceAccount.UID)}
	if claims.ID != "" {
		info.CredentialID = "JTI=" + claims.ID
	}
	if k.Secret != nil {
		if err := t.lives(ctx, "secrets", k.Namespace, k.Secret); err != nil {
			return nil, err
		}
	}
	if k.Pod != nil {
		if err := t.lives(ctx, "pods", k.Namespace, k.Pod); err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = k.Pod.Name, string(k.Pod.UID)
	}
	if k.Node != nil {
		// Beside a pod the node only informs: the pod's life is what counts.
		if k.Pod == nil {
			if err := t.lives(ctx, "nodes", "", k.Node); err != nil {
				return nil, err
			}
		}
		info.NodeName, info.NodeUID = k.Node.Name, string(k.Node.UID)
	}
	return info, nil
}

func (t *Tokens) lives(ctx context.Context, resource, namespace string, ref *objectRef) error {
	obj, err := t.reader.Get(ctx, schema.GroupResource{Resource: resource}, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("service account token is bound to %s %q, which has been deleted", strings.TrimSuffix(resource, "s"), ref.Name)
	}
	if err != nil {
		return err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	if !sameUID(m.GetUID(), ref.UID) {
		return fmt.Errorf("service account token is bound to another %s %q", strings.TrimSuffix(resource, "s"), ref.Name)
	}
	if d := m.GetDeletionTimestamp(); d != nil && t.now().After(d.Add(deletionLeeway)) {
		return fmt.Errorf("service account token is bound to %s %q, which has been deleted", strings.TrimSuffix(resource, "s"), ref.Name)
	}
	return nil
}

func sameUID(have, want types.UID) bool { return have != "" && have == want }

// find returns a core object of the reader.
func find[T metav1.Object](ctx context.Context, r Reader, resource, namespace, name string) (T, error) {
	var zero T
	obj, err := r.Get(ctx, schema.GroupResource{Group: corev1.GroupName, Resource: resource}, namespace, name)
	if err != nil {
		return zero, err
	}
	typed, ok := obj.(T)
	if !ok {
		return zero, fmt.Errorf("auth: %s are %T here", resource, obj)
	}
	return typed, nil
}
