package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apimachinery/pkg/types"
)

// objectRef names one version of an object's life.
type objectRef struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// boundClaims is the private part of a service account token, laid out as upstream's.
type boundClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount objectRef        `json:"serviceaccount,omitzero"`
	Pod            *objectRef       `json:"pod,omitempty"`
	Secret         *objectRef       `json:"secret,omitempty"`
	Node           *objectRef       `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// tokenClaims is everything a token says.
type tokenClaims struct {
	jwt.Claims
	Kubernetes boundClaims  `json:"kubernetes.io,omitzero"`
	Legacy     legacyClaims `json:"-"`
}

// keySet verifies signatures by the public keys of one or more signers, found by their key id.
type keySet map[string]verifyKey

type verifyKey struct {
	key       crypto.PublicKey
	algorithm jose.SignatureAlgorithm
}

func newKeySet(keys ...crypto.PublicKey) (keySet, error) {
	set := keySet{}
	for _, key := range keys {
		alg, err := algorithmOf(key)
		if err != nil {
			return nil, err
		}
		id, err := keyID(key)
		if err != nil {
			return nil, err
		}
		set[id] = verifyKey{key: key, algorithm: alg}
	}
	return set, nil
}

// algorithmOf ties an algorithm to a key, so that the token's header has no say in it.
func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize == 256 {
			return jose.ES256, nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return jose.RS256, nil
		}
	}
	return "", errors.New("auth: service account keys must be ECDSA P-256, or RSA of 2048 bits and more")
}

// keyID is upstream's: the digest of the public key's PKIX form.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("auth: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// verify returns what a token says if one of the keys signed it. It looks at no date, audience or object.
func (s keySet) verify(token string) (*tokenClaims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil || len(parsed.Headers) != 1 {
		return nil, errInvalidToken
	}
	header := parsed.Headers[0]
	key, known := s[header.KeyID]
	if !known || header.Algorithm != string(key.algorithm) {
		return nil, errInvalidToken
	}
	claims := &tokenClaims{}
	if err := parsed.Claims(key.key, claims, &claims.Legacy); err != nil {
		return nil, errInvalidToken
	}
	return claims, nil
}
