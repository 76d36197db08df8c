package conformance

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// encryption writes a configuration for Secrets with providers, as JSON, and gives the flag.
func encryption(t *testing.T, providers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	text := fmt.Sprintf(`{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[%s]}]}`, strings.Join(providers, ","))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--encryption-provider-config=" + path
}

func keyOf(kind, name string) string {
	return fmt.Sprintf(`{%q:{"keys":[{"name":%q,"secret":%q}]}}`, kind, name, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(name[:1]), 32)))
}

// TestKeyRotation goes the way of upstream's documentation: a new key is put first, every Secret is written again, the old key goes.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	var e *env
	start := func(providers ...string) *cluster.Process {
		p := c.StartServer(encryption(t, providers...))
		config, err := c.REST()
		if err != nil {
			t.Fatal(err)
		}
		e = &env{suite: &suite{cluster: c, config: config, kube: kubernetes.NewForConfigOrDie(config)}, T: t, ctx: t.Context(), ns: "default"}
		return p
	}
	stored := func() string {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + c.Layout.EtcdSocket()}, DialTimeout: 10 * time.Second})
		e.must(err)
		defer client.Close()
		all, err := client.Get(e.ctx, "/registry/secrets/default/password")
		e.must(err)
		if len(all.Kvs) != 1 {
			t.Fatalf("%d values", len(all.Kvs))
		}
		return string(all.Kvs[0].Value)
	}
	written := func(by string) {
		t.Helper()
		value := stored()
		if !strings.HasPrefix(value, "k8s:enc:"+by+":") || strings.Contains(value, "correct-horse") {
			t.Errorf("stored as %.40q, want by %s", value, by)
		}
		s, err := e.kube.CoreV1().Secrets(e.ns).Get(e.ctx, "password", metav1.GetOptions{})
		e.must(err)
		equal(e, "password", string(s.Data["p"]), "correct-horse")
	}
	const identity = `{"identity":{}}`
	p := start(identity)
	_, err := e.kube.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password"}, Data: map[string][]byte{"p": []byte("correct-horse")}}, metav1.CreateOptions{})
	e.must(err)
	if !strings.Contains(stored(), "correct-horse") {
		t.Error("identity encrypts")
	}
	before := identity
	for _, step := range [][2]string{{"aesgcm", "one"}, {"aesgcm", "two"}, {"secretbox", "three"}, {"aescbc", "four"}} {
		p.Stop()
		now := keyOf(step[0], step[1])
		p = start(now, before)
		all := c.Kubectl("get", "secrets", "--all-namespaces", "-o", "json") // what the old key wrote is readable
		if out := c.KubectlIn(all, "replace", "-f", "-"); !strings.Contains(out, "secret/password replaced") {
			t.Errorf("replace: %s", out)
		}
		written(step[0] + ":v1:" + step[1])
		before = now
	}
	p.Stop()
	p = start(before) // alone
	written("aescbc:v1:four")
	p.Stop()
}

// TestUnsupportedEncryption starts a server with what cannot be done: it says so and ends.
func TestUnsupportedEncryption(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	for providers, want := range map[string]string{
		`{"kms":{"apiVersion":"v2","name":"vault","endpoint":"unix:///run/vault.sock"}}`: "resources[0].providers[0].kms: Forbidden: key management services are not supported",
		`{"rot13":{}}`: `unknown field`,
		`{"aesgcm":{"keys":[{"name":"a","secret":"c2hvcnQ="}]}}`: "resources[0].providers[0].aesgcm.keys[0].secret",
	} {
		flag := encryption(t, providers)
		out, err := c.Coracle("server", "--kubeconfig-out", c.Kubeconfig, "--config", "/dev/null", flag)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v: %s", providers, err, out)
		}
		if strings.Contains(out, "c2hvcnQ=") {
			t.Errorf("a key is shown: %s", out)
		}
	}
}
