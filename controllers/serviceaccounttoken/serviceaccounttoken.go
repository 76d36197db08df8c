// Package serviceaccounttoken fills Secrets of type kubernetes.io/service-account-token, and deletes them with their account.
package serviceaccounttoken

import (
	"bytes"
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Sign makes the token of an account for the Secret of that name.
type Sign func(sa *corev1.ServiceAccount, secret string) (string, error)

// Controller serves the Secrets.
type Controller struct {
	client   kubernetes.Interface
	sign     Sign
	rootCA   []byte
	informer cache.SharedIndexInformer
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
	loop     *loop.Loop
}

// byAccount finds the Secrets of an account.
const byAccount = "account"

// New makes the controller. rootCA, if there is one, goes into the Secrets beside the tokens.
func New(e env.Env, sign Sign, rootCA []byte) (*Controller, error) {
	// Secrets of other types are neither watched nor kept.
	secrets := coreinformers.New(informers.NewSharedInformerFactoryWithOptions(e.Client, 0), "", func(o *metav1.ListOptions) {
		o.FieldSelector = "type=" + string(corev1.SecretTypeServiceAccountToken)
	}).Secrets()
	accounts := e.Informers.Core().V1().ServiceAccounts()
	c := &Controller{client: e.Client, sign: sign, rootCA: rootCA, informer: secrets.Informer(), secrets: secrets.Lister(), accounts: accounts.Lister()}
	err := c.informer.AddIndexers(cache.Indexers{byAccount: func(obj any) ([]string, error) {
		s, ok := obj.(*corev1.Secret)
		if !ok {
			return nil, nil
		}
		return []string{s.Namespace + "/" + s.Annotations[corev1.ServiceAccountNameKey]}, nil
	}})
	if err != nil {
		return nil, err
	}
	c.loop = e.Loop(loop.Config{Name: "serviceaccounttoken", Sync: c.sync, Workers: 1})
	loop.On(c.loop, c.informer, func(_, cur *corev1.Secret) {
		if cur != nil {
			c.loop.AddObject(cur)
		}
	})
	loop.On(c.loop, accounts.Informer(), func(old, cur *corev1.ServiceAccount) {
		if old != nil && cur != nil {
			return
		}
		sa := cur
		if sa == nil {
			sa = old
		}
		keys, err := c.informer.GetIndexer().IndexKeys(byAccount, sa.Namespace+"/"+sa.Name)
		if err == nil {
			for _, key := range keys {
				c.loop.Add(key)
			}
		}
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		c.informer.RunWithContext(ctx)
		return nil
	})
	g.Go(func() error { return c.loop.Run(ctx) })
	return g.Wait()
}

// settle is how long a Secret may be ahead of its account, as where one manifest has both.
const settle = 10 * time.Second

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // no key of ours
	}
	secret, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeServiceAccountToken) {
		return nil
	}
	if err != nil {
		return err
	}
	account := secret.Annotations[corev1.ServiceAccountNameKey]
	if account == "" {
		return nil // refused by validation
	}
	sa, err := c.accounts.ServiceAccounts(namespace).Get(account)
	if apierrors.IsNotFound(err) || err == nil && !isFor(secret, sa) {
		// The informer may be behind: ask before something is deleted.
		sa, err = c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, account, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err) || err == nil && !isFor(secret, sa):
		return c.remove(ctx, key, secret)
	case err != nil:
		return err
	}
	updated, err := c.fill(secret, sa)
	if err != nil || updated == nil {
		return err
	}
	_, err = c.client.CoreV1().Secrets(namespace).Update(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// isFor tells whether a Secret is for an account: one that names no UID takes the account that there is.
func isFor(secret *corev1.Secret, sa *corev1.ServiceAccount) bool {
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	return uid == "" || uid == string(sa.UID)
}

// remove deletes a Secret whose account has gone. One that was never filled waits for its account a little.
func (c *Controller) remove(ctx context.Context, key string, secret *corev1.Secret) error {
	if wait := settle - time.Since(secret.CreationTimestamp.Time); wait > 0 && len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
		c.loop.AddAfter(key, wait)
		return nil
	}
	err := c.client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err // a conflict with another by the same name ends when that is seen
}

// fill is the Secret with what it lacks, or nil where it lacks nothing.
func (c *Controller) fill(secret *corev1.Secret, sa *corev1.ServiceAccount) (*corev1.Secret, error) {
	out := secret.DeepCopy()
	if out.Data == nil {
		out.Data = map[string][]byte{}
	}
	changed := false
	set := func(key string, value []byte) {
		if !bytes.Equal(out.Data[key], value) {
			out.Data[key], changed = value, true
		}
	}
	if len(c.rootCA) > 0 {
		set(corev1.ServiceAccountRootCAKey, c.rootCA)
	}
	set(corev1.ServiceAccountNamespaceKey, []byte(secret.Namespace))
	if len(out.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := c.sign(sa, secret.Name)
		if err != nil {
			return nil, err
		}
		set(corev1.ServiceAccountTokenKey, []byte(token))
	}
	if out.Annotations[corev1.ServiceAccountUIDKey] != string(sa.UID) {
		out.Annotations[corev1.ServiceAccountUIDKey], changed = string(sa.UID), true
	}
	if !changed {
		return nil, nil
	}
	return out, nil
}
