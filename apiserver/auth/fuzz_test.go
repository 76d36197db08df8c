package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// No token that was not issued is accepted, whatever it looks like.
func FuzzToken(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	tokens, err := NewTokens(TokenConfig{Issuer: "https://x", Signer: key, Reader: world()})
	if err != nil {
		f.Fatal(err)
	}
	out, err := tokens.Issue(f.Context(), "ns", "robot", &authenticationv1.TokenRequest{})
	if err != nil {
		f.Fatal(err)
	}
	issued := out.Status.Token
	parts := strings.Split(issued, ".")
	f.Add(issued)
	f.Add(parts[0] + "." + parts[1] + ".")
	f.Add(parts[0] + ".e30." + parts[2])
	f.Add("eyJhbGciOiJub25lIn0." + parts[1] + ".")
	f.Add(`{"payload":"e30","signatures":[{"header":{"alg":"ES256"},"signature":""}]}`)
	f.Fuzz(func(t *testing.T, token string) {
		_, ok, err := tokens.AuthenticateToken(t.Context(), token)
		if ok != (err == nil) || ok && token != issued {
			t.Errorf("%q: %v, %v", token, ok, err)
		}
	})
}

func FuzzProtocolToken(f *testing.F) {
	f.Add("base64url.bearer.authorization.k8s.io.eA, v5.channel.k8s.io")
	f.Add("a,,base64url.bearer.authorization.k8s.io.")
	f.Fuzz(func(t *testing.T, header string) {
		token, rest, found, err := protocolToken(http.Header{"Upgrade": {"websocket"}, protocolHeader: {header}})
		if found && (err != nil || token == "" || len(rest) == 0) {
			t.Errorf("%q: %q %q %v", header, token, rest, err)
		}
		for _, p := range rest {
			if strings.HasPrefix(p, tokenProtocol) {
				t.Errorf("%q: a token is left over", header)
			}
		}
	})
}
