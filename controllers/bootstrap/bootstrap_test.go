package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const validKey = "0123456789abcdef"

func secret(id string, change map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretPrefix + id}, Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{
		"token-id": []byte(id), "token-secret": []byte(validKey), signingKey: []byte("true"),
	}}
	for key, value := range change {
		s.Data[key] = []byte(value)
	}
	return s
}

func TestUntilExpiry(t *testing.T) {
	for text, want := range map[string]string{
		"": "0s false", "2026-01-02T03:04:06Z": "1s true", "2026-01-02T04:04:05+01:00": "0s true", "2020-01-01T00:00:00Z": "0s true", "tomorrow": "0s true",
	} {
		left, ends := untilExpiry(secret("abcdef", map[string]string{expirationKey: text}), now)
		if got := fmt.Sprint(left, " ", ends); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestSignature is the one that kubeadm's documentation of the format leads to, and is checked as kubeadm checks it.
func TestSignature(t *testing.T) {
	const text = "payload"
	parts := strings.Split(sign(text, "abcdef", validKey), ".")
	if len(parts) != 3 || parts[1] != "" {
		t.Fatal(parts)
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || string(header) != `{"alg":"HS256","kid":"abcdef"}` {
		t.Errorf("header %s %v", header, err)
	}
	mac := hmac.New(sha256.New, []byte(validKey))
	mac.Write([]byte(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(text))))
	if got, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		t.Errorf("signature %x %v", got, err)
	}
}

func TestDecide(t *testing.T) {
	expiring := secret("expire", map[string]string{expirationKey: now.Add(time.Minute).Format(time.RFC3339)})
	sooner := secret("sooner", map[string]string{expirationKey: now.Add(time.Second).Format(time.RFC3339)})
	wrongName, deleted, opaque := secret("wrongn", nil), secret("delete", nil), secret("opaque", nil)
	wrongName.Name = "other"
	deleted.DeletionTimestamp = &metav1.Time{Time: now}
	opaque.Type = corev1.SecretTypeOpaque
	all := []*corev1.Secret{
		secret("abcdef", nil), expiring, sooner, wrongName, deleted, opaque,
		secret("expird", map[string]string{expirationKey: now.Format(time.RFC3339)}), secret("nosign", map[string]string{signingKey: "false"}),
		secret("Upper!", nil), secret("shorts", map[string]string{"token-secret": "short"}),
	}
	data := map[string]string{kubeconfigKey: "text", "mine": "stays", signaturePrefix + "abcdef": "stale", signaturePrefix + "gone00": "old", signaturePrefix + "expird": "old"}
	changes, next := decide(data, all, now)
	if next != time.Second {
		t.Errorf("next %v", next)
	}
	want := []string{"jws-kubeconfig-abcdef", "jws-kubeconfig-expird", "jws-kubeconfig-expire", "jws-kubeconfig-gone00", "jws-kubeconfig-sooner"}
	if got := slices.Sorted(maps.Keys(changes)); !slices.Equal(got, want) {
		t.Errorf("changes %v", got)
	}
	if changes["jws-kubeconfig-gone00"] != nil || changes["jws-kubeconfig-expird"] != nil || *changes["jws-kubeconfig-abcdef"] != sign("text", "abcdef", validKey) {
		t.Errorf("changes %v", changes)
	}
	if changes, next := decide(map[string]string{signaturePrefix + "abcdef": "x"}, all, now); next != 0 || len(changes) != 1 {
		t.Errorf("without a kubeconfig: %v %v", changes, next)
	}
}

// TestDecideSettles: what decide asks for leaves nothing to ask for, and touches signatures alone.
func TestDecideSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfDistinct(rapid.StringMatching(`[a-z]{6}`), func(s string) string { return s }).Draw(t, "ids")
		var secrets []*corev1.Secret
		for _, id := range ids {
			secrets = append(secrets, secret(id, map[string]string{
				signingKey:    rapid.SampledFrom([]string{"true", "false"}).Draw(t, "signs"),
				expirationKey: rapid.SampledFrom([]string{"", "2030-01-01T00:00:00Z", "2020-01-01T00:00:00Z"}).Draw(t, "expires"),
			}))
		}
		data := map[string]string{kubeconfigKey: rapid.StringN(0, 10, -1).Draw(t, "text"), "other": "o"}
		for _, id := range append(ids, "strang") {
			if rapid.Bool().Draw(t, "signed") {
				data[signaturePrefix+id] = rapid.StringN(0, 3, -1).Draw(t, "signature")
			}
		}
		changes, _ := decide(data, secrets, now)
		for key, value := range changes {
			if !strings.HasPrefix(key, signaturePrefix) {
				t.Fatalf("touches %s", key)
			}
			if data[key] = ""; value == nil {
				delete(data, key)
			} else {
				data[key] = *value
			}
		}
		if again, _ := decide(data, secrets, now); len(again) != 0 {
			t.Fatalf("not settled: %v", again)
		}
	})
}
