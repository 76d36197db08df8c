// Package serviceaccount sees to it that every namespace in use has the service account "default", without which no pod is admitted.
package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Name is the account's.
const Name = "default"

// Controller serves namespaces.
type Controller struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	loop       *loop.Loop
}

// New makes the controller.
func New(e env.Env) *Controller {
	core := e.Informers.Core().V1()
	c := &Controller{client: e.Client, namespaces: core.Namespaces().Lister(), accounts: core.ServiceAccounts().Lister()}
	c.loop = e.Loop(loop.Config{Name: "serviceaccount", Sync: c.sync, Workers: 2})
	loop.On(c.loop, core.Namespaces().Informer(), func(_, cur *corev1.Namespace) {
		if cur != nil {
			c.loop.Add(cur.Name)
		}
	})
	loop.On(c.loop, core.ServiceAccounts().Informer(), func(old, cur *corev1.ServiceAccount) {
		if cur == nil && old.Name == Name {
			c.loop.Add(old.Namespace)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, key string) error {
	ns, err := c.namespaces.Get(key)
	if apierrors.IsNotFound(err) || err == nil && (ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := c.accounts.ServiceAccounts(key).Get(Name); !apierrors.IsNotFound(err) {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: key}}
	_, err = c.client.CoreV1().ServiceAccounts(key).Create(ctx, account, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // made by another, or the namespace is going
	}
	return err
}
