package apiserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// attempt is a request that must be refused.
type attempt struct {
	name   string
	by     user.Info
	header http.Header
	method string
	path   string
	body   string
	code   int
	want   string // part of the answer
}

const jsonType = "application/json"

func (a attempt) run(t *testing.T, h http.Handler) {
	t.Helper()
	req := httptest.NewRequest(a.method, a.path, strings.NewReader(a.body))
	for name, values := range a.header {
		req.Header[name] = values
	}
	if a.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", jsonType)
	}
	if a.by != nil {
		req = req.WithContext(auth.WithLocalUser(req.Context(), a.by))
	}
	ctx, cancel := context.WithTimeout(req.Context(), 20*time.Second) // a watch that is let in would not end
	defer cancel()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req.WithContext(ctx))
	if rec.Code != a.code || !strings.Contains(strings.ReplaceAll(rec.Body.String(), `\"`, `"`), a.want) {
		t.Errorf("%s %s: %d %s, want %d %s", a.method, a.path, rec.Code, rec.Body, a.code, a.want)
	}
}

func whoIs(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

// besieged is a cluster with something to steal, and people who may do a little.
func besieged(t *testing.T) *secured {
	s := startSecured(t, memory.New())
	ctx, admin := t.Context(), s.admin()
	for _, ns := range []string{"mine", "theirs"} {
		_, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		s.must(err)
		for _, sa := range []string{"default", "robot"} {
			_, err = admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: sa}}, metav1.CreateOptions{})
			s.must(err)
		}
		for _, secret := range []string{"used", "unused"} {
			_, err = admin.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}, Data: map[string][]byte{"k": []byte("v")}}, metav1.CreateOptions{})
			s.must(err)
		}
	}
	for _, node := range []string{"n1", "n2"} {
		_, err := admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
		s.must(err)
		_, err = admin.CoreV1().Pods("mine").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-" + node},
			Spec:       corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: ptr.To(node == "n2"), Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: envOf(node)}}},
		}, metav1.CreateOptions{})
		s.must(err)
	}
	// jane may do everything with pods and roles of her namespace, and read one secret of it.
	s.grant("mine", "janes", "jane", ruleOf("get list watch create update patch delete", "pods pods/exec configmaps roles rolebindings"))
	s.grant("mine", "one-secret", "jane", ruleOf("get list watch", "secrets", "used"))
	s.grant("mine", "reader", "rita", ruleOf("get list watch", "pods"))
	s.grant("mine", "updater", "uma", ruleOf("get update patch", "configmaps roles"))
	for verb, to := range map[string]string{"patch": "jane", "list": "rita", "update": "uma"} {
		eventually(t, "the roles hold", func() bool {
			_, reason, _ := s.authz.Authorize(ctx, resourceRequest(whoIs(to), verb))
			return reason != ""
		})
	}
	return s
}

func envOf(node string) []corev1.EnvFromSource {
	if node != "n1" {
		return nil
	}
	return []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "used"}}}}
}

func TestRefused(t *testing.T) {
	s := besieged(t)
	jane, rita, uma := whoIs("jane"), whoIs("rita"), whoIs("uma")
	n2 := whoIs("system:node:n2", user.NodesGroup)
	anyone := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	const mine, theirs, rbac = "/api/v1/namespaces/mine/", "/api/v1/namespaces/theirs/", "/apis/rbac.authorization.k8s.io/v1/"
	patch := http.Header{"Content-Type": {"application/merge-patch+json"}}
	role := func(verbs, resources string) string {
		return fmt.Sprintf(`{"metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":[%q],"verbs":[%q]}]}`, resources, verbs)
	}
	bind := func(kind, name string) string {
		return fmt.Sprintf(`{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":%q,"name":%q},"subjects":[{"kind":"User","name":"jane"}]}`, kind, name)
	}
	as := func(name string, more ...string) http.Header {
		h := http.Header{"Impersonate-User": {name}}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = []string{more[i+1]}
		}
		return h
	}
	token := func(pod, uid string) string {
		return fmt.Sprintf(`{"spec":{"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q}}}`, pod, uid)
	}
	for _, a := range []attempt{
		// Other namespaces and the cluster.
		{name: "another namespace", by: jane, method: "GET", path: theirs + "pods", code: 403, want: `pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "theirs"`},
		{name: "all namespaces", by: jane, method: "GET", path: "/api/v1/pods", code: 403, want: `cannot list resource "pods" in API group "" at the cluster scope`},
		{name: "watch of all namespaces", by: jane, method: "GET", path: "/api/v1/pods?watch=1", code: 403, want: "cannot watch"},
		{name: "old watch path", by: jane, method: "GET", path: "/api/v1/watch/namespaces/theirs/pods", code: 403, want: "cannot watch"},
		{name: "a namespace by a selector", by: jane, method: "GET", path: "/api/v1/pods?fieldSelector=metadata.namespace%3Dmine", code: 403, want: "at the cluster scope"},
		{name: "nodes", by: jane, method: "GET", path: "/api/v1/nodes", code: 403, want: "cannot list"},
		{name: "namespace", by: jane, method: "DELETE", path: "/api/v1/namespaces/mine", code: 403, want: "cannot delete"},
		{name: "namespace in the body", by: jane, method: "POST", path: mine + "pods", body: `{"metadata":{"name":"p","namespace":"theirs"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, code: 400, want: "does not match the namespace sent on the request"},
		// A role restricted to a name.
		{name: "list of secrets", by: jane, method: "GET", path: mine + "secrets", code: 403, want: "cannot list"},
		{name: "watch of secrets", by: jane, method: "GET", path: mine + "secrets?watch=1", code: 403, want: "cannot watch"},
		{name: "another secret", by: jane, method: "GET", path: mine + "secrets/unused", code: 403, want: `secrets "unused" is forbidden`},
		{name: "another secret by selector", by: jane, method: "GET", path: mine + "secrets?fieldSelector=metadata.name%3Dunused", code: 403, want: "cannot list"},
		{name: "not this secret by selector", by: jane, method: "GET", path: mine + "secrets?fieldSelector=metadata.name!%3Dunused", code: 403, want: "cannot list"},
		{name: "its secret, written", by: jane, method: "DELETE", path: mine + "secrets/used", code: 403, want: "cannot delete"},
		{name: "all its secrets, deleted", by: jane, method: "DELETE", path: mine + "secrets", code: 403, want: "cannot deletecollection"},
		// Subresources and verbs.
		{name: "exec", by: rita, method: "POST", path: mine + "pods/on-n1/exec?command=sh", code: 403, want: `cannot create resource "pods/exec"`},
		{name: "exec by GET", by: rita, method: "GET", path: mine + "pods/on-n1/exec?command=sh", code: 403, want: `cannot get resource "pods/exec"`},
		{name: "log", by: rita, method: "GET", path: mine + "pods/on-n1/log", code: 403, want: `cannot get resource "pods/log"`},
		{name: "proxy", by: rita, method: "GET", path: mine + "pods/on-n1/proxy/", code: 403, want: `cannot get resource "pods/proxy"`},
		{name: "eviction", by: rita, method: "POST", path: mine + "pods/on-n1/eviction", body: `{}`, code: 403, want: `cannot create resource "pods/eviction"`},
		{name: "status", by: rita, method: "PATCH", path: mine + "pods/on-n1/status", header: patch, body: `{"status":{"phase":"Failed"}}`, code: 403, want: `cannot patch resource "pods/status"`},
		{name: "ephemeral containers", by: rita, method: "PATCH", path: mine + "pods/on-n1/ephemeralcontainers", header: patch, body: `{}`, code: 403, want: "pods/ephemeralcontainers"},
		{name: "binding", by: jane, method: "POST", path: mine + "bindings", body: `{"metadata":{"name":"on-n1"},"target":{"name":"n2"}}`, code: 403, want: `cannot create resource "bindings"`},
		{name: "deletecollection", by: rita, method: "DELETE", path: mine + "pods", code: 403, want: "cannot deletecollection"},
		{name: "proxy out of its path", by: rita, method: "GET", path: mine + "pods/on-n1/proxy/../../../secrets/used", code: 403, want: "forbidden"},
		{name: "proxy out of its path, encoded", by: rita, method: "GET", path: mine + "pods/on-n1/proxy/%2e%2e/%2e%2e/%2e%2e/secrets/used", code: 403, want: "forbidden"},
		{name: "path that climbs", by: rita, method: "GET", path: "/api/v1/namespaces/mine/pods/../secrets/used", code: 403, want: "forbidden"},
		{name: "paths of the server", by: rita, method: "GET", path: "/metrics", code: 403, want: `User "rita" cannot get path "/metrics"`},
		{name: "profiles", by: rita, method: "GET", path: "/debug/pprof/heap", code: 403, want: "cannot get path"},
		{name: "parts of health", by: anyone, method: "GET", path: "/readyz/etcd", code: 403, want: "cannot get path"},
		{name: "anonymous discovery", by: anyone, method: "GET", path: "/api/v1", code: 403, want: `User "system:anonymous" cannot get path "/api/v1"`},
		// Patches and updates that create.
		{name: "put that creates", by: uma, method: "PUT", path: "/apis/rbac.authorization.k8s.io/v1/namespaces/mine/roles/new", body: `{"metadata":{"name":"new"},"rules":[]}`, code: 403, want: "cannot create"},
		// Escalation.
		{name: "role of more", by: jane, method: "POST", path: rbac + "namespaces/mine/roles", body: role("get", "secrets"), code: 403,
			want: `is attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		{name: "role of everything", by: jane, method: "POST", path: rbac + "namespaces/mine/roles", body: role("*", "*"), code: 403, want: `user "jane" (groups=["system:authenticated"]) is attempting to grant`},
		{name: "own role, wider", by: jane, method: "PATCH", path: rbac + "namespaces/mine/roles/janes", header: patch, body: `{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["list"]}]}`, code: 403, want: "attempting to grant"},
		{name: "another's role, wider", by: uma, method: "PATCH", path: rbac + "namespaces/mine/roles/reader", header: patch, body: `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["delete"]}]}`, code: 403, want: "attempting to grant"},
		{name: "a role bound in a namespace", by: jane, method: "POST", path: rbac + "namespaces/mine/rolebindings", body: bind("ClusterRole", "cluster-admin"), code: 403, want: "attempting to grant"},
		{name: "a role bound that is not there", by: jane, method: "POST", path: rbac + "namespaces/mine/rolebindings", body: bind("ClusterRole", "ghost"), code: 404, want: `clusterroles.rbac.authorization.k8s.io "ghost" not found`},
		{name: "a binding of another namespace", by: jane, method: "POST", path: rbac + "namespaces/kube-system/rolebindings", body: bind("ClusterRole", "cluster-admin"), code: 403, want: "cannot create"},
		{name: "a cluster binding", by: jane, method: "POST", path: rbac + "clusterrolebindings", body: bind("ClusterRole", "cluster-admin"), code: 403, want: "cannot create"},
		// Impersonation.
		{name: "as another", by: jane, header: as("admin"), method: "GET", path: mine + "pods", code: 403, want: `User "jane" cannot impersonate-on:user-info:list resource "pods"`},
		{name: "as a master", by: jane, header: as("jane", "Impersonate-Group", "system:masters"), method: "GET", path: "/api/v1/secrets", code: 403, want: "impersonate"},
		{name: "as a node", by: jane, header: as("system:node:n1"), method: "GET", path: mine + "secrets/used", code: 403, want: "impersonate"},
		{name: "as an account elsewhere", by: jane, header: as("system:serviceaccount:theirs:robot"), method: "GET", path: theirs + "pods", code: 403, want: "impersonate"},
		{name: "as a group alone", by: jane, header: http.Header{"Impersonate-Group": {"system:masters"}}, method: "GET", path: "/api/v1/secrets", code: 400, want: "without impersonating a user name"},
		{name: "anonymous as another", by: anyone, header: as("admin"), method: "GET", path: "/version", code: 403, want: "impersonate"},
		// Nodes.
		{name: "node: a secret of none of its pods", by: n2, method: "GET", path: mine + "secrets/used", code: 403, want: "no relationship found between node 'n2' and this object"},
		{name: "node: all secrets", by: n2, method: "GET", path: mine + "secrets", code: 403, want: "No Object name found"},
		{name: "node: all secrets everywhere", by: n2, method: "GET", path: "/api/v1/secrets?watch=1", code: 403, want: "can only read namespaced object of this type"},
		{name: "node: another's pod", by: n2, method: "GET", path: mine + "pods/on-n1", code: 403, want: "no relationship found"},
		{name: "node: all pods", by: n2, method: "GET", path: "/api/v1/pods", code: 403, want: "can only list/watch pods with spec.nodeName field selector"},
		{name: "node: another's pods", by: n2, method: "GET", path: "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", code: 403, want: "can only list/watch pods"},
		{name: "node: another's pod deleted", by: n2, method: "DELETE", path: mine + "pods/on-n1", code: 403, want: `node "n2" can only delete pods with spec.nodeName set to itself`},
		{name: "node: another's pod evicted", by: n2, method: "POST", path: mine + "pods/on-n1/eviction", body: `{"apiVersion":"policy/v1","kind":"Eviction"}`, code: 403, want: "node n2 can only evict pods"},
		{name: "node: another's pod status", by: n2, method: "PATCH", path: mine + "pods/on-n1/status", header: patch, body: `{"status":{"phase":"Failed"}}`, code: 403, want: "can only update pod status for pods with spec.nodeName set to itself"},
		{name: "node: another node", by: n2, method: "PATCH", path: "/api/v1/nodes/n1", header: patch, body: `{"metadata":{"labels":{"a":"b"}}}`, code: 403, want: `node "n2" is not allowed to modify node "n1"`},
		{name: "node: a role for itself", by: n2, method: "PATCH", path: "/api/v1/nodes/n2", header: patch, body: `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`, code: 403, want: "is not allowed to modify labels"},
		{name: "node: its taints", by: n2, method: "PATCH", path: "/api/v1/nodes/n2", header: patch, body: `{"spec":{"taints":[]}}`, code: 403, want: "is not allowed to modify taints"},
		{name: "node: deleted", by: n2, method: "DELETE", path: "/api/v1/nodes/n2", code: 403, want: "cannot delete"},
		{name: "node: a pod", by: n2, method: "POST", path: mine + "pods", body: `{"metadata":{"name":"p"},"spec":{"nodeName":"n2","serviceAccountName":"robot","containers":[{"name":"c","image":"i"}]}}`, code: 403, want: "can only create mirror pods"},
		{name: "node: another's lease", by: n2, method: "PUT", path: "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", body: `{"metadata":{"name":"n1"}}`, code: 403, want: "can only access node lease with the same name"},
		{name: "node: a token of another's pod", by: n2, method: "POST", path: mine + "serviceaccounts/default/token", body: token("on-n1", s.podUID("mine", "on-n1")), code: 403, want: "node requested token bound to a pod scheduled on a different node"},
		{name: "node: a token of an account it does not run", by: n2, method: "POST", path: mine + "serviceaccounts/robot/token", body: token("on-n2", s.podUID("mine", "on-n2")), code: 403, want: "no relationship found"},
		{name: "node: an unbound token", by: n2, method: "POST", path: mine + "serviceaccounts/default/token", body: `{}`, code: 403, want: "node requested token not bound to a pod"},
		// Tokens and bodies.
		{name: "token of an account", by: rita, method: "POST", path: mine + "serviceaccounts/robot/token", body: `{}`, code: 403, want: `cannot create resource "serviceaccounts/token"`},
		{name: "what others may", by: jane, method: "POST", path: "/apis/authorization.k8s.io/v1/subjectaccessreviews", body: `{"spec":{"user":"x","resourceAttributes":{}}}`, code: 403, want: "cannot create"},
		{name: "whose token", by: jane, method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body: `{"spec":{"token":"x"}}`, code: 403, want: "cannot create"},
		{name: "too large a body", by: jane, method: "POST", path: mine + "configmaps", body: `{"metadata":{"name":"c"},"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`, code: 413, want: "limit"},
		{name: "deep nesting", by: jane, method: "POST", path: mine + "configmaps", body: strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), code: 400, want: "Status"},
	} {
		t.Run(a.name, func(t *testing.T) { a.run(t, s.Handler()) })
	}
	// And what they may, they may.
	for _, a := range []attempt{
		{by: jane, method: "GET", path: mine + "secrets/used", code: 200},
		{by: jane, method: "GET", path: mine + "secrets?fieldSelector=metadata.name%3Dused", code: 200},
		{by: whoIs("system:node:n1", user.NodesGroup), method: "GET", path: mine + "secrets/used", code: 200},
		{by: jane, method: "POST", path: rbac + "namespaces/mine/roles", body: role("get", "pods"), code: 201},
		{by: jane, method: "POST", path: rbac + "namespaces/mine/rolebindings", body: bind("Role", "r"), code: 201},
		{by: anyone, method: "GET", path: "/readyz", code: 200},
	} {
		a.run(t, s.Handler())
	}
}

func (s *secured) podUID(namespace, name string) string {
	s.t.Helper()
	pod, err := s.admin().CoreV1().Pods(namespace).Get(s.t.(*testing.T).Context(), name, metav1.GetOptions{})
	s.must(err)
	return string(pod.UID)
}

// TestCredentialsRefused: what is shown and does not hold is refused, whatever the request.
func TestCredentialsRefused(t *testing.T) {
	s := besieged(t)
	ctx := t.Context()
	issue := func(spec authenticationv1.TokenRequestSpec) string {
		t.Helper()
		out, err := s.admin().CoreV1().ServiceAccounts("mine").CreateToken(ctx, "robot", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		s.must(err)
		return out.Status.Token
	}
	good := issue(authenticationv1.TokenRequestSpec{})
	foreignKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	forge := func(cfg auth.TokenConfig) string {
		t.Helper()
		if cfg.Signer == nil {
			cfg.Signer = s.key
		}
		if cfg.Issuer == "" {
			cfg.Issuer = testIssuer
		}
		cfg.Reader = s.reader
		tokens, err := auth.NewTokens(cfg)
		s.must(err)
		out, err := tokens.Issue(ctx, "mine", "robot", &authenticationv1.TokenRequest{})
		s.must(err)
		return out.Status.Token
	}
	parts := strings.Split(good, ".")
	try := func(name string, code int, header http.Header) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			attempt{method: "POST", header: header, path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", body: `{}`, code: code}.run(t, s.Handler())
		})
	}
	bearing := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	try("good", 201, bearing(good))
	try("another audience", 401, bearing(issue(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})))
	try("expired", 401, bearing(forge(auth.TokenConfig{Now: func() time.Time { return time.Now().Add(-3 * time.Hour) }})))
	try("not yet", 401, bearing(forge(auth.TokenConfig{Now: func() time.Time { return time.Now().Add(time.Hour) }})))
	try("foreign key", 401, bearing(forge(auth.TokenConfig{Signer: foreignKey})))
	try("foreign issuer", 401, bearing(forge(auth.TokenConfig{Issuer: "https://elsewhere"})))
	try("no signature", 401, bearing(parts[0]+"."+parts[1]+"."))
	try("no algorithm", 401, bearing("eyJhbGciOiJub25lIn0."+parts[1]+"."))
	try("changed claims", 401, bearing(parts[0]+"."+strings.ToUpper(parts[1])+"."+parts[2]))
	try("rubbish", 401, bearing("rubbish"))
	try("rubbish on a public path", 401, bearing("x"))
	try("unknown bootstrap token", 401, bearing("abcdef.0123456789abcdef"))
	try("headers of a proxy", 403, http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}) // anonymous

	s.must(s.admin().CoreV1().ServiceAccounts("mine").Delete(ctx, "robot", metav1.DeleteOptions{}))
	eventually(t, "the token dies with its account", func() bool {
		req := httptest.NewRequest("GET", "/version", nil)
		req.Header.Set("Authorization", "Bearer "+good)
		return serve(s.Handler(), req).Code == 401
	})
	_, err := s.admin().CoreV1().ServiceAccounts("mine").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	s.must(err)
	try("the account's successor", 401, bearing(good))
}

// TestForeignCertificate: a certificate of another CA with the best of names is worth nothing.
func TestForeignCertificate(t *testing.T) {
	s := startSecured(t, memory.New())
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin", Organization: []string{user.SystemPrivilegedGroup}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	s.must(err)
	cert, err := x509.ParseCertificate(der)
	s.must(err)
	req := httptest.NewRequest("GET", "/version", nil)
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	if rec := serve(s.Handler(), req); rec.Code != 401 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	// The server's own certificate is no client's, and the front proxy's none of the cluster's.
	server, err := s.pki.ServerTLS().GetCertificate(nil)
	s.must(err)
	proxy, err := s.pki.FrontProxyClient("admin")(nil)
	s.must(err)
	for _, leaf := range []*x509.Certificate{server.Leaf, proxy.Leaf} {
		req.TLS.PeerCertificates[0] = leaf
		if rec := serve(s.Handler(), req); rec.Code != 401 {
			t.Errorf("%s: %d %s", leaf.Subject, rec.Code, rec.Body)
		}
	}
}

// TestEscalationAllowed: who may escalate or bind, does.
func TestEscalationAllowed(t *testing.T) {
	s := startSecured(t, memory.New())
	ctx := t.Context()
	s.grant("default", "grantor", "gus", ruleOf("create escalate", "roles"), ruleOf("create", "rolebindings"), ruleOf("bind", "clusterroles", "view"))
	gus := s.as("gus")
	var err error
	eventually(t, "gus may escalate", func() bool {
		_, err = gus.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"}, Rules: []rbacv1.PolicyRule{ruleOf("*", "*")}}, metav1.CreateOptions{})
		return err == nil
	})
	binding := func(role string) error {
		_, err := gus.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{GenerateName: "b-"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}}, metav1.CreateOptions{})
		return err
	}
	if err := binding("view"); err != nil {
		t.Error(err)
	}
	if err := binding("cluster-admin"); !apierrors.IsForbidden(err) {
		t.Errorf("bound cluster-admin: %v", err)
	}
	// A role that gathers others takes cluster-admin.
	_, err = s.admin().RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "roles"}, Rules: []rbacv1.PolicyRule{ruleOf("*", "clusterroles")}}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.admin().RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "writer"}, Rules: []rbacv1.PolicyRule{ruleOf("get create update patch", "clusterroles")}}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.admin().RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "wes"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "writer"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "wes"}}}, metav1.CreateOptions{})
	s.must(err)
	eventually(t, "wes is refused for the right reason", func() bool {
		_, err = s.as("wes").RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}}, metav1.CreateOptions{})
		return err != nil && strings.Contains(err.Error(), "must have cluster-admin privileges to use an aggregationRule")
	})
}

// TestSlowClient: a connection that sends its headers, or its body, a byte at a time is not served for ever.
func TestSlowClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := startListening(t, memory.New(), l)
	conn, err := net.Dial("tcp", l.Addr().String())
	s.must(err)
	defer func() { _ = conn.Close() }()
	_, err = s.admin().CoreV1().ServiceAccounts("kube-system").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "slow"}}, metav1.CreateOptions{})
	s.must(err)
	token, err := s.admin().CoreV1().ServiceAccounts("kube-system").CreateToken(t.Context(), "slow", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	_, err = fmt.Fprintf(conn, "POST /apis/authentication.k8s.io/v1/selfsubjectreviews?timeout=1s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", token.Status.Token)
	s.must(err)
	s.must(conn.SetReadDeadline(time.Now().Add(30 * time.Second)))
	answer := make([]byte, 12)
	if n, err := conn.Read(answer); err == nil && !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 4")) && !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 5")) {
		t.Errorf("answered %q", answer[:n])
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("a body that never comes is waited for beyond the request's timeout")
	}
}

func resourceRequest(u user.Info, verb string) authorizer.AttributesRecord {
	resource := "pods"
	if verb == "update" {
		resource = "configmaps"
	}
	return authorizer.AttributesRecord{User: u, Verb: verb, Namespace: "mine", Resource: resource, ResourceRequest: true}
}
