package images

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Credential for a registry, as a docker configuration file has them.
type Credential struct {
	Username, Password string
	// IdentityToken is exchanged at the registry's token server; RegistryToken is sent as it is.
	IdentityToken, RegistryToken string
}

// Keyring holds credentials by registry pattern: HOST[:PORT][/PATH], where labels of the host may be globs.
type Keyring struct{ entries []keyringEntry }

type keyringEntry struct {
	pattern string
	cred    Credential
	source  string // the secret it is of
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Add reads a docker configuration: the content of a kubernetes.io/dockerconfigjson secret, or of the older
// kubernetes.io/dockercfg, which is the same without the enclosing "auths".
func (k *Keyring) Add(dockerConfig []byte) error { return k.AddSecret("", dockerConfig) }

// AddSecret is Add for the content of a secret, which source identifies.
func (k *Keyring) AddSecret(source string, dockerConfig []byte) error {
	var file struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if err := json.Unmarshal(dockerConfig, &file); err != nil {
		return fmt.Errorf("docker configuration: %w", err)
	}
	auths := file.Auths
	if auths == nil {
		if err := json.Unmarshal(dockerConfig, &auths); err != nil {
			return fmt.Errorf("docker configuration: %w", err)
		}
	}
	for registry, a := range auths {
		cred := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(strings.TrimRight(a.Auth, "\x00"))
			if err != nil {
				return fmt.Errorf("docker configuration: auth of %q: %w", registry, err)
			}
			user, password, ok := strings.Cut(string(plain), ":")
			if !ok {
				return fmt.Errorf("docker configuration: auth of %q is not user:password", registry)
			}
			cred.Username, cred.Password = user, strings.TrimRight(password, "\x00")
		}
		k.entries = append(k.entries, keyringEntry{registryPattern(registry), cred, source})
	}
	// The most specific first, as the kubelet does; equal ones in the order they were added.
	slices.SortStableFunc(k.entries, func(a, b keyringEntry) int { return cmp.Compare(b.pattern, a.pattern) })
	return nil
}

// registryPattern strips scheme and API version: https://index.docker.io/v1/ is docker.io.
func registryPattern(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s = strings.TrimSuffix(s, "/")
	for _, suffix := range []string{"/v1", "/v2"} {
		s = strings.TrimSuffix(s, suffix)
	}
	host, rest, _ := strings.Cut(s, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	if rest == "" {
		return host
	}
	return host + "/" + rest
}

// Lookup returns the credentials whose pattern matches an image's complete name, most specific first.
func (k Keyring) Lookup(image string) []Credential {
	var out []Credential
	for _, e := range k.lookup(image) {
		if !slices.Contains(out, e.cred) {
			out = append(out, e.cred)
		}
	}
	return out
}

func (k Keyring) lookup(image string) []keyringEntry {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	var out []keyringEntry
	for _, e := range k.entries {
		if matches(e.pattern, reference.TrimNamed(named).Name()) {
			out = append(out, e)
		}
	}
	return out
}

// matches compares host labels one by one (globs allowed), ports exactly and paths by prefix.
func matches(pattern, name string) bool {
	patternHost, patternPath, _ := strings.Cut(pattern, "/")
	host, rest, _ := strings.Cut(name, "/")
	if patternPath != "" && !strings.HasPrefix(rest, patternPath) {
		return false
	}
	ph, pp, _ := strings.Cut(patternHost, ":")
	h, p, _ := strings.Cut(host, ":")
	if pp != p {
		return false
	}
	want, have := strings.Split(ph, "."), strings.Split(h, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
