package bootstrap

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// Cleaner deletes tokens that have expired.
type Cleaner struct {
	client   kubernetes.Interface
	informer cache.SharedIndexInformer
	secrets  corelisters.SecretNamespaceLister
	clock    clock.Clock
	loop     *loop.Loop
}

// NewCleaner makes the controller.
func NewCleaner(e env.Env) *Cleaner {
	secrets := tokens(e)
	c := &Cleaner{client: e.Client, informer: secrets.Informer(), secrets: secrets.Lister().Secrets(metav1.NamespaceSystem), clock: e.Clock}
	c.loop = e.Loop(loop.Config{Name: "tokencleaner", Sync: c.sync, Workers: 1})
	loop.On(c.loop, c.informer, func(_, cur *corev1.Secret) {
		if cur != nil {
			c.loop.Add(cur.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error { return run.All(ctx, watch(c.informer), c.loop.Run) }

func watch(informers ...cache.SharedIndexInformer) func(context.Context) error {
	return func(ctx context.Context) error {
		var all []func(context.Context) error
		for _, informer := range informers {
			all = append(all, func(ctx context.Context) error {
				informer.RunWithContext(ctx)
				return nil
			})
		}
		return run.All(ctx, all...)
	}
}

func (c *Cleaner) sync(ctx context.Context, name string) error {
	secret, err := c.secrets.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeBootstrapToken) {
		return nil
	}
	if err != nil {
		return err
	}
	left, ends := untilExpiry(secret, c.clock.Now())
	switch {
	case !ends:
		return nil
	case left > 0:
		c.loop.AddAfter(name, left)
		return nil
	}
	err = c.client.CoreV1().Secrets(secret.Namespace).Delete(ctx, name, metav1.DeleteOptions{
		// The version too: the token may have been given more time just now.
		Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
