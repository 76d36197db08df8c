package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/coracle-dev/coracle/internal/pki"
)

// objects is a Reader over a list.
type objects map[string][]runtime.Object

func (o objects) Get(_ context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	for _, obj := range o[gr.Resource] {
		m, _ := meta.Accessor(obj)
		if m.GetNamespace() == namespace && m.GetName() == name {
			return obj, nil
		}
	}
	return nil, apierrors.NewNotFound(gr, name)
}

func (o objects) List(_ context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error) {
	var out []runtime.Object
	for _, obj := range o[gr.Resource] {
		if m, _ := meta.Accessor(obj); namespace == "" || m.GetNamespace() == namespace {
			out = append(out, obj)
		}
	}
	return out, metav1.ListMeta{}, nil
}

func named1(ns, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}
}

func world() objects {
	return objects{
		"serviceaccounts": {&corev1.ServiceAccount{ObjectMeta: named1("ns", "robot", "sa-1")}, &corev1.ServiceAccount{ObjectMeta: named1("ns", "other", "sa-2")}},
		"pods": {&corev1.Pod{ObjectMeta: named1("ns", "web", "pod-1"), Spec: corev1.PodSpec{
			ServiceAccountName: "robot", NodeName: "n1",
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
			Volumes: []corev1.Volume{
				{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
				{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
					{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "proj"}}},
				}}}},
			},
			InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "initenv"}}}}}},
			Containers:     []corev1.Container{{Env: []corev1.EnvVar{{Name: "A"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}}}},
		}}},
		"nodes":   {&corev1.Node{ObjectMeta: named1("", "n1", "node-1")}},
		"secrets": {&corev1.Secret{ObjectMeta: named1("ns", "vol", "sec-1")}},
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type fixture struct {
	*Tokens
	objects objects
	key     *ecdsa.PrivateKey
	clock   time.Time
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{objects: world(), key: newKey(t), clock: time.Now()}
	tokens, err := NewTokens(TokenConfig{Issuer: "https://kubernetes.default.svc.cluster.local", Signer: f.key, Reader: f.objects, Now: func() time.Time { return f.clock }})
	if err != nil {
		t.Fatal(err)
	}
	f.Tokens = tokens
	return f
}

func (f *fixture) issue(t testing.TB, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	out, err := f.Issue(t.Context(), "ns", "robot", &authenticationv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return out.Status.Token
}

func (f *fixture) accepts(t *testing.T, token string) bool {
	t.Helper()
	resp, ok, err := f.AuthenticateToken(t.Context(), token)
	if ok != (err == nil) || ok != (resp != nil) {
		t.Fatalf("ok %v, response %v, error %v do not agree", ok, resp, err)
	}
	return ok
}

func podRef() *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: "pod-1"}
}

func TestIssuedTokenIsAccepted(t *testing.T) {
	f := newFixture(t)
	token := f.issue(t, authenticationv1.TokenRequestSpec{BoundObjectRef: podRef()})
	for range 2 { // the second time from the memory of signatures
		resp, ok, err := f.AuthenticateToken(t.Context(), token)
		if err != nil || !ok {
			t.Fatal(err)
		}
		u := resp.User
		if u.GetName() != "system:serviceaccount:ns:robot" || u.GetUID() != "sa-1" || !slices.Equal(u.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns"}) {
			t.Errorf("user %+v", u)
		}
		extra := u.GetExtra()
		if extra["authentication.kubernetes.io/pod-name"][0] != "web" || extra["authentication.kubernetes.io/node-uid"][0] != "node-1" ||
			!strings.HasPrefix(extra["authentication.kubernetes.io/credential-id"][0], "JTI=") {
			t.Errorf("extra %v", extra)
		}
	}
}

func TestTokenDiesWithWhatItIsBoundTo(t *testing.T) {
	cases := map[string]func(*fixture){
		"service account deleted": func(f *fixture) { f.objects["serviceaccounts"] = nil },
		"service account is another": func(f *fixture) {
			f.objects["serviceaccounts"] = []runtime.Object{&corev1.ServiceAccount{ObjectMeta: named1("ns", "robot", "sa-9")}}
		},
		"pod deleted": func(f *fixture) { f.objects["pods"] = nil },
		"pod is another": func(f *fixture) {
			f.objects["pods"] = []runtime.Object{&corev1.Pod{ObjectMeta: named1("ns", "web", "pod-9")}}
		},
		"pod long terminated": func(f *fixture) {
			pod := f.objects["pods"][0].(*corev1.Pod).DeepCopy()
			pod.DeletionTimestamp = &metav1.Time{Time: f.clock.Add(-2 * time.Minute)}
			f.objects["pods"][0] = pod
		},
		"expired": func(f *fixture) { f.clock = f.clock.Add(time.Hour + 2*time.Minute) },
		"not yet": func(f *fixture) { f.clock = f.clock.Add(-time.Hour) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			token := f.issue(t, authenticationv1.TokenRequestSpec{BoundObjectRef: podRef()})
			if !f.accepts(t, token) {
				t.Fatal("not accepted before")
			}
			change(f)
			if f.accepts(t, token) {
				t.Error("still accepted")
			}
		})
	}
	f := newFixture(t)
	token := f.issue(t, authenticationv1.TokenRequestSpec{BoundObjectRef: podRef()})
	f.objects["nodes"] = nil
	if !f.accepts(t, token) {
		t.Error("a pod's token must not depend on the node object")
	}
	for _, ref := range []authenticationv1.BoundObjectReference{{APIVersion: "v1", Kind: "Node", Name: "n1"}, {APIVersion: "v1", Kind: "Secret", Name: "vol"}} {
		f := newFixture(t)
		token := f.issue(t, authenticationv1.TokenRequestSpec{BoundObjectRef: &ref})
		ok := f.accepts(t, token)
		f.objects["nodes"], f.objects["secrets"] = nil, nil
		if !ok || f.accepts(t, token) {
			t.Errorf("%s: before %v", ref.Kind, ok)
		}
	}
}

// forge signs claims of one's own making.
func forge(t *testing.T, key any, alg jose.SignatureAlgorithm, kid string, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (f *fixture) goodClaims() *tokenClaims {
	seconds := int64(3600)
	return f.claims(boundClaims{Namespace: "ns", ServiceAccount: objectRef{Name: "robot", UID: "sa-1"}},
		&authenticationv1.TokenRequestSpec{Audiences: f.audiences, ExpirationSeconds: &seconds}, f.clock)
}

func TestForgedTokensAreRefused(t *testing.T) {
	f := newFixture(t)
	kid, err := keyID(f.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if !f.accepts(t, forge(t, f.key, jose.ES256, kid, f.goodClaims())) {
		t.Fatal("the control is refused")
	}
	pub, err := x509.MarshalPKIXPublicKey(f.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*tokenClaims)) string {
		c := f.goodClaims()
		change(c)
		return forge(t, f.key, jose.ES256, kid, c)
	}
	good := forge(t, f.key, jose.ES256, kid, f.goodClaims())
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"` + kid + `"}`))
	cases := map[string]string{
		"another key under our id": forge(t, newKey(t), jose.ES256, kid, f.goodClaims()),
		"unknown key id":           forge(t, f.key, jose.ES256, "x", f.goodClaims()),
		"no key id":                forge(t, f.key, jose.ES256, "", f.goodClaims()),
		"HMAC with the public key": forge(t, pub, jose.HS256, kid, f.goodClaims()),
		"algorithm none":           none + "." + parts[1] + ".",
		"changed payload":          parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:kube-system:x"}`)) + "." + parts[2],
		"no signature":             parts[0] + "." + parts[1] + ".",
		"another issuer":           edit(func(c *tokenClaims) { c.Issuer = "https://elsewhere" }),
		"another audience":         edit(func(c *tokenClaims) { c.Audience = jwt.Audience{"vault"} }),
		"no audience":              edit(func(c *tokenClaims) { c.Audience = nil }),
		"no expiry":                edit(func(c *tokenClaims) { c.Expiry = nil }),
		"subject of another":       edit(func(c *tokenClaims) { c.Subject = "system:serviceaccount:kube-system:robot" }),
		"no uid":                   edit(func(c *tokenClaims) { c.Kubernetes.ServiceAccount.UID = "" }),
		"pod without uid":          edit(func(c *tokenClaims) { c.Kubernetes.Pod = &objectRef{Name: "web"} }),
		"nothing":                  "",
		"junk":                     "a.b.c",
		"huge":                     strings.Repeat("a", maxTokenBytes+1),
	}
	for name, token := range cases {
		t.Run(name, func(t *testing.T) {
			if f.accepts(t, token) {
				t.Error("accepted")
			}
		})
	}
}

func TestIssueChecks(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	cases := []struct {
		name string
		req  authenticationv1.TokenRequest
		code int32
		text string
	}{
		{"too short", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(599)}}, 422, "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"},
		{"too long", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(1<<32 + 1)}}, 422, "may not specify a duration larger than 2^32 seconds"},
		{"pod is missing", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "x"}}}, 404, `pods "x" not found`},
		{"pod is another", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: "y"}}}, 409, "does not match the UID in record"},
		{"kind", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Service", Name: "x"}}}, 400, "cannot bind token to object of type /v1, Kind=Service"},
		{"uid", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "z"}}, 409, "does not match the UID of the service account"},
		{"name", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "z"}}, 400, "does not match"},
	}
	f := newFixture(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := f.Issue(t.Context(), "ns", "robot", &c.req)
			status, ok := err.(apierrors.APIStatus)
			if !ok || status.Status().Code != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v", err)
			}
		})
	}
	_, err := f.Issue(t.Context(), "ns", "other", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: podRef()}})
	if err == nil || !strings.Contains(err.Error(), `cannot bind token for serviceaccount "other" to pod running with different serviceaccount name.`) {
		t.Error(err)
	}
	out, err := f.Issue(t.Context(), "ns", "robot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(3607), BoundObjectRef: podRef()}})
	if err != nil || out.Status.ExpirationTimestamp.Sub(f.clock) > 3608*time.Second {
		t.Errorf("%v %v", out, err)
	}
	f.clock = f.clock.Add(24 * time.Hour)
	if !f.accepts(t, out.Status.Token) {
		t.Error("a token of the injected volume must serve clients that do not reload it")
	}
}

func bearing(t *testing.T, change func(*http.Request)) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://x/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	change(req)
	return req
}

func clientCert(t testing.TB, p *pki.PKI, id pki.Identity) []*x509.Certificate {
	t.Helper()
	pair, err := p.IssueClient(id)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{cert}
}

func TestAuthenticator(t *testing.T) {
	ours, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	token := f.issue(t, authenticationv1.TokenRequestSpec{})
	a := NewAuthenticator(ours.CAPool(), f)
	withCert := func(p *pki.PKI, id pki.Identity) func(*http.Request) {
		return func(r *http.Request) { r.TLS = &tls.ConnectionState{PeerCertificates: clientCert(t, p, id)} }
	}
	serving := func(r *http.Request) {
		pair, err := ours.ServerTLS().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Leaf}}
	}
	cases := []struct {
		name   string
		change func(*http.Request)
		user   string // empty: refused
		groups []string
	}{
		{"nothing", func(*http.Request) {}, "system:anonymous", []string{"system:unauthenticated"}},
		{"admin", withCert(ours, pki.Admin), "kubernetes-admin", []string{"system:masters", "system:authenticated"}},
		{"node", withCert(ours, pki.Node("n1")), "system:node:n1", []string{"system:nodes", "system:authenticated"}},
		{"another CA", withCert(theirs, pki.Admin), "", nil},
		{"a serving certificate", serving, "", nil},
		{"no name", withCert(ours, pki.Identity{}), "", nil},
		{"token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }, "system:serviceaccount:ns:robot", []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}},
		{"bad token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x"+token) }, "", nil},
		{"websocket", func(r *http.Request) {
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Sec-WebSocket-Protocol", tokenProtocol+base64.RawURLEncoding.EncodeToString([]byte(token))+", v5.channel.k8s.io")
		}, "system:serviceaccount:ns:robot", []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}},
		{"websocket with a bad token", func(r *http.Request) {
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Sec-WebSocket-Protocol", tokenProtocol+"eA, v5.channel.k8s.io")
		}, "", nil},
		{"basic", func(r *http.Request) { r.SetBasicAuth("a", "b") }, "system:anonymous", []string{"system:unauthenticated"}},
		{"local", func(r *http.Request) {
			*r = *r.WithContext(WithLocalUser(r.Context(), &user.DefaultInfo{Name: "system:kube-scheduler"}))
		}, "system:kube-scheduler", []string{"system:authenticated"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req := bearing(t, c.change)
			for range 2 {
				resp, ok, err := a.AuthenticateRequest(req.Clone(req.Context()))
				if c.user == "" {
					if ok || err == nil {
						t.Fatalf("accepted as %v", resp)
					}
					continue
				}
				if err != nil || !ok || resp.User.GetName() != c.user || !slices.Equal(resp.User.GetGroups(), c.groups) {
					t.Fatalf("got %+v, %v", resp, err)
				}
			}
		})
	}
	req := bearing(t, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
	if _, _, err := a.AuthenticateRequest(req); err != nil || req.Header.Get("Authorization") != "" {
		t.Error("the token stayed in the request")
	}
}

func TestCertificateExpiryIsSeenThoughRemembered(t *testing.T) {
	p, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c := newCertificates(p.CAPool())
	now := time.Now()
	c.now = func() time.Time { return now }
	chain := clientCert(t, p, pki.Admin)
	if _, err := c.authenticate(chain); err != nil || c.verified.Len() != 1 {
		t.Fatal(err)
	}
	now = now.AddDate(1, 0, 1)
	if _, err := c.authenticate(chain); err == nil {
		t.Error("an expired certificate was accepted")
	}
	// A certificate of the same subject and serial number, signed by itself.
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: chain[0].Subject, NotAfter: now.Add(time.Hour)}, &x509.Certificate{Subject: chain[0].Issuer}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	fake, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.authenticate([]*x509.Certificate{fake}); err == nil {
		t.Error("a self-signed certificate was accepted")
	}
	if _, ok := c.verified.Get(sha256.Sum256(der)); ok {
		t.Error("a refused certificate was remembered")
	}
}

// Whoever knows only the published keys can check a token.
func TestDiscovery(t *testing.T) {
	f := newFixture(t)
	h, err := f.Discovery("https://192.0.2.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, into any) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(path, w.Code, err)
		}
	}
	var config struct {
		Issuer  string
		JWKSURI string `json:"jwks_uri"`
	}
	get(OpenIDConfigurationPath, &config)
	if config.Issuer != f.issuer || config.JWKSURI != "https://192.0.2.1:6443/openid/v1/jwks" {
		t.Errorf("%+v", config)
	}
	var keys jose.JSONWebKeySet
	get(JWKSPath, &keys)
	parsed, err := jwt.ParseSigned(f.issue(t, authenticationv1.TokenRequestSpec{}), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	found := keys.Key(parsed.Headers[0].KeyID)
	if len(found) != 1 || !found[0].IsPublic() {
		t.Fatalf("%+v", keys)
	}
	var claims jwt.Claims
	if err := parsed.Claims(found[0].Key, &claims); err != nil || claims.Issuer != config.Issuer {
		t.Error(claims, err)
	}
}

func TestTokenReviewAudiences(t *testing.T) {
	f := newFixture(t)
	r := &Reviewer{Authorizer: NewAuthorizer(f.objects), Tokens: f.Tokens}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		out, err := r.Review(t.Context(), nil, "", &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}})
		if err != nil {
			t.Fatal(err)
		}
		return out.(*authenticationv1.TokenReview).Status
	}
	token := f.issue(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "db"}})
	if s := review(token); s.Authenticated || s.Error == "" {
		t.Errorf("for the API server: %+v", s)
	}
	if s := review(token, "vault", "x"); !s.Authenticated || !slices.Equal(s.Audiences, []string{"vault"}) || s.User.Username != "system:serviceaccount:ns:robot" {
		t.Errorf("for vault: %+v", s)
	}
	var _ authenticator.Token = f.Tokens
}
