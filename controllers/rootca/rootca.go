// Package rootca publishes the cluster's CA as ConfigMap kube-root-ca.crt in every namespace, from where pods mount it.
//
// Invariant: no more than these ConfigMaps are watched or kept.
package rootca

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

const (
	// Name is the ConfigMap's.
	Name = "kube-root-ca.crt"
	// Key is where in it the PEM bundle stands.
	Key = "ca.crt"

	descriptionAnnotation = "kubernetes.io/description"
	description           = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controller serves namespaces.
type Controller struct {
	client     kubernetes.Interface
	ca         string
	namespaces corelisters.NamespaceLister
	maps       corelisters.ConfigMapLister
	own        informers.SharedInformerFactory
	loop       *loop.Loop
}

// New makes the controller. The bundle is PEM.
func New(e env.Env, bundle []byte) *Controller {
	own := client.Informers(e.Client, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
	}))
	namespaces := e.Informers.Core().V1().Namespaces()
	c := &Controller{client: e.Client, ca: string(bundle), namespaces: namespaces.Lister(), maps: own.Core().V1().ConfigMaps().Lister(), own: own}
	c.loop = e.Loop(loop.Config{Name: "rootca", Sync: c.sync, Workers: 2})
	loop.On(c.loop, namespaces.Informer(), func(_, cur *corev1.Namespace) {
		if cur != nil {
			c.loop.Add(cur.Name)
		}
	})
	loop.On(c.loop, own.Core().V1().ConfigMaps().Informer(), func(old, cur *corev1.ConfigMap) {
		if cur == nil {
			cur = old
		}
		c.loop.Add(cur.Namespace)
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	watch := func(ctx context.Context) error {
		c.own.StartWithContext(ctx)
		<-ctx.Done()
		c.own.Shutdown()
		return nil
	}
	return run.All(ctx, watch, c.loop.Run)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	ns, err := c.namespaces.Get(key)
	if apierrors.IsNotFound(err) || err == nil && (ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := c.maps.ConfigMaps(key).Get(Name)
	if apierrors.IsNotFound(err) {
		return c.create(ctx, key)
	}
	if err != nil {
		return err
	}
	want := map[string]string{Key: c.ca}
	if maps.Equal(have.Data, want) && have.Annotations[descriptionAnnotation] != "" {
		return nil
	}
	fresh := have.DeepCopy()
	fresh.Data = want
	metav1.SetMetaDataAnnotation(&fresh.ObjectMeta, descriptionAnnotation, description)
	_, err = c.client.CoreV1().ConfigMaps(key).Update(ctx, fresh, metav1.UpdateOptions{})
	return err
}

func (c *Controller) create(ctx context.Context, namespace string) error {
	fresh := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace, Annotations: map[string]string{descriptionAnnotation: description}},
		Data:       map[string]string{Key: c.ca},
	}
	_, err := c.client.CoreV1().ConfigMaps(namespace).Create(ctx, fresh, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // the namespace is going
	}
	return err // one made by another is looked at again
}
