package encrypted

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/apiserver/store/storetest"
)

var known = []Resource{{Name: "secrets", Prefix: "secrets"}, {Name: "configmaps", Prefix: "configmaps"}, {Group: "apps", Name: "deployments", Prefix: "deployments"}}

func secret(fill byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32))
}

func parse(t *testing.T, resources, list string) *Config {
	t.Helper()
	cfg, err := Parse(fmt.Appendf(nil, `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":%s,"providers":%s}]}`, resources, list), known)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func key(kind, name string, fill byte) string {
	return fmt.Sprintf(`{%q:{"keys":[{"name":%q,"secret":%q}]}}`, kind, name, secret(fill))
}

// engine is a memory store of which everything is encrypted.
type engine struct {
	*Store
	inner *memory.Store
}

func (e engine) Compact(ctx context.Context, revision int64) error {
	return e.inner.Compact(ctx, revision)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		s := memory.New()
		t.Cleanup(func() { s.Close() })
		gcm, err := newGCM(make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		all := &Config{rules: []rule{{below(""), providers{{magic + "aesgcm:v1:k:", gcm}}}}}
		return engine{New(s, all), s}
	}, storetest.Options{TTL: 300 * time.Millisecond, ExpiresWithin: time.Second})
}

func TestAlgorithmsAndRotation(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []string{"aesgcm", "aescbc", "secretbox"} {
		inner := memory.New()
		defer inner.Close()
		where := store.Root + "secrets/default/a"
		plain := New(inner, parse(t, `["secrets"]`, `[{"identity":{}}]`))
		revision, err := plain.Create(ctx, where, []byte("hunter2"), store.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		first := New(inner, parse(t, `["secrets"]`, "["+key(kind, "one", 1)+`,{"identity":{}}]`))
		e, err := first.Get(ctx, where, 0)
		if err != nil || string(e.Value) != "hunter2" || !first.Stale(where) {
			t.Fatal(kind, err, e, first.Stale(where))
		}
		if _, err = first.Update(ctx, where, e.Value, revision); err != nil || first.Stale(where) {
			t.Fatal(kind, err)
		}
		raw, _ := inner.Get(ctx, where, 0)
		if want := "k8s:enc:" + kind + ":v1:one:"; !strings.HasPrefix(string(raw.Value), want) || bytes.Contains(raw.Value, []byte("hunter2")) {
			t.Errorf("%s: stored %q", kind, raw.Value)
		}
		rotated := New(inner, parse(t, `["secrets"]`, "["+key(kind, "two", 2)+","+key(kind, "one", 1)+"]"))
		if e, err = rotated.Get(ctx, where, 0); err != nil || string(e.Value) != "hunter2" || !rotated.Stale(where) {
			t.Error(kind, err, e)
		}
		foreign := New(inner, parse(t, `["secrets"]`, "["+key(kind, "one", 9)+"]"))
		if e, err = foreign.Get(ctx, where, 0); err == nil && string(e.Value) == "hunter2" {
			t.Error(kind, "another key reads it")
		}
		if kind == "aescbc" {
			continue
		}
		// A value that was moved to another key of the store is not taken, where the algorithm sees it.
		moved := store.Root + "secrets/default/b"
		if _, err := inner.Create(ctx, moved, raw.Value, store.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Get(ctx, moved, 0); (err == nil) != (kind == "secretbox") {
			t.Error(kind, err)
		}
	}
}

func TestWatchAndConflictsAreReadable(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inner := memory.New()
	defer inner.Close()
	s := New(inner, parse(t, `["secrets"]`, "["+key("aesgcm", "k", 1)+"]"))
	w := s.Watch(ctx, store.Root, 0)
	where := store.Root + "secrets/default/a"
	if _, err := s.Create(ctx, where, []byte("v1"), store.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if events := <-w.Events(); len(events) != 1 || string(events[0].Value) != "v1" {
		t.Error(events)
	}
	_, err := s.Create(ctx, where, []byte("v2"), store.CreateOptions{})
	if exists, ok := err.(*store.ExistsError); !ok || string(exists.Current.Value) != "v1" {
		t.Error(err)
	}
	_, err = s.Update(ctx, where, []byte("v2"), 1000)
	if conflict, ok := err.(*store.ConflictError); !ok || string(conflict.Current.Value) != "v1" {
		t.Error(err)
	}
}

func TestWhatIsCovered(t *testing.T) {
	for _, c := range []struct {
		resources string
		yes, no   []string
	}{
		{`["secrets"]`, []string{"secrets/a/b"}, []string{"secretsx/a", "configmaps/a/b"}},
		{`["*."]`, []string{"secrets/a/b", "configmaps/a/b"}, []string{"deployments/a/b", "example.com/things/a"}},
		{`["*.apps"]`, []string{"deployments/a/b"}, []string{"secrets/a/b"}},
		{`["things.example.com"]`, []string{"example.com/things/a"}, []string{"example.com/others/a"}},
		{`["*.*"]`, []string{"secrets/a/b", "deployments/a/b", "example.com/things/a"}, []string{"ranges/serviceips"}},
	} {
		s := New(nil, parse(t, c.resources, "["+key("aesgcm", "k", 1)+"]"))
		for _, k := range c.yes {
			if s.providers(store.Root+k) == nil {
				t.Error(c.resources, "does not cover", k)
			}
		}
		for _, k := range c.no {
			if s.providers(store.Root+k) != nil {
				t.Error(c.resources, "covers", k)
			}
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	head := `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration",`
	for doc, want := range map[string]string{
		`{"kind":"Other"}`:       "want kind EncryptionConfiguration",
		head + `"resources":[]}`: "at least one resource",
		head + `"resources":[{"resources":["secrets"],"providers":[]}]}`:                                                   "at least one provider",
		head + `"resources":[{"resources":["secrets"],"providers":[{"kms":{"name":"x"}}]}]}`:                               "not supported",
		head + `"resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"a","secret":"AAAA"}]}}]}]}`: "expected key size 32",
		head + `"resources":[{"resources":["*"],"providers":[{"identity":{}}]}]}`:                                          "use '*.'",
		head + `"resources":[{"resources":["nothings"],"providers":[{"identity":{}}]}]}`:                                   "no such resource",
		head + `"resources":[{"resources":["secrets","secrets"],"providers":[{"identity":{}}]}]}`:                          "Duplicate value",
		head + `"typo":1}`: "unknown field",
	} {
		if _, err := Parse([]byte(doc), known); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", doc, err, want)
		}
	}
}

func TestDefaultKeepsItsKey(t *testing.T) {
	ctx := context.Background()
	inner := memory.New()
	defer inner.Close()
	path := filepath.Join(t.TempDir(), "pki", "key")
	where := store.Root + "secrets/a/b"
	for i := range 2 {
		cfg, err := Default(path)
		if err != nil {
			t.Fatal(err)
		}
		s := New(inner, cfg)
		if i == 0 {
			if _, err := s.Create(ctx, where, []byte("v"), store.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		} else if e, err := s.Get(ctx, where, 0); err != nil || string(e.Value) != "v" {
			t.Error(e, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}
