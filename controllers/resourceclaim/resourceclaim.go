// Package resourceclaim makes the claims to devices that pods ask for by templates, and gives devices back when nobody uses them.
//
// Invariants: a pod has one generated claim for each it asks for, however often answers are lost; a reservation is taken away only from a
// pod that is known to be gone, replaced or done; a claim is deallocated only in the version in which it was seen to be unused.
package resourceclaim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/loop"
)

// What keys begin with, and indices find pods by.
const (
	podKey   = "pod:"
	claimKey = "claim:"

	byClaim    = "resourceclaim/claim"
	byTemplate = "resourceclaim/template"
)

// Controller serves pods with claims, and claims.
type Controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	indexer   cache.Indexer
	claims    resourcelisters.ResourceClaimLister
	templates resourcelisters.ResourceClaimTemplateLister
	events    record.EventRecorder
	loop      *loop.Loop
}

// New makes the controller.
func New(e env.Env) (*Controller, error) {
	informer := e.Informers.Core().V1().Pods()
	resources := e.Informers.Resource().V1()
	c := &Controller{
		client: e.Client, pods: informer.Lister(), indexer: informer.Informer().GetIndexer(), claims: resources.ResourceClaims().Lister(),
		templates: resources.ResourceClaimTemplates().Lister(), events: e.Recorder("resource_claim"),
	}
	err := informer.Informer().AddIndexers(cache.Indexers{byClaim: claimsOf, byTemplate: templatesOf})
	if err != nil {
		return nil, err
	}
	c.loop = e.Loop(loop.Config{Name: "resourceclaim", Sync: c.sync})
	loop.On(c.loop, informer.Informer(), c.podChanged)
	loop.On(c.loop, resources.ResourceClaims().Informer(), func(old, cur *resourcev1.ResourceClaim) {
		claim := cur
		if claim == nil {
			claim = old
		} else {
			c.loop.Add(claimKey + claim.Namespace + "/" + claim.Name)
		}
		c.wake(byClaim, claim.Namespace+"/"+claim.Name)
	})
	loop.On(c.loop, resources.ResourceClaimTemplates().Informer(), func(old, cur *resourcev1.ResourceClaimTemplate) {
		if old == nil {
			c.wake(byTemplate, cur.Namespace+"/"+cur.Name)
		}
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func claimsOf(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var keys []string
	for _, name := range claimNames(pod) {
		keys = append(keys, pod.Namespace+"/"+name)
	}
	return keys, nil
}

func templatesOf(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var keys []string
	for i := range pod.Spec.ResourceClaims {
		if name := pod.Spec.ResourceClaims[i].ResourceClaimTemplateName; name != nil {
			keys = append(keys, pod.Namespace+"/"+*name)
		}
	}
	return keys, nil
}

// wake looks at the pods that an index finds.
func (c *Controller) wake(index, value string) {
	keys, err := c.indexer.IndexKeys(index, value)
	if err != nil {
		return
	}
	for _, key := range keys {
		c.loop.Add(podKey + key)
	}
}

func (c *Controller) podChanged(old, cur *corev1.Pod) {
	pod := cur
	if pod == nil {
		pod = old
	}
	if len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return
	}
	if cur == nil || done(cur) {
		for _, name := range claimNames(pod) {
			c.loop.Add(claimKey + pod.Namespace + "/" + name)
		}
		return
	}
	if old == nil || old.UID != cur.UID || old.Spec.NodeName != cur.Spec.NodeName || len(old.Status.ResourceClaimStatuses) != len(cur.Status.ResourceClaimStatuses) {
		c.loop.Add(podKey + cur.Namespace + "/" + cur.Name)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, podKey); ok {
		return c.syncPod(ctx, name)
	}
	return c.syncClaim(ctx, strings.TrimPrefix(key, claimKey))
}

func (c *Controller) syncPod(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || done(pod)) {
		return nil
	}
	if err != nil {
		return err
	}
	var made []corev1.PodResourceClaimStatus
	for i := range pod.Spec.ResourceClaims {
		podClaim := &pod.Spec.ResourceClaims[i]
		claim, err := c.generate(ctx, pod, podClaim)
		if err != nil {
			c.events.Event(reference(pod), corev1.EventTypeWarning, "FailedResourceClaimCreation", fmt.Sprintf("PodResourceClaim %s: %v", podClaim.Name, err))
			if errors.Is(err, errNoTemplate) {
				return nil // its creation wakes the pod
			}
			return fmt.Errorf("claim %s: %w", podClaim.Name, err)
		}
		if claim != "" {
			made = append(made, corev1.PodResourceClaimStatus{Name: podClaim.Name, ResourceClaimName: &claim})
		}
	}
	if len(made) > 0 {
		if err := c.note(ctx, pod, made); err != nil || pod.Spec.NodeName == "" {
			return err
		}
		return nil // the pod's next version brings it back
	}
	if pod.Spec.NodeName == "" {
		return nil // the scheduler reserves
	}
	return c.reserve(ctx, pod)
}

var errNoTemplate = errors.New("no template")

// generate makes the claim for one of a pod that comes from a template, where there is none. It gives the name that is to be noted in the
// pod's status; empty where it is there already.
func (c *Controller) generate(ctx context.Context, pod *corev1.Pod, podClaim *corev1.PodResourceClaim) (string, error) {
	if podClaim.ResourceClaimTemplateName == nil {
		return "", nil
	}
	noted, known := generated(pod, podClaim)
	if known && noted == "" {
		return "", nil // none is needed
	}
	if known {
		if claim, err := c.claims.ResourceClaims(pod.Namespace).Get(noted); err == nil && metav1.IsControlledBy(claim, pod) {
			return "", nil
		}
	}
	template, err := c.templates.ResourceClaimTemplates(pod.Namespace).Get(*podClaim.ResourceClaimTemplateName)
	if apierrors.IsNotFound(err) {
		return "", noTemplateError{fmt.Sprintf("resource claim template %q: %v", *podClaim.ResourceClaimTemplateName, err)}
	}
	if err != nil {
		return "", err
	}
	for attempt := 0; ; attempt++ {
		want := claimFor(pod, podClaim.Name, template, attempt)
		_, err := c.client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, want, metav1.CreateOptions{})
		if err == nil {
			return want.Name, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("create ResourceClaim %s: %w", want.Name, err)
		}
		have, err := c.client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
		switch {
		case err == nil && metav1.IsControlledBy(have, pod) && have.DeletionTimestamp == nil:
			if noted == want.Name {
				return "", nil // the informer is behind
			}
			return want.Name, nil
		case err != nil && !apierrors.IsNotFound(err) || attempt == mostAttempts:
			return "", fmt.Errorf("create ResourceClaim %s: it is another's: %w", want.Name, err)
		}
	}
}

// mostAttempts is how many names may belong to others.
const mostAttempts = 10

// noTemplateError says in upstream's words that a template is missing.
type noTemplateError struct{ text string }

func (e noTemplateError) Error() string { return e.text }

func (noTemplateError) Is(target error) bool { return target == errNoTemplate }

// note writes the names of generated claims into the pod's status.
func (c *Controller) note(ctx context.Context, pod *corev1.Pod, made []corev1.PodResourceClaimStatus) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"resourceClaimStatuses": made}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update pod %s/%s ResourceClaimStatuses: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// reserve reserves allocated claims for a pod that was bound by somebody who did not.
func (c *Controller) reserve(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		podClaim := &pod.Spec.ResourceClaims[i]
		name := claimName(pod, podClaim)
		if name == "" {
			continue
		}
		claim, err := c.claims.ResourceClaims(pod.Namespace).Get(name)
		if apierrors.IsNotFound(err) {
			return nil // its creation wakes the pod
		}
		if err != nil {
			return err
		}
		isUsers := func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }
		if podClaim.ResourceClaimTemplateName != nil && !metav1.IsControlledBy(claim, pod) ||
			claim.Status.Allocation == nil || slices.ContainsFunc(claim.Status.ReservedFor, isUsers) {
			continue
		}
		users := append(slices.Clone(claim.Status.ReservedFor), resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := c.patch(ctx, claim, map[string]any{"status": map[string]any{"reservedFor": users}}, "status"); err != nil {
			return fmt.Errorf("reserve claim %s for pod: %w", claim.Name, err)
		}
	}
	return nil
}

// patch writes to a claim as it was seen.
func (c *Controller) patch(ctx context.Context, claim *resourcev1.ResourceClaim, change map[string]any, subresource ...string) (*resourcev1.ResourceClaim, error) {
	meta, ok := change["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		change["metadata"] = meta
	}
	meta["uid"], meta["resourceVersion"] = claim.UID, claim.ResourceVersion
	data, err := json.Marshal(change)
	if err != nil {
		return nil, err
	}
	return c.client.ResourceV1().ResourceClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, data, metav1.PatchOptions{}, subresource...)
}

func (c *Controller) syncClaim(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	claim, err := c.claims.ResourceClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed error
	p := decide(claim, func(pod string, uid types.UID) standing {
		s, err := c.standing(ctx, namespace, pod, uid)
		failed = errors.Join(failed, err)
		return s
	})
	if failed != nil {
		return failed
	}
	err = c.carryOut(ctx, claim, p)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) carryOut(ctx context.Context, claim *resourcev1.ResourceClaim, p plan) error {
	status := map[string]any{}
	if p.release {
		status["reservedFor"] = p.reserved
	}
	if p.deallocate {
		status["allocation"], status["devices"] = nil, nil
	}
	if len(status) > 0 {
		changed, err := c.patch(ctx, claim, map[string]any{"status": status}, "status")
		if err != nil {
			return err
		}
		claim = changed
	}
	if p.unprotect {
		rest := slices.DeleteFunc(slices.Clone(claim.Finalizers), func(f string) bool { return f == resourcev1.Finalizer })
		changed, err := c.patch(ctx, claim, map[string]any{"metadata": map[string]any{"finalizers": rest}})
		if err != nil {
			return err
		}
		claim = changed
	}
	if !p.remove {
		return nil
	}
	return c.client.ResourceV1().ResourceClaims(claim.Namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(claim.UID)}})
}

// standing says whether a pod still needs its claims. One that the informer lacks may be too new for it: then the server is asked.
func (c *Controller) standing(ctx context.Context, namespace, name string, uid types.UID) (standing, error) {
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && pod.UID != uid {
		pod, err = c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err) || err == nil && (pod.UID != uid || done(pod)):
		return over, nil
	case err != nil:
		return unknown, err
	}
	return needs, nil
}

func reference(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}
