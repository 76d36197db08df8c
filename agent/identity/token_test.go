package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestToken(t *testing.T) {
	token, err := NewToken(certificate(t), "abcdef", "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseToken(token.String())
	if err != nil || back != token {
		t.Errorf("%+v, %v; want %+v", back, err, token)
	}
	for text, want := range map[string]string{
		"":                              "that is no token",
		"abcdef.0123456789abcdef":       "does not say which CA to trust",
		token.String() + "0":            "that is no token",
		strings.ToUpper(token.String()): "that is no token",
		strings.Replace(token.String(), "::", ":", 1): "that is no token",
	} {
		if _, err := ParseToken(text); err == nil || !strings.Contains(err.Error(), want) || text != "" && strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := NewToken([]byte("no"), "abcdef", "0123456789abcdef"); err == nil {
		t.Error("a token without a CA")
	}
}

// jws signs as the bootstrap signer does.
func jws(text, header, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	encoded := base64.RawURLEncoding.EncodeToString([]byte(header))
	mac.Write([]byte(encoded + "." + base64.RawURLEncoding.EncodeToString([]byte(text))))
	return encoded + ".." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// TestTrusted: of cluster-info only what the token vouches for is believed.
func TestTrusted(t *testing.T) {
	ca, other := certificate(t), certificate(t)
	token, err := NewToken(ca, "abcdef", "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	info := func(ca []byte) string {
		c := clientcmdapi.NewConfig()
		c.Clusters[""] = &clientcmdapi.Cluster{Server: "https://x", CertificateAuthorityData: ca}
		raw, err := clientcmd.Write(*c)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	const header = `{"alg":"HS256","kid":"abcdef"}`
	mine, both := info(ca), info(append(append([]byte{}, other...), ca...))
	for name, c := range map[string]struct {
		data  map[string]string
		want  string
		final bool
	}{
		"good":              {map[string]string{"kubeconfig": mine, "jws-kubeconfig-abcdef": jws(mine, header, token.Secret)}, "", false},
		"of two, one":       {map[string]string{"kubeconfig": both, "jws-kubeconfig-abcdef": jws(both, header, token.Secret)}, "", false},
		"nothing":           {nil, "without a cluster", true},
		"another CA":        {map[string]string{"kubeconfig": info(other), "jws-kubeconfig-abcdef": jws(info(other), header, token.Secret)}, "of another cluster than the token", true},
		"not signed":        {map[string]string{"kubeconfig": mine, "jws-kubeconfig-aaaaaa": jws(mine, header, token.Secret)}, "does not know this token", false},
		"other secret":      {map[string]string{"kubeconfig": mine, "jws-kubeconfig-abcdef": jws(mine, header, "fedcba9876543210")}, "the token is wrong", true},
		"other text":        {map[string]string{"kubeconfig": mine, "jws-kubeconfig-abcdef": jws(both, header, token.Secret)}, "the token is wrong", true},
		"no signature":      {map[string]string{"kubeconfig": mine, "jws-kubeconfig-abcdef": jws(mine, `{"alg":"none","kid":"abcdef"}`, token.Secret)}, "the token is wrong", true},
		"other's signature": {map[string]string{"kubeconfig": mine, "jws-kubeconfig-abcdef": jws(mine, `{"alg":"HS256","kid":"aaaaaa"}`, token.Secret)}, "the token is wrong", true},
	} {
		got, err := trusted("https://x", c.data, token)
		if c.want == "" {
			if err != nil || string(got) != string(ca) {
				t.Errorf("%s: %s, %v", name, got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || IsFinal(err) != c.final {
			t.Errorf("%s: %v (final %v), want %s", name, err, IsFinal(err), c.want)
		}
	}
}

// TestDue: the renewal comes well before the end, however short the certificate's life, and not before it was made.
func TestDue(t *testing.T) {
	made := time.Unix(1_000_000, 0)
	for _, life := range []time.Duration{20 * time.Second, time.Hour, 365 * 24 * time.Hour} {
		c := &x509.Certificate{NotBefore: made.Add(-backdate), NotAfter: made.Add(life)}
		if got := due(c, 0.8).Sub(made); got != life*8/10 {
			t.Errorf("of %v due after %v", life, got)
		}
	}
	c := &x509.Certificate{NotBefore: made, NotAfter: made.Add(time.Minute)} // of a signer that does not backdate
	if got := due(c, 0.8).Sub(made); got != 48*time.Second {
		t.Errorf("due after %v", got)
	}
}
