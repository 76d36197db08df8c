package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestBootstrapTokens(t *testing.T) {
	f := newFixture(t)
	secret := &corev1.Secret{ObjectMeta: named1("kube-system", "bootstrap-token-abcdef", "b-1"), Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
		"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
		"auth-extra-groups": []byte("system:bootstrappers:workers"), "expiration": []byte(f.clock.Add(time.Hour).Format(time.RFC3339)),
	}}
	with := func(change func(*corev1.Secret)) {
		s := secret.DeepCopy()
		change(s)
		f.objects["secrets"] = []runtime.Object{s}
	}
	const token = "abcdef.0123456789abcdef"
	with(func(*corev1.Secret) {})
	resp, ok, err := f.AuthenticateToken(t.Context(), token)
	if !ok || err != nil || resp.User.GetName() != "system:bootstrap:abcdef" || !slices.Equal(resp.User.GetGroups(), []string{"system:bootstrappers", "system:bootstrappers:workers"}) {
		t.Fatalf("%+v, %v", resp, err)
	}
	if f.accepts(t, "abcdef.0123456789abcdee") || f.accepts(t, "abcdeg.0123456789abcdef") {
		t.Error("another token is accepted")
	}
	if _, ok, _ := f.AuthenticateToken(authenticator.WithAudiences(t.Context(), []string{"vault"}), token); ok {
		t.Error("good for another audience")
	}
	for name, change := range map[string]func(*corev1.Secret){
		"expired":         func(s *corev1.Secret) { s.Data["expiration"] = []byte(f.clock.Add(-time.Second).Format(time.RFC3339)) },
		"unreadable date": func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") },
		"not for this":    func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") },
		"another type":    func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
		"another id":      func(s *corev1.Secret) { s.Data["token-id"] = []byte("ghijkl") },
		"no secret":       func(s *corev1.Secret) { delete(s.Data, "token-secret") },
		"masters":         func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") },
		"elsewhere":       func(s *corev1.Secret) { s.Namespace = "default" },
		"going":           func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: f.clock} },
	} {
		with(change)
		if f.accepts(t, token) {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLegacyTokens(t *testing.T) {
	f := newFixture(t)
	sa := f.objects["serviceaccounts"][0].(*corev1.ServiceAccount)
	token, err := f.Legacy(sa, "robot-token")
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: named1("ns", "robot-token", "s-1"), Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)}}
	f.objects["secrets"] = []runtime.Object{secret}
	resp, ok, err := f.AuthenticateToken(t.Context(), token)
	if !ok || err != nil || resp.User.GetName() != "system:serviceaccount:ns:robot" || resp.User.GetUID() != "sa-1" || !slices.Equal(resp.Audiences, []string{testAudience}) {
		t.Fatalf("%+v, %v", resp, err)
	}
	if _, ok, _ := f.AuthenticateToken(authenticator.WithAudiences(t.Context(), []string{"vault"}), token); ok {
		t.Error("good for another audience")
	}
	foreign := newFixture(t)
	if stolen, _ := foreign.Legacy(sa, "robot-token"); f.accepts(t, stolen) {
		t.Error("another cluster's token is accepted")
	}
	other, _ := f.Legacy(f.objects["serviceaccounts"][1].(*corev1.ServiceAccount), "robot-token")
	if f.accepts(t, other) {
		t.Error("a token that the Secret does not hold is accepted")
	}
	for name, change := range map[string]func(){
		"switched off": func() { secret.Labels = map[string]string{invalidSince: "2026-01-01"} },
		"secret gone":  func() { f.objects["secrets"] = nil },
		"account gone": func() { f.objects["secrets"] = []runtime.Object{secret}; f.objects["serviceaccounts"] = nil },
		"account anew": func() {
			f.objects["serviceaccounts"] = []runtime.Object{&corev1.ServiceAccount{ObjectMeta: named1("ns", "robot", "sa-9")}}
		},
		"secret change": func() { secret.Data["token"] = []byte("x"); f.objects["serviceaccounts"] = []runtime.Object{sa} },
	} {
		secret.Labels = nil
		change()
		if f.accepts(t, token) {
			t.Errorf("%s: accepted", name)
		}
		f.objects["secrets"], f.objects["serviceaccounts"] = []runtime.Object{secret}, []runtime.Object{sa}
		secret.Data["token"] = []byte(token)
	}
}

const testAudience = "https://kubernetes.default.svc.cluster.local"

// issueCert makes a CA and a client certificate of it.
func issueCert(t *testing.T, name string) (*x509.CertPool, *x509.Certificate) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer, key *ecdsa.PrivateKey) *x509.Certificate {
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "proxy-ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca := make(template, template, caKey, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return pool, make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, caKey, key)
}

func TestFrontProxy(t *testing.T) {
	pool, cert := issueCert(t, FrontProxyName)
	_, foreign := issueCert(t, FrontProxyName)
	a := NewAuthenticator(x509.NewCertPool(), nil, DefaultFrontProxy(pool).Authenticator())
	req := func(cert *x509.Certificate) *http.Request {
		r := bearing(t, func(r *http.Request) {
			r.Header = http.Header{"X-Remote-User": {"jane"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"a", "b"}, "X-Remote-Extra-Acme.com%2fproject": {"x"}}
		})
		if cert != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		}
		return r
	}
	r := req(cert)
	resp, ok, err := a.AuthenticateRequest(r)
	if !ok || err != nil {
		t.Fatal(err)
	}
	u := resp.User
	if u.GetName() != "jane" || u.GetUID() != "7" || !slices.Equal(u.GetGroups(), []string{"a", "b", user.AllAuthenticated}) || u.GetExtra()["acme.com/project"][0] != "x" {
		t.Errorf("%+v", u)
	}
	if len(r.Header) != 0 {
		t.Errorf("headers passed on: %v", r.Header)
	}
	if resp, _, err := a.AuthenticateRequest(req(nil)); err != nil || resp.User.GetName() != user.Anonymous {
		t.Errorf("headers without a certificate: %+v, %v", resp, err)
	}
	if resp, _, err := a.AuthenticateRequest(req(foreign)); err == nil {
		t.Errorf("another CA's certificate: %+v", resp)
	}
	otherPool, other := issueCert(t, "somebody")
	a = NewAuthenticator(x509.NewCertPool(), nil, DefaultFrontProxy(otherPool).Authenticator())
	if resp, _, err := a.AuthenticateRequest(req(other)); err == nil {
		t.Errorf("a name that is not allowed: %+v", resp)
	}
	config := DefaultFrontProxy(pool).AuthenticationConfig([]byte("C"), []byte("P"))
	if config["requestheader-allowed-names"] != `["front-proxy-client"]` || config["client-ca-file"] != "C" || config["requestheader-extra-headers-prefix"] != `["X-Remote-Extra-"]` {
		t.Errorf("%v", config)
	}
}

func TestLimitAnonymous(t *testing.T) {
	a := LimitAnonymous(NewAuthenticator(nil, nil), HealthPaths...)
	for path, want := range map[string]bool{"/readyz": true, "/livez": true, "/readyz/etcd": false, "/version": false, "/api": false} {
		_, ok, err := a.AuthenticateRequest(bearing(t, func(r *http.Request) { r.URL.Path = path }))
		if ok != want || (err == nil) != want {
			t.Errorf("%s: %v, %v", path, ok, err)
		}
	}
	local := bearing(t, func(r *http.Request) { *r = *r.WithContext(WithLocalUser(r.Context(), person("jane"))) })
	if _, ok, err := a.AuthenticateRequest(local); !ok {
		t.Error(err)
	}
}

func TestRBACIndex(t *testing.T) {
	p := NewPolicy()
	d := NewDefaults()
	for i := range d.ClusterRoleBindings { // bindings first: order must not matter
		p.Set(&d.ClusterRoleBindings[i])
	}
	for i := range d.RoleBindings {
		p.Set(&d.RoleBindings[i])
	}
	for i := range d.ClusterRoles {
		p.Set(&d.ClusterRoles[i])
	}
	for i := range d.Roles {
		p.Set(&d.Roles[i])
	}
	manager := person(user.KubeControllerManager)
	if ok, reason := p.authorize(manager, ask(t, manager, "update apps:deployments/scale ns=x name=y")); !ok ||
		reason != `RBAC: allowed by ClusterRoleBinding "system:coracle:controllers" of ClusterRole "system:coracle:controllers" to User "system:kube-controller-manager"` {
		t.Errorf("%v, %s", ok, reason)
	}
	signer := person("system:serviceaccount:kube-system:bootstrap-signer")
	if ok, reason := p.authorize(signer, ask(t, signer, "get :secrets ns=kube-system name=y")); !ok ||
		!strings.HasSuffix(reason, `RoleBinding "system:controller:bootstrap-signer/kube-system" of Role "system:controller:bootstrap-signer" to ServiceAccount "bootstrap-signer/kube-system"`) {
		t.Errorf("%v, %s", ok, reason)
	}
	node := person("system:node:n1", user.NodesGroup)
	for question, want := range map[string]bool{ // what enforcing network policies and services takes, and no more
		"list networking.k8s.io:networkpolicies":               true,
		"watch networking.k8s.io:networkpolicies":              true,
		"update networking.k8s.io:networkpolicies ns=x name=y": false,
		"watch discovery.k8s.io:endpointslices ns=kube-system": true,
		"create discovery.k8s.io:endpointslices ns=x":          false,
		"watch networking.k8s.io:servicecidrs":                 true, // the service proxy routes them
		"update networking.k8s.io:servicecidrs name=y":         false,
		"list :pods": false,
	} {
		if ok, reason := p.authorize(node, ask(t, node, question)); ok != want {
			t.Errorf("%s: %v, %s", question, ok, reason)
		}
	}
	for i := range d.ClusterRoleBindings {
		p.Delete(&d.ClusterRoleBindings[i])
	}
	for i := range d.RoleBindings {
		p.Delete(&d.RoleBindings[i])
	}
	if len(p.grants) != 0 || len(p.bindings) != 0 {
		t.Errorf("left over: %d, %d", len(p.grants), len(p.bindings))
	}
}
