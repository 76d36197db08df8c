package conformance

import (
	"encoding/json"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

var accessTests = map[string]func(*env){
	"a service account lives":                 accountLife,
	"its token is mounted unless it says no":  accountMount,
	"its token is reviewed":                   accountToken,
	"subjects are reviewed":                   subjectReview,
	"rules are listed":                        rulesReview,
	"nobody gives what they do not have":      escalation,
	"the issuer can be discovered":            issuerDiscovery,
	"a token is good for what it is bound to": boundToken,
}

func accountLife(e *env) {
	accounts := e.kube.CoreV1().ServiceAccounts(e.ns)
	w, err := accounts.Watch(e.ctx, metav1.ListOptions{LabelSelector: "static=yes"})
	e.must(err)
	defer w.Stop()
	_, err = accounts.Create(e.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{"static": "yes"}}}, metav1.CreateOptions{})
	e.must(err)
	e.sees(w, watch.Added)
	a, err := accounts.Patch(e.ctx, "one", types.StrategicMergePatchType, []byte(`{"automountServiceAccountToken":false}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "automount", *a.AutomountServiceAccountToken, false)
	all, err := e.kube.CoreV1().ServiceAccounts("").List(e.ctx, metav1.ListOptions{LabelSelector: "static=yes"})
	e.must(err)
	equal(e, "accounts", len(all.Items), 1)
	a.AutomountServiceAccountToken, a.ImagePullSecrets = nil, []corev1.LocalObjectReference{{Name: "registry"}}
	a, err = accounts.Update(e.ctx, a, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "pull secret", a.ImagePullSecrets[0].Name, "registry")
	e.must(accounts.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "static=yes"}))
	e.sees(w, watch.Deleted)
}

func accountMount(e *env) {
	yes, no := true, false
	accounts := e.kube.CoreV1().ServiceAccounts(e.ns)
	for name, mount := range map[string]*bool{"unset": nil, "wants": &yes, "refuses": &no} {
		_, err := accounts.Create(e.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}, AutomountServiceAccountToken: mount}, metav1.CreateOptions{})
		e.must(err)
		for suffix, want := range map[string]*bool{"unset": nil, "wants": &yes, "refuses": &no} {
			p := pod(name + "-" + suffix)
			p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = name, want
			p, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
			e.must(err)
			expected := want
			if expected == nil {
				expected = mount
			}
			mounted := slices.ContainsFunc(p.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
				return m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount"
			})
			equal(e, p.Name, mounted, expected == nil || *expected)
		}
	}
}

func accountToken(e *env) {
	request, err := e.kube.CoreV1().ServiceAccounts(e.ns).CreateToken(e.ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	e.must(err)
	review, err := e.kube.AuthenticationV1().TokenReviews().Create(e.ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: request.Status.Token},
	}, metav1.CreateOptions{})
	e.must(err)
	equal(e, "authenticated", review.Status.Authenticated, true)
	equal(e, "user", review.Status.User.Username, "system:serviceaccount:"+e.ns+":default")
	equal(e, "error", review.Status.Error, "")
	review, err = e.kube.AuthenticationV1().TokenReviews().Create(e.ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: request.Status.Token + "x"},
	}, metav1.CreateOptions{})
	e.must(err)
	equal(e, "authenticated by a false token", review.Status.Authenticated, false)
}

// as is the client of a service account of the namespace.
func (e *env) as(account string) kubernetes.Interface {
	return kubernetes.NewForConfigOrDie(e.impersonating(account))
}

// impersonating leads to the server as a service account of the namespace.
func (e *env) impersonating(account string) *rest.Config {
	c := rest.CopyConfig(e.config)
	c.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + e.ns + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + e.ns, "system:authenticated"},
	}
	return c
}

// grantCluster lets an account of the namespace list objects of a resource anywhere.
func (e *env) grantCluster(account, group, resource string) {
	e.Helper()
	name := e.ns + "-" + account
	_, err := e.kube.RbacV1().ClusterRoles().Create(e.ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{group}, Resources: []string{resource}}}}, metav1.CreateOptions{})
	e.must(err)
	_, err = e.kube.RbacV1().ClusterRoleBindings().Create(e.ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: e.ns}}}, metav1.CreateOptions{})
	e.must(err)
}

// grant gives an account rules in the namespace.
func (e *env) grant(account string, rules ...rbacv1.PolicyRule) {
	e.Helper()
	_, err := e.kube.RbacV1().Roles(e.ns).Create(e.ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: account}, Rules: rules}, metav1.CreateOptions{})
	e.must(err)
	_, err = e.kube.RbacV1().RoleBindings(e.ns).Create(e.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: e.ns}},
	}, metav1.CreateOptions{})
	e.must(err)
}

func subjectReview(e *env) {
	e.grant("reader", rbacv1.PolicyRule{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}})
	user := e.as("reader")
	for verb, want := range map[string]bool{"list": true, "create": false} {
		attributes := &authorizationv1.ResourceAttributes{Namespace: e.ns, Verb: verb, Resource: "pods", Version: "v1"}
		e.eventually(func() error {
			self, err := user.AuthorizationV1().SelfSubjectAccessReviews().Create(e.ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
			}, metav1.CreateOptions{})
			e.must(err)
			return same(self.Status.Allowed, want)
		})
		other, err := e.kube.AuthorizationV1().SubjectAccessReviews().Create(e.ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: attributes, User: "system:serviceaccount:" + e.ns + ":reader"},
		}, metav1.CreateOptions{})
		e.must(err)
		equal(e, "allowed to "+verb, other.Status.Allowed, want)
		local, err := e.kube.AuthorizationV1().LocalSubjectAccessReviews(e.ns).Create(e.ctx, &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: e.ns},
			Spec:       authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: attributes, User: "system:serviceaccount:" + e.ns + ":reader"},
		}, metav1.CreateOptions{})
		e.must(err)
		equal(e, "allowed locally to "+verb, local.Status.Allowed, want)
	}
	_, err := user.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	_, err = user.CoreV1().Pods("default").List(e.ctx, metav1.ListOptions{})
	e.refused(err, `pods is forbidden: User "system:serviceaccount:`+e.ns+`:reader" cannot list resource "pods" in API group "" in the namespace "default"`)
}

func rulesReview(e *env) {
	e.grant("reader", rbacv1.PolicyRule{Verbs: []string{"watch"}, APIGroups: []string{"example.org"}, Resources: []string{"things"}})
	e.eventually(func() error {
		review, err := e.as("reader").AuthorizationV1().SelfSubjectRulesReviews().Create(e.ctx, &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: e.ns},
		}, metav1.CreateOptions{})
		e.must(err)
		return same(slices.ContainsFunc(review.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
			return slices.Equal(r.Verbs, []string{"watch"}) && slices.Equal(r.Resources, []string{"things"})
		}), true)
	})
}

func escalation(e *env) {
	e.grant("climber",
		rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles"}},
		rbacv1.PolicyRule{Verbs: []string{"create", "get"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"rolebindings"}})
	user := e.as("climber")
	_, err := user.RbacV1().RoleBindings(e.ns).Create(e.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "up"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "climber", Namespace: e.ns}},
	}, metav1.CreateOptions{})
	e.refused(err, "is attempting to grant RBAC permissions not currently held")
}

// issuerDiscovery checks a token as a stranger would: by what the issuer's documents say.
func issuerDiscovery(e *env) {
	body, err := e.raw("GET", "/.well-known/openid-configuration", "", "")
	e.must(err)
	var document struct {
		Issuer     string   `json:"issuer"`
		JWKS       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	e.must(json.Unmarshal([]byte(body), &document))
	keysURL, err := url.Parse(document.JWKS)
	e.must(err)
	keys, err := e.raw("GET", keysURL.Path, "", "")
	e.must(err)
	var set jose.JSONWebKeySet
	e.must(json.Unmarshal([]byte(keys), &set))
	request, err := e.kube.CoreV1().ServiceAccounts(e.ns).CreateToken(e.ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"somebody-else"}},
	}, metav1.CreateOptions{})
	e.must(err)
	var algorithms []jose.SignatureAlgorithm
	for _, a := range document.Algorithms {
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	token, err := jwt.ParseSigned(request.Status.Token, algorithms)
	e.must(err)
	var claims jwt.Claims
	e.must(token.Claims(set, &claims))
	e.must(claims.Validate(jwt.Expected{Issuer: document.Issuer, AnyAudience: jwt.Audience{"somebody-else"}, Time: time.Now(), Subject: "system:serviceaccount:" + e.ns + ":default"}))
}

func boundToken(e *env) {
	p, err := e.kube.CoreV1().Pods(e.ns).Create(e.ctx, pod("holder"), metav1.CreateOptions{})
	e.must(err)
	request, err := e.kube.CoreV1().ServiceAccounts(e.ns).CreateToken(e.ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}},
	}, metav1.CreateOptions{})
	e.must(err)
	review := func() (authenticationv1.TokenReviewStatus, error) {
		r, err := e.kube.AuthenticationV1().TokenReviews().Create(e.ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: request.Status.Token}}, metav1.CreateOptions{})
		if err != nil {
			return authenticationv1.TokenReviewStatus{}, err
		}
		return r.Status, nil
	}
	status, err := review()
	e.must(err)
	equal(e, "authenticated", status.Authenticated, true)
	equal(e, "pod", status.User.Extra["authentication.kubernetes.io/pod-name"][0], p.Name)
	e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, p.Name, metav1.DeleteOptions{}))
	e.eventually(func() error {
		status, err := review()
		if err != nil {
			return err
		}
		return same(status.Authenticated, false)
	})
}
