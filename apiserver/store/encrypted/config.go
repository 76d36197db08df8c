package encrypted

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/apiserver/store"
)

const configVersion = "apiserver.config.k8s.io/v1"

// Config says what is encrypted, and how.
type Config struct{ rules []rule }

// Resource is where the objects of a kind that is always served lie.
type Resource struct {
	Group, Name string
	// Prefix is below store.Root, without slashes at its ends.
	Prefix string
}

// Parse reads an EncryptionConfiguration (apiserver.config.k8s.io/v1). known are the resources that are always served.
func Parse(file []byte, known []Resource) (*Config, error) {
	var doc apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(file, &doc); err != nil {
		return nil, err
	}
	if doc.APIVersion != configVersion || doc.Kind != "EncryptionConfiguration" {
		return nil, fmt.Errorf("want kind EncryptionConfiguration of %s, not %q of %q", configVersion, doc.Kind, doc.APIVersion)
	}
	if len(doc.Resources) == 0 {
		return nil, errors.New("resources: Required value: at least one resource configuration")
	}
	cfg := &Config{}
	seen := map[string]bool{}
	for i, r := range doc.Resources {
		path := fmt.Sprintf("resources[%d]", i)
		ps, err := parseProviders(r.Providers)
		if err != nil {
			return nil, fmt.Errorf("%s.%w", path, err)
		}
		if len(r.Resources) == 0 {
			return nil, fmt.Errorf("%s.resources: Required value", path)
		}
		for _, name := range r.Resources {
			if seen[name] {
				return nil, fmt.Errorf("%s.resources: Duplicate value: %q", path, name)
			}
			seen[name] = true
			covers, err := keysOf(name, known)
			if err != nil {
				return nil, fmt.Errorf("%s.resources: %w", path, err)
			}
			cfg.rules = append(cfg.rules, rule{covers, ps})
		}
	}
	return cfg, nil
}

func parseProviders(list []apiserverv1.ProviderConfiguration) (providers, error) {
	var out providers
	names := map[string]bool{}
	add := func(i int, kind string, keys []apiserverv1.Key, make func([]byte) (sealer, error)) error {
		path := fmt.Sprintf("providers[%d].%s", i, kind)
		if len(keys) == 0 {
			return fmt.Errorf("%s.keys: Required value: at least one key", path)
		}
		for j, key := range keys {
			prefix := magic + kind + ":v1:" + key.Name + ":"
			if key.Name == "" || names[prefix] {
				return fmt.Errorf("%s.keys[%d].name: keys need names, each its own", path, j)
			}
			names[prefix] = true
			secret, err := base64.StdEncoding.DecodeString(key.Secret)
			if err != nil {
				return fmt.Errorf("%s.keys[%d].secret: secrets must be base64 encoded", path, j)
			}
			s, err := make(secret)
			if err != nil {
				return fmt.Errorf("%s.keys[%d].secret: %w", path, j, err)
			}
			out = append(out, provider{prefix, s})
		}
		return nil
	}
	for i, p := range list {
		var err error
		given := 0
		if p.AESGCM != nil {
			given, err = given+1, add(i, "aesgcm", p.AESGCM.Keys, newGCM)
		}
		if p.AESCBC != nil && err == nil {
			given, err = given+1, add(i, "aescbc", p.AESCBC.Keys, newCBC)
		}
		if p.Secretbox != nil && err == nil {
			given, err = given+1, add(i, "secretbox", p.Secretbox.Keys, newBox)
		}
		if p.Identity != nil {
			given++
			out = append(out, provider{})
		}
		if p.KMS != nil {
			return nil, fmt.Errorf("providers[%d].kms: Forbidden: key management services are not supported", i)
		}
		if err == nil && given != 1 {
			err = fmt.Errorf("providers[%d]: want exactly one provider, not %d", i, given)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, errors.New("providers: Required value: at least one provider")
	}
	return out, nil
}

// keysOf tells which keys a resource's objects have. Custom resources lie at their group and name.
func keysOf(name string, known []Resource) (func(key string) bool, error) {
	if name != strings.ToLower(name) || name == "" {
		//lint:ignore ST1005 upstream's words
		return nil, fmt.Errorf("Invalid value: %q: want a resource in lower case, as secrets or deployments.apps", name)
	}
	resource, group, _ := strings.Cut(name, ".")
	if resource != "*" {
		at := slices.IndexFunc(known, func(r Resource) bool { return r.Group == group && r.Name == resource })
		if at >= 0 {
			return below(store.Root + known[at].Prefix + "/"), nil
		}
		if group == "" {
			//lint:ignore ST1005 upstream's words
			return nil, fmt.Errorf("Invalid value: %q: there is no such resource", name)
		}
		return below(store.Root + group + "/" + resource + "/"), nil
	}
	if name == "*.*" {
		return func(key string) bool { return isObject(key, known) }, nil
	}
	if !strings.Contains(name, ".") {
		//lint:ignore ST1005 upstream's words
		return nil, fmt.Errorf("Invalid value: %q: use '*.' for the core group and '*.*' for all resources", name)
	}
	prefixes := []string{}
	if group != "" {
		prefixes = append(prefixes, store.Root+group+"/")
	}
	for _, r := range known {
		if r.Group == group {
			prefixes = append(prefixes, store.Root+r.Prefix+"/")
		}
	}
	return func(key string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
	}, nil
}

// isObject tells objects from what else the server stores, as its allocations.
func isObject(key string, known []Resource) bool {
	if slices.ContainsFunc(known, func(r Resource) bool { return strings.HasPrefix(key, store.Root+r.Prefix+"/") }) {
		return true
	}
	group, _, _ := strings.Cut(strings.TrimPrefix(key, store.Root), "/")
	return strings.Contains(group, ".") && group != "coracle"
}

// Default encrypts Secrets with a key in the file at path, which is made (0600) where it is not. Values from before are read as they are.
func Default(path string) (*Config, error) {
	key, err := keyAt(path)
	if err != nil {
		return nil, fmt.Errorf("key for Secrets: %w", err)
	}
	s, err := newGCM(key)
	if err != nil {
		return nil, fmt.Errorf("key for Secrets in %s: %w", path, err)
	}
	ps := providers{{magic + "aesgcm:v1:default:", s}, {}}
	return &Config{rules: []rule{{below(store.Root + "secrets/"), ps}}}, nil
}

func keyAt(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err == nil && len(key) != 32 {
		err = fmt.Errorf("%s holds %d bytes and not 32", path, len(key))
	}
	return key, err
}

// makeKey writes a new key so that a crash leaves either all of it or nothing.
func makeKey(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // 0600
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	err = errors.Join(err, os.Remove(f.Name()))
	return key, err
}
