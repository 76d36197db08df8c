package volumes

import (
	"context"
	"fmt"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

type tokenKey struct {
	pod          types.UID
	volume, path string
}

type token struct {
	value   string
	refresh time.Time
}

const maxTokenAge = 24 * time.Hour

// addToken gives the pod a token bound to it. It is replaced at 80% of its life, at the latest after a day.
func (m *Manager) addToken(ctx context.Context, pod *v1.Pod, files map[string]file, volume string, s *v1.ServiceAccountTokenProjection, mode int32) (time.Time, error) {
	key := tokenKey{pod.UID, volume, s.Path}
	m.mu.Lock()
	t, ok := m.tokens[key]
	m.mu.Unlock()
	if !ok || !m.now().Before(t.refresh) {
		fresh, err := m.requestToken(ctx, pod, s)
		if err != nil {
			if !ok {
				return time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
			}
			// The old one is still good for a while; try again soon.
			fresh = token{t.value, m.now().Add(10 * time.Second)}
		}
		t = fresh
		m.mu.Lock()
		m.tokens[key] = t
		m.mu.Unlock()
	}
	f := file{data: []byte(t.value), mode: mode}
	if uid := soleUser(pod); uid != nil || fsGroup(pod) != nil {
		f.mode, f.uid = 0o600, uid
	}
	return t.refresh, addFile(files, s.Path, f)
}

// RenewTokens has every token replaced when its pod's volumes are set up the next time: the clock by which they end was set.
func (m *Manager) RenewTokens() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, t := range m.tokens {
		t.refresh = time.Time{}
		m.tokens[key] = t
	}
}

func (m *Manager) requestToken(ctx context.Context, pod *v1.Pod, s *v1.ServiceAccountTokenProjection) (token, error) {
	r := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if s.Audience != "" {
		r.Spec.Audiences = []string{s.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	asked := m.now()
	r, err := m.cfg.Objects.Token(ctx, pod.Namespace, account, r)
	if err != nil {
		return token{}, err
	}
	life := r.Status.ExpirationTimestamp.Sub(asked)
	return token{r.Status.Token, asked.Add(min(life*8/10, maxTokenAge))}, nil
}

// soleUser is the user that all of the pod's containers run as, if they are told to run as one.
func soleUser(pod *v1.Pod) *int64 {
	var uid *int64
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			own := runAsUser(pod, &list[i])
			if own == nil || uid != nil && *uid != *own {
				return nil
			}
			uid = own
		}
	}
	return uid
}

func runAsUser(pod *v1.Pod, c *v1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}
