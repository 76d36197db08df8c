package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/internal/pki"
)

// secured is a server with everything that keeps people out.
type secured struct {
	*apiserver.Server
	t      testing.TB
	pki    *pki.PKI
	key    *ecdsa.PrivateKey
	tokens *auth.Tokens
	authz  *auth.Authorizer
	reader *apiserver.Reader
}

const testIssuer = "https://kubernetes.default.svc.cluster.local"

func startSecured(t testing.TB, st store.Store) *secured { return startListening(t, st, nil) }

// startListening serves on a listener as well.
func startListening(t testing.TB, st store.Store, l net.Listener) *secured {
	t.Helper()
	return startConfigured(t, st, func(cfg *apiserver.Config) { cfg.Listener = l })
}

// startConfigured changes the server's configuration before it starts.
func startConfigured(t testing.TB, st store.Store, change func(*apiserver.Config)) *secured {
	t.Helper()
	p, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := apiserver.NewCache(st)
	reader := apiserver.NewReader(c)
	tokens, err := auth.NewTokens(auth.TokenConfig{Issuer: testIssuer, Signer: key, Reader: reader})
	if err != nil {
		t.Fatal(err)
	}
	authz := auth.NewAuthorizer(reader)
	cfg := apiserver.Config{
		Store: st, Cache: c, Authenticator: auth.NewAuthenticator(p.CAPool(), tokens), Authorizer: authz,
		Admission: admission.New(admission.Config{Reader: reader, Quotas: apiserver.NewQuotaWriter(st), Authorizer: authz}), Tokens: tokens, Reviews: &auth.Reviewer{Authorizer: authz, Tokens: tokens},
	}
	change(&cfg)
	s := apiservertest.StartServer(t, cfg)
	return &secured{Server: s, t: t, pki: p, key: key, tokens: tokens, authz: authz, reader: reader}
}

// as is a client that is a user with a name.
func (s *secured) as(name string, groups ...string) kubernetes.Interface {
	s.t.Helper()
	u := &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	c, err := kubernetes.NewForConfig(s.LocalConfig(u))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *secured) admin() kubernetes.Interface { return s.as("admin", user.SystemPrivilegedGroup) }

func (s *secured) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits for what follows a write by a moment.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// grant makes a role of a namespace and gives it to a user.
func (s *secured) grant(namespace, name, to string, rules ...rbacv1.PolicyRule) {
	s.t.Helper()
	ctx := s.t.(*testing.T).Context()
	_, err := s.admin().RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
	s.must(err)
	s.bindRole(namespace, name, rbacv1.RoleRef{Kind: "Role", Name: name}, to)
}

func (s *secured) bindRole(namespace, name string, ref rbacv1.RoleRef, to string) {
	s.t.Helper()
	_, err := s.admin().RbacV1().RoleBindings(namespace).Create(s.t.(*testing.T).Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref, Subjects: []rbacv1.Subject{{Kind: "User", Name: to}},
	}, metav1.CreateOptions{})
	s.must(err)
}

func ruleOf(verbs, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: []string{"*"}, Resources: strings.Fields(resources), ResourceNames: names}
}

func TestDefaultRoles(t *testing.T) {
	st := memory.New()
	s := startSecured(t, st)
	ctx := t.Context()
	// Ready means that components' roles are there.
	for _, name := range []string{user.KubeScheduler, user.KubeControllerManager, user.KubeProxy} {
		if _, err := s.as(name).CoreV1().Services("").List(ctx, metav1.ListOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.as("somebody").CoreV1().Services("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("somebody: %v", err)
	}
	d := auth.NewDefaults()
	roles := s.admin().RbacV1().ClusterRoles()
	for _, want := range d.ClusterRoles {
		have, err := roles.Get(ctx, want.Name, metav1.GetOptions{})
		if err != nil || !reflect.DeepEqual(have.Rules, want.Rules) || have.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" {
			t.Errorf("%s: %v, %v", want.Name, have, err)
		}
	}
	// What is missing is added at the next start, and what was added stays, but not where the annotation forbids it.
	change := func(name string, f func(*rbacv1.ClusterRole)) {
		r, err := roles.Get(ctx, name, metav1.GetOptions{})
		s.must(err)
		f(r)
		_, err = roles.Update(ctx, r, metav1.UpdateOptions{})
		s.must(err)
	}
	extra := ruleOf("get", "things")
	change("system:kube-scheduler", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{extra} })
	change("system:kube-dns", func(r *rbacv1.ClusterRole) {
		r.Rules, r.Annotations = nil, map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
	})
	s.must(s.admin().RbacV1().ClusterRoleBindings().Delete(ctx, "system:kube-scheduler", metav1.DeleteOptions{}))
	again := startSecured(t, st)
	r, err := again.admin().RbacV1().ClusterRoles().Get(ctx, "system:kube-scheduler", metav1.GetOptions{})
	again.must(err)
	if len(r.Rules) < 10 || !slices.ContainsFunc(r.Rules, func(have rbacv1.PolicyRule) bool { return reflect.DeepEqual(have, extra) }) {
		t.Errorf("reconciled to %v", r.Rules)
	}
	r, err = again.admin().RbacV1().ClusterRoles().Get(ctx, "system:kube-dns", metav1.GetOptions{})
	again.must(err)
	if len(r.Rules) != 0 {
		t.Errorf("a protected role was given %v", r.Rules)
	}
	if _, err := again.as(user.KubeScheduler).CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

func TestDanglingBinding(t *testing.T) {
	s := startSecured(t, memory.New())
	s.bindRole("default", "b", rbacv1.RoleRef{Kind: "ClusterRole", Name: "x"}, "eve")
	s.bindRole("default", "c", rbacv1.RoleRef{Kind: "Role", Name: "y"}, "eve")
	const want = `secrets is forbidden: User "eve" cannot list resource "secrets" in API group "" in the namespace "default": RBAC: [clusterrole.rbac.authorization.k8s.io "x" not found, role.rbac.authorization.k8s.io "y" not found]`
	var last error
	eventually(t, want, func() bool {
		_, last = s.as("eve").CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
		return last != nil && last.Error() == want
	})
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		st := memory.New()
		ctx, cancel := context.WithCancel(b.Context())
		c := apiserver.NewCache(st)
		s, err := apiserver.New(ctx, apiserver.Config{Store: st, Cache: c, Authorizer: auth.NewAuthorizer(apiserver.NewReader(c))})
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan error, 1)
		b.StartTimer()
		go func() { done <- s.Run(ctx) }()
		if err := s.WaitReady(ctx); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cancel()
		<-done
		b.StartTimer()
	}
}

// TestReviewsOfAnAccount: what a review says of an account is what the account gets, by impersonation and by its token.
func TestReviewsOfAnAccount(t *testing.T) {
	s := startSecured(t, memory.New())
	ctx, admin := t.Context(), s.admin()
	_, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	s.must(err)
	_, err = admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:aggregate-to-view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "robot"}}}, metav1.CreateOptions{})
	s.must(err)
	const name = "system:serviceaccount:default:robot"
	token, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
	s.must(err)
	if !review.Status.Authenticated || review.Status.Error != "" || review.Status.User.Username != name {
		t.Errorf("%+v", review.Status)
	}
	config := s.LocalConfig(apiservertest.Admin)
	config.Impersonate = restclient.ImpersonationConfig{UserName: name}
	robot, err := kubernetes.NewForConfig(config)
	s.must(err)
	for resource, want := range map[string]bool{"pods": true, "secrets": false} {
		spec := authorizationv1.SubjectAccessReviewSpec{User: name, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: resource, Namespace: "default"}}
		var sar *authorizationv1.SubjectAccessReview
		eventually(t, "the binding holds", func() bool {
			sar, err = admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
			s.must(err)
			return sar.Status.Allowed == want
		})
		if want && sar.Status.Reason != `RBAC: allowed by RoleBinding "b/default" of ClusterRole "system:aggregate-to-view" to ServiceAccount "robot/default"` {
			t.Error(sar.Status.Reason)
		}
		local, err := admin.AuthorizationV1().LocalSubjectAccessReviews("default").Create(ctx, &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: spec}, metav1.CreateOptions{})
		if err != nil || local.Status.Allowed != want {
			t.Errorf("local: %+v, %v", local, err)
		}
		self, err := robot.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: spec.ResourceAttributes}}, metav1.CreateOptions{})
		if err != nil || self.Status.Allowed != want {
			t.Errorf("self: %+v, %v", self, err)
		}
		if err := robot.CoreV1().RESTClient().Get().Namespace("default").Resource(resource).Do(ctx).Error(); (err == nil) != want {
			t.Errorf("%s: %v", resource, err)
		}
	}
	rules, err := robot.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	s.must(err)
	if rules.Status.Incomplete || len(rules.Status.ResourceRules) < 10 || len(rules.Status.NonResourceRules) == 0 {
		t.Errorf("%+v", rules.Status)
	}
}

// TestAuthenticationConfigMap is what aggregated API servers read at their start.
func TestAuthenticationConfigMap(t *testing.T) {
	st := memory.New()
	want := auth.DefaultFrontProxy(nil).AuthenticationConfig([]byte("client"), []byte("proxy"))
	for _, have := range []map[string]string{want, {"client-ca-file": "renewed"}} {
		s := apiservertest.StartServer(t, apiserver.Config{Store: st, Authentication: have})
		client, err := kubernetes.NewForConfig(s.LocalConfig(apiservertest.Admin))
		if err != nil {
			t.Fatal(err)
		}
		cm, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
		if err != nil || cm.Data["client-ca-file"] != have["client-ca-file"] || cm.Data["requestheader-allowed-names"] != `["front-proxy-client"]` || len(cm.Data) != len(want) {
			t.Errorf("%v, %v", cm.Data, err)
		}
	}
}
