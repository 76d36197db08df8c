// Package bootstrap looks after the tokens by which machines join: those that have expired are deleted, and the ConfigMap
// kube-public/cluster-info, which anybody may read, is signed by those that may sign, so that whoever knows a token can tell whether
// it is this cluster's.
//
// Invariants: a token signs as long as it is valid and never longer than the informer takes to see that it is not; keys of the
// ConfigMap that are no signatures are never touched; a token that never expires has no timer.
package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/client"
)

// What upstream's k8s.io/cluster-bootstrap calls the parts of a token's Secret and of cluster-info.
const (
	secretPrefix    = "bootstrap-token-"
	expirationKey   = "expiration"
	signingKey      = "usage-bootstrap-signing"
	clusterInfo     = "cluster-info"
	kubeconfigKey   = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

var (
	tokenID     = regexp.MustCompile(`\A[a-z0-9]{6}\z`)
	tokenSecret = regexp.MustCompile(`\A[a-z0-9]{16}\z`)
)

// tokens watches the Secrets of tokens, and no others.
func tokens(e env.Env) coreinformers.SecretInformer {
	factory := client.Informers(e.Client, informers.WithNamespace(metav1.NamespaceSystem), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "type=" + string(corev1.SecretTypeBootstrapToken)
	}))
	return factory.Core().V1().Secrets()
}

// untilExpiry is how long a token is still valid. One without a date is valid for ever, one whose date cannot be read no more.
func untilExpiry(secret *corev1.Secret, now time.Time) (left time.Duration, ends bool) {
	text := string(secret.Data[expirationKey])
	if text == "" {
		return 0, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, true
	}
	return max(0, at.Sub(now)), true
}

// signer gives the token of a Secret, if it may sign now.
func signer(secret *corev1.Secret, now time.Time) (id, key string, ok bool) {
	id, key = string(secret.Data["token-id"]), string(secret.Data["token-secret"])
	left, ends := untilExpiry(secret, now)
	ok = secret.DeletionTimestamp == nil && secret.Type == corev1.SecretTypeBootstrapToken && secret.Name == secretPrefix+id &&
		tokenID.MatchString(id) && tokenSecret.MatchString(key) && string(secret.Data[signingKey]) == "true" && (!ends || left > 0)
	return id, key, ok
}

// sign makes the detached signature (RFC 7515, appendix F) of a text by HMAC with SHA-256.
func sign(text, id, key string) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode([]byte(`{"alg":"HS256","kid":"` + id + `"}`))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(header + "." + encode([]byte(text))))
	return header + ".." + encode(mac.Sum(nil))
}
