package bootstrap

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
	"github.com/coracle-dev/coracle/internal/run"
)

// Signer keeps the signatures in cluster-info.
type Signer struct {
	client    kubernetes.Interface
	informers []cache.SharedIndexInformer
	maps      corelisters.ConfigMapNamespaceLister
	secrets   corelisters.SecretNamespaceLister
	clock     clock.Clock
	loop      *loop.Loop
}

// NewSigner makes the controller.
func NewSigner(e env.Env) *Signer {
	secrets := tokens(e)
	maps := client.Informers(e.Client, informers.WithNamespace(metav1.NamespacePublic), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "metadata.name=" + clusterInfo
	})).Core().V1().ConfigMaps()
	c := &Signer{
		client: e.Client, informers: []cache.SharedIndexInformer{secrets.Informer(), maps.Informer()},
		maps: maps.Lister().ConfigMaps(metav1.NamespacePublic), secrets: secrets.Lister().Secrets(metav1.NamespaceSystem), clock: e.Clock,
	}
	c.loop = e.Loop(loop.Config{Name: "bootstrapsigner", Sync: c.sync, Workers: 1})
	loop.On(c.loop, maps.Informer(), func(_, cur *corev1.ConfigMap) {
		if cur != nil {
			c.loop.Add(clusterInfo)
		}
	})
	loop.On(c.loop, secrets.Informer(), func(_, _ *corev1.Secret) { c.loop.Add(clusterInfo) })
	return c
}

// Run works until ctx ends.
func (c *Signer) Run(ctx context.Context) error {
	return run.All(ctx, watch(c.informers...), c.loop.Run)
}

func (c *Signer) sync(ctx context.Context, _ string) error {
	info, err := c.maps.Get(clusterInfo)
	if apierrors.IsNotFound(err) || err == nil && info.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	secrets, err := c.secrets.List(labels.Everything())
	if err != nil {
		return err
	}
	changes, next := decide(info.Data, secrets, c.clock.Now())
	if next > 0 {
		c.loop.AddAfter(clusterInfo, next)
	}
	if len(changes) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": info.UID, "resourceVersion": info.ResourceVersion}, "data": changes})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().ConfigMaps(info.Namespace).Patch(ctx, info.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// decide says which signatures to write, and which to take away (nil); next is when the first of the tokens expires, zero if none does. It
// is pure.
func decide(data map[string]string, secrets []*corev1.Secret, now time.Time) (changes map[string]*string, next time.Duration) {
	text, wanted := data[kubeconfigKey], map[string]string{}
	for _, secret := range secrets {
		id, key, ok := signer(secret, now)
		if !ok || text == "" {
			continue
		}
		wanted[signaturePrefix+id] = sign(text, id, key)
		if left, ends := untilExpiry(secret, now); ends && (next == 0 || left < next) {
			next = left
		}
	}
	changes = map[string]*string{}
	for key, signature := range wanted {
		if data[key] != signature {
			changes[key] = &signature
		}
	}
	for key := range data {
		if _, keep := wanted[key]; strings.HasPrefix(key, signaturePrefix) && !keep {
			changes[key] = nil
		}
	}
	return changes, next
}
