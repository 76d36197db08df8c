package apiserver

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/reconciliation"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/rest"
)

// policyHolder is an authorizer that decides by roles and bindings, as auth.Authorizer. The server feeds its policy from the
// watch cache, keeps the default roles, and checks that nobody grants more than they have.
type policyHolder interface{ Policy() *auth.Policy }

// access is what the server does for roles and bindings; nil where the authorizer does not decide by them.
type access struct {
	server *Server
	policy *auth.Policy
	reader *Reader
	// unsynced counts the resources whose initial state the policy lacks; synced is closed at zero.
	unsynced atomic.Int32
	synced   chan struct{}
	// seen is the newest revision of each resource that the policy has.
	seen map[string]*atomic.Int64
	// kept: the default roles are looked at once, at the start, as upstream does; what an administrator takes away later stays
	// away until the next.
	kept bool
}

func newAccess(s *Server) *access {
	holder, ok := s.cfg.Authorizer.(policyHolder)
	if !ok {
		return nil
	}
	a := &access{server: s, policy: holder.Policy(), reader: NewReader(s.cache), synced: make(chan struct{})}
	a.seen = map[string]*atomic.Int64{}
	for _, gr := range a.escalation().Resources() {
		a.seen[gr.String()] = &atomic.Int64{}
	}
	a.unsynced.Store(int32(len(a.seen)))
	return a
}

func (a *access) resourceSynced() {
	if a.unsynced.Add(-1) == 0 {
		close(a.synced)
	}
}

func (a *access) escalation() *auth.Escalation {
	return &auth.Escalation{Authorizer: a.server.cfg.Authorizer, Policy: a.policy, Reader: a.reader}
}

// hooks are the configured ones, and those that check writes of roles and bindings.
func (a *access) hooks(configured map[schema.GroupResource]rest.Hook) map[schema.GroupResource]rest.Hook {
	if a == nil {
		return configured
	}
	all := maps.Clone(configured)
	if all == nil {
		all = map[schema.GroupResource]rest.Hook{}
	}
	check := a.escalation()
	done := func(bool) {}
	for _, gr := range check.Resources() {
		all[gr] = rest.Hook{
			BeginCreate: func(ctx context.Context, obj runtime.Object, _ bool) (func(bool), error) {
				return done, check.Check(ctx, obj, nil)
			},
			BeginUpdate: func(ctx context.Context, obj, old runtime.Object, _ bool) (func(bool), error) {
				return done, check.Check(ctx, obj, old)
			},
		}
	}
	return all
}

// run feeds the policy until ctx ends.
func (a *access) run(ctx context.Context) error {
	if a == nil {
		<-ctx.Done()
		return nil
	}
	if err := a.server.cache.WaitReady(ctx); err != nil {
		return nil // ctx has ended
	}
	g, ctx := errgroup.WithContext(ctx)
	for resource := range a.seen {
		g.Go(func() error { return a.follow(ctx, resource) })
	}
	return g.Wait()
}

// follow keeps the policy as new as the cache in one resource. Where the watch falls behind it starts over.
func (a *access) follow(ctx context.Context, resource string) error {
	known := map[string]runtime.Object{}
	var stale map[string]runtime.Object // what the initial state does not show again has gone
	synced := sync.OnceFunc(a.resourceSynced)
	return a.server.follow(ctx, resource, func() { stale = maps.Clone(known) }, func(events []cache.Event) {
		for _, e := range events {
			switch {
			case e.InitialEnd:
				for key, obj := range stale {
					a.policy.Delete(obj)
					delete(known, key)
				}
				stale = nil
				synced()
			case e.Object == nil: // a bookmark
			case e.Type == watch.Deleted:
				a.policy.Delete(e.Object.Object)
				delete(known, e.Object.Key)
			default:
				a.policy.Set(e.Object.Object)
				known[e.Object.Key] = e.Object.Object
				delete(stale, e.Object.Key)
			}
			a.seen[resource].Store(max(a.seen[resource].Load(), e.Revision))
		}
	})
}

// keepers is how many default objects are written at the same time: the store joins concurrent writes.
const keepers = 16

// keep creates the default roles and bindings, and adds what is missing from those that are there, but for those whose
// annotation says that they are not to be updated.
func (a *access) keep(ctx context.Context, client kubernetes.Interface) error {
	if a == nil || a.kept {
		return nil
	}
	select {
	case <-a.synced:
	case <-ctx.Done():
		return ctx.Err()
	}
	d := auth.NewDefaults()
	g, writes := errgroup.WithContext(ctx)
	g.SetLimit(keepers)
	for i := range d.ClusterRoles {
		g.Go(func() error { return a.keepClusterRole(writes, client, &d.ClusterRoles[i]) })
	}
	for i := range d.Roles {
		g.Go(func() error { return a.keepRole(writes, client, &d.Roles[i]) })
	}
	for i := range d.ClusterRoleBindings {
		g.Go(func() error { return a.keepClusterRoleBinding(writes, client, &d.ClusterRoleBindings[i]) })
	}
	for i := range d.RoleBindings {
		g.Go(func() error { return a.keepRoleBinding(writes, client, &d.RoleBindings[i]) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	a.kept = true
	a.arrived(ctx)
	return nil
}

// arrivalLimit bounds the wait for what was written a moment ago.
const arrivalLimit = 2 * time.Second

// arrived waits until the policy has seen what the store has now, so that components do not start into refusals.
func (a *access) arrived(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, arrivalLimit)
	defer cancel()
	for resource, seen := range a.seen {
		l, err := a.server.cache.List(ctx, resource, cache.ListOptions{Consistent: true})
		if err != nil {
			return // ctx has ended
		}
		for _, o := range l.Objects {
			for seen.Load() < o.Revision && ctx.Err() == nil {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
}

// find reads from the cache; nil is a miss.
func (a *access) find(ctx context.Context, resource, namespace, name string) runtime.Object {
	obj, err := a.reader.Get(ctx, rbacv1.Resource(resource), namespace, name)
	if err != nil {
		return nil
	}
	return obj
}

// sameMeta tells whether an object has the labels and annotations that it should have.
func sameMeta(have, want metav1.Object) bool {
	return apiequality.Semantic.DeepEqual(have.GetLabels(), want.GetLabels()) &&
		apiequality.Semantic.DeepEqual(have.GetAnnotations(), want.GetAnnotations())
}

func (a *access) keepClusterRole(ctx context.Context, client kubernetes.Interface, want *rbacv1.ClusterRole) error {
	have, ok := a.find(ctx, "clusterroles", "", want.Name).(*rbacv1.ClusterRole)
	if ok && sameMeta(have, want) && apiequality.Semantic.DeepEqual(have.AggregationRule, want.AggregationRule) &&
		(want.AggregationRule != nil || apiequality.Semantic.DeepEqual(have.Rules, want.Rules)) {
		return nil
	}
	opts := reconciliation.ReconcileRoleOptions{
		Role: reconciliation.ClusterRoleRuleOwner{ClusterRole: want}, Confirm: true,
		Client: reconciliation.ClusterRoleModifier{Client: client.RbacV1().ClusterRoles()},
	}
	_, err := opts.Run()
	return err
}

func (a *access) keepRole(ctx context.Context, client kubernetes.Interface, want *rbacv1.Role) error {
	have, ok := a.find(ctx, "roles", want.Namespace, want.Name).(*rbacv1.Role)
	if ok && sameMeta(have, want) && apiequality.Semantic.DeepEqual(have.Rules, want.Rules) {
		return nil
	}
	opts := reconciliation.ReconcileRoleOptions{
		Role: reconciliation.RoleRuleOwner{Role: want}, Confirm: true,
		Client: reconciliation.RoleModifier{Client: client.RbacV1(), NamespaceClient: client.CoreV1().Namespaces()},
	}
	_, err := opts.Run()
	return err
}

func (a *access) keepClusterRoleBinding(ctx context.Context, client kubernetes.Interface, want *rbacv1.ClusterRoleBinding) error {
	have, ok := a.find(ctx, "clusterrolebindings", "", want.Name).(*rbacv1.ClusterRoleBinding)
	if ok && sameMeta(have, want) && have.RoleRef == want.RoleRef && apiequality.Semantic.DeepEqual(have.Subjects, want.Subjects) {
		return nil
	}
	opts := reconciliation.ReconcileRoleBindingOptions{
		RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: want}, Confirm: true,
		Client: reconciliation.ClusterRoleBindingClientAdapter{Client: client.RbacV1().ClusterRoleBindings()},
	}
	_, err := opts.Run()
	return err
}

func (a *access) keepRoleBinding(ctx context.Context, client kubernetes.Interface, want *rbacv1.RoleBinding) error {
	have, ok := a.find(ctx, "rolebindings", want.Namespace, want.Name).(*rbacv1.RoleBinding)
	if ok && sameMeta(have, want) && have.RoleRef == want.RoleRef && apiequality.Semantic.DeepEqual(have.Subjects, want.Subjects) {
		return nil
	}
	opts := reconciliation.ReconcileRoleBindingOptions{
		RoleBinding: reconciliation.RoleBindingAdapter{RoleBinding: want}, Confirm: true,
		Client: reconciliation.RoleBindingClientAdapter{Client: client.RbacV1(), NamespaceClient: client.CoreV1().Namespaces()},
	}
	_, err := opts.Run()
	return err
}
