package kinds

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var configMeta = metav1.ObjectMeta{Name: "c", Namespace: "default", ResourceVersion: "1"}

func TestConfigMapValidation(t *testing.T) {
	k := kindOf(t, "", "configmaps")
	half := strings.Repeat("x", corev1.MaxSecretSize/2)
	for name, c := range map[string]struct {
		config corev1.ConfigMap
		want   []string
	}{
		"good": {config: corev1.ConfigMap{Data: map[string]string{"a.conf": half}, BinaryData: map[string][]byte{"b": []byte(half)}}},
		"keys": {
			config: corev1.ConfigMap{Data: map[string]string{"a/b": "", "x": ""}, BinaryData: map[string][]byte{"..": nil, "x": nil}},
			want: []string{
				`data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`,
				`binaryData[..]: Invalid value: "..": must not be '..'`,
				`data[x]: Invalid value: "x": duplicate of key present in binaryData`,
			},
		},
		"too large": {
			config: corev1.ConfigMap{Data: map[string]string{"a": half, "b": half, "c": "x"}},
			want:   []string{"[]: Too long: may not be more than 1048576 bytes"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.ObjectMeta = configMeta
			wantTexts(t, k.Validate(&c.config), c.want...)
		})
	}
	sealed := &corev1.ConfigMap{ObjectMeta: configMeta, Immutable: ptr(true), Data: map[string]string{"a": "1"}}
	c := sealed.DeepCopy()
	c.Labels = map[string]string{"x": "y"}
	wantTexts(t, k.ValidateUpdate(c, sealed))
	c.Immutable, c.Data["a"], c.BinaryData = nil, "2", map[string][]byte{"b": nil}
	wantTexts(t, k.ValidateUpdate(c, sealed),
		"immutable: Forbidden: field is immutable when `immutable` is set",
		"data: Forbidden: field is immutable when `immutable` is set",
		"binaryData: Forbidden: field is immutable when `immutable` is set")
}

func TestSecretDefault(t *testing.T) {
	s := &corev1.Secret{Data: map[string][]byte{"a": []byte("old"), "b": []byte("b")}, StringData: map[string]string{"a": "new", "c": "c"}}
	defaultSecret(s)
	if s.Type != corev1.SecretTypeOpaque || s.StringData != nil || string(s.Data["a"]) != "new" || string(s.Data["b"]) != "b" || string(s.Data["c"]) != "c" {
		t.Errorf("%+v", s)
	}
}

func TestSecretValidation(t *testing.T) {
	k := kindOf(t, "", "secrets")
	for name, c := range map[string]struct {
		secret corev1.Secret
		want   []string
	}{
		"opaque": {},
		"token": {
			secret: corev1.Secret{Type: corev1.SecretTypeServiceAccountToken},
			want:   []string{"metadata.annotations[kubernetes.io/service-account.name]: Required value"},
		},
		"docker config": {
			secret: corev1.Secret{Type: corev1.SecretTypeDockerConfigJson},
			want:   []string{"data[.dockerconfigjson]: Required value"},
		},
		"bad docker config": {
			secret: corev1.Secret{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{".dockercfg": []byte("{")}},
			want:   []string{`data[.dockercfg]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`},
		},
		"basic auth": {
			secret: corev1.Secret{Type: corev1.SecretTypeBasicAuth},
			want:   []string{"data[username]: Required value", "data[password]: Required value"},
		},
		"basic auth with a user": {secret: corev1.Secret{Type: corev1.SecretTypeBasicAuth, Data: map[string][]byte{"username": nil}}},
		"ssh": {
			secret: corev1.Secret{Type: corev1.SecretTypeSSHAuth, Data: map[string][]byte{"ssh-privatekey": nil}},
			want:   []string{"data[ssh-privatekey]: Required value"},
		},
		"tls": {
			secret: corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": nil}},
			want:   []string{"data[tls.key]: Required value"},
		},
		"bad key": {
			secret: corev1.Secret{Data: map[string][]byte{"": nil}},
			want:   []string{`data[]: Invalid value: "": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`},
		},
		"too large": {
			secret: corev1.Secret{Data: map[string][]byte{"a": make([]byte, corev1.MaxSecretSize), "b": {1}}},
			want:   []string{"data: Too long: may not be more than 1048576 bytes"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.secret.ObjectMeta = configMeta
			k.Default(&c.secret)
			wantTexts(t, k.Validate(&c.secret), c.want...)
		})
	}
	old := &corev1.Secret{ObjectMeta: configMeta, Type: corev1.SecretTypeOpaque, Immutable: ptr(true), Data: map[string][]byte{"a": nil}}
	s := &corev1.Secret{ObjectMeta: configMeta, Type: "example.com/t", Immutable: ptr(true)}
	wantTexts(t, k.ValidateUpdate(s, old),
		`type: Invalid value: "example.com/t": field is immutable`,
		"data: Forbidden: field is immutable when `immutable` is set")
	if have := rowText(k.Cells(old, now)); have != "c|Opaque|1|<unknown>" {
		t.Error(have)
	}
}

func TestServiceAccount(t *testing.T) {
	k := kindOf(t, "", "serviceaccounts")
	sa := &corev1.ServiceAccount{
		ObjectMeta: configMeta, Secrets: []corev1.ObjectReference{{Name: "s", Kind: "Secret", UID: "1"}},
	}
	sa.Annotations = map[string]string{annotationMountableSecrets: "true"}
	k.PrepareCreate(sa)
	if sa.Secrets[0] != (corev1.ObjectReference{Name: "s"}) {
		t.Errorf("%+v", sa.Secrets)
	}
	const warning = "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
	if w := k.Warnings(sa, nil); len(w) != 1 || w[0] != warning {
		t.Error(w)
	}
	if w := k.Warnings(sa, sa); len(w) != 0 {
		t.Error(w)
	}
}

func TestBinding(t *testing.T) {
	wantTexts(t, ValidateBinding(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}))
	wantTexts(t, ValidateBinding(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Pod"}}),
		`target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`, "target.name: Required value")
}
