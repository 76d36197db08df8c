package auth

import (
	"context"
	"crypto/subtle"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Bootstrap tokens let machines join: "ID.SECRET", kept in Secrets of kube-system of type bootstrap.kubernetes.io/token.
const (
	bootstrapUserPrefix   = "system:bootstrap:"
	bootstrapGroup        = "system:bootstrappers"
	bootstrapSecretPrefix = "bootstrap-token-"
	bootstrapSecretType   = corev1.SecretTypeBootstrapToken
)

var (
	bootstrapToken = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	bootstrapExtra = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)
)

// authenticateBootstrap checks a bootstrap token. Every refusal is the same: it says nothing of what exists.
func (t *Tokens) authenticateBootstrap(ctx context.Context, id, secret string) (*authenticator.Response, bool, error) {
	s, err := find[*corev1.Secret](ctx, t.reader, "secrets", metav1.NamespaceSystem, bootstrapSecretPrefix+id)
	if err != nil || s.DeletionTimestamp != nil || !t.bootstraps(s, id, secret) {
		return nil, false, errInvalidToken
	}
	groups, ok := bootstrapGroups(string(s.Data["auth-extra-groups"]))
	if !ok {
		return nil, false, errInvalidToken
	}
	audiences, err := t.acceptedAudiences(ctx, t.audiences)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapUserPrefix + id, Groups: groups}, Audiences: audiences}, true, nil
}

// bootstraps tells whether a Secret is of the token, for authentication, and not yet expired.
func (t *Tokens) bootstraps(s *corev1.Secret, id, secret string) bool {
	value := s.Data["token-secret"]
	switch {
	case s.Type != bootstrapSecretType,
		string(s.Data["token-id"]) != id,
		subtle.ConstantTimeCompare(value, []byte(secret)) != 1,
		string(s.Data["usage-bootstrap-authentication"]) != "true":
		return false
	}
	expiration := string(s.Data["expiration"])
	if expiration == "" {
		return true
	}
	until, err := time.Parse(time.RFC3339, expiration)
	return err == nil && t.now().Before(until) // a date that cannot be read has passed
}

// bootstrapGroups are system:bootstrappers and those of a list divided by commas, all of which must be below it.
func bootstrapGroups(list string) ([]string, bool) {
	groups := []string{bootstrapGroup}
	for _, g := range strings.Split(list, ",") {
		if g == "" {
			continue
		}
		if !bootstrapExtra.MatchString(g) {
			return nil, false
		}
		groups = append(groups, g)
	}
	return groups, true
}
