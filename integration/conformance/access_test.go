package conformance

import (
	"slices"

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
	"a service account lives":                accountLife,
	"its token is mounted unless it says no": accountMount,
	"its token is reviewed":                  accountToken,
	"subjects are reviewed":                  subjectReview,
	"rules are listed":                       rulesReview,
	"nobody gives what they do not have":     escalation,
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
	c := rest.CopyConfig(e.config)
	c.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + e.ns + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + e.ns, "system:authenticated"},
	}
	return kubernetes.NewForConfigOrDie(c)
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
