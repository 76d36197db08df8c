package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// The paths at which Tokens.Discovery answers.
const (
	OpenIDConfigurationPath = "/.well-known/openid-configuration"
	JWKSPath                = "/openid/v1/jwks"
)

// Discovery tells others how to check our tokens: the OpenID provider's configuration and its public keys. base is the
// URL at which they reach this server, as "https://192.0.2.1:6443".
func (t *Tokens) Discovery(base string) (http.Handler, error) {
	var keys jose.JSONWebKeySet
	algorithms := []string{}
	for _, id := range slices.Sorted(maps.Keys(t.keys)) {
		k := t.keys[id]
		keys.Keys = append(keys.Keys, jose.JSONWebKey{Key: k.key, KeyID: id, Algorithm: string(k.algorithm), Use: "sig"})
		algorithms = append(algorithms, string(k.algorithm))
	}
	slices.Sort(algorithms)
	config, err := json.Marshal(map[string]any{
		"issuer": t.issuer, "jwks_uri": base + JWKSPath, "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": slices.Compact(algorithms),
	})
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	set, err := json.Marshal(keys)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+OpenIDConfigurationPath, fixed("application/json", config))
	mux.Handle("GET "+JWKSPath, fixed("application/jwk-set+json", set))
	return mux, nil
}

func fixed(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body)
	})
}
