package kinds

import (
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// rbacKinds are who may do what. That nobody grants more than they hold is not decided here but by auth.Escalation,
// which knows the user.
func rbacKinds() []Kind {
	clusterRole := rbacKind("ClusterRole", "clusterroles")
	clusterRole.New = func() runtime.Object { return &rbacv1.ClusterRole{} }
	clusterRole.NewList = func() runtime.Object { return &rbacv1.ClusterRoleList{} }
	clusterRole.Validate = check(validateClusterRole)
	clusterRole.ValidateUpdate = checkUpdate(validateClusterRoleUpdate)

	role := rbacKind("Role", "roles")
	role.Namespaced = true
	role.New = func() runtime.Object { return &rbacv1.Role{} }
	role.NewList = func() runtime.Object { return &rbacv1.RoleList{} }
	role.Validate = check(validateRole)
	role.ValidateUpdate = checkUpdate(validateRoleUpdate)

	return []Kind{clusterRoleBindings(), clusterRole, roleBindings(), role}
}

func clusterRoleBindings() Kind {
	k := rbacKind("ClusterRoleBinding", "clusterrolebindings")
	k.New = func() runtime.Object { return &rbacv1.ClusterRoleBinding{} }
	k.NewList = func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} }
	k.Default = on(func(b *rbacv1.ClusterRoleBinding) { defaultRoleBinding(&b.RoleRef, b.Subjects) })
	k.Validate = check(validateClusterRoleBinding)
	k.ValidateUpdate = checkUpdate(validateClusterRoleBindingUpdate)
	k.Columns = bindingColumns("clusterRoleBinding", rbacv1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"])
	k.Cells = cells(func(b *rbacv1.ClusterRoleBinding, now metav1.Time) []any {
		return bindingCells(&b.ObjectMeta, &b.RoleRef, b.Subjects, now)
	})
	return k
}

func roleBindings() Kind {
	k := rbacKind("RoleBinding", "rolebindings")
	k.Namespaced = true
	k.New = func() runtime.Object { return &rbacv1.RoleBinding{} }
	k.NewList = func() runtime.Object { return &rbacv1.RoleBindingList{} }
	k.Default = on(func(b *rbacv1.RoleBinding) { defaultRoleBinding(&b.RoleRef, b.Subjects) })
	k.Validate = check(validateRoleBinding)
	k.ValidateUpdate = checkUpdate(validateRoleBindingUpdate)
	k.Columns = bindingColumns("roleBinding", rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"])
	k.Cells = cells(func(b *rbacv1.RoleBinding, now metav1.Time) []any {
		return bindingCells(&b.ObjectMeta, &b.RoleRef, b.Subjects, now)
	})
	return k
}

// roleCells show when a role was made, as upstream does of kinds that it has no columns for.
func roleCells(obj runtime.Object, _ metav1.Time) []any {
	m := obj.(metav1.Object)
	return []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
}

// rbacKind is what the four have in common, and the columns of roles.
func rbacKind(kind, resource string) Kind {
	return Kind{
		GVK:      rbacv1.SchemeGroupVersion.WithKind(kind),
		Resource: resource,
		Singular: strings.ToLower(kind),
		Prefix:   resource,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Created At", "date", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]),
		},
		Cells: roleCells,

		NoGeneration:        true,
		CreateOnUpdate:      true,
		UnconditionalUpdate: true,
	}
}

// defaultRoleBinding completes references that leave their API group out.
func defaultRoleBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	setDefault(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			setDefault(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

func bindingColumns(kind, role string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(),
		column("Role", "string", role),
		ageColumn(),
		wideColumn("Users", "string", "Users in the "+kind),
		wideColumn("Groups", "string", "Groups in the "+kind),
		wideColumn("ServiceAccounts", "string", "ServiceAccounts in the "+kind),
	}
}

func bindingCells(m *metav1.ObjectMeta, ref *rbacv1.RoleRef, subjects []rbacv1.Subject, now metav1.Time) []any {
	var users, groups, accounts []string
	for i := range subjects {
		switch s := &subjects[i]; s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{
		m.Name, ref.Kind + "/" + ref.Name, age(now, m.CreationTimestamp),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}
