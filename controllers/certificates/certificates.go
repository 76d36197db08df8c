// Package certificates answers requests for certificates: it approves those by which nodes' agents become known, signs what is approved, and
// removes requests that nobody needs any more.
//
// Invariants: only approved requests to the cluster's own signers are signed, and only as those allow; what a certificate says comes of the
// request, never of the object around it but for usages and duration, which were approved with it.
package certificates

import (
	"context"
	"fmt"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"

	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/csr"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Controller is one of the three: approver, signer or cleaner.
type Controller struct {
	client   kubernetes.Interface
	requests certificateslisters.CertificateSigningRequestLister
	clock    clock.Clock
	loop     *loop.Loop
	handle   func(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error
}

func newController(e env.Env, name string) *Controller {
	requests := e.Informers.Certificates().V1().CertificateSigningRequests()
	c := &Controller{client: e.Client, requests: requests.Lister(), clock: e.Clock}
	c.loop = e.Loop(loop.Config{Name: name, Sync: c.sync, Workers: 2})
	loop.On(c.loop, requests.Informer(), func(_, cur *certificatesv1.CertificateSigningRequest) {
		if cur != nil {
			c.loop.Add(cur.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, name string) error {
	r, err := c.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && r.DeletionTimestamp == nil {
		err = c.handle(ctx, r)
	}
	if apierrors.IsNotFound(err) {
		return nil // gone meanwhile
	}
	return err
}

// has reports whether a condition is true.
func has(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return condition(r, t) != nil
}

func condition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if c := &r.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// How long the approver waits before it asks again about a request that was not allowed: as long as the request is old, within these.
const (
	minAskAgain = time.Second
	maxAskAgain = 15 * time.Minute
)

// right is what a node needs for its request to be approved without a person.
type right struct {
	subresource, message string
	// node, if not empty, must not be alive: nobody else becomes a node that is, whatever token he holds.
	node string
}

// NewApprover approves requests for nodes' client certificates, where who asks may create
// certificatesigningrequests/selfnodeclient (for itself) or .../nodeclient (for any node that is not Ready).
func NewApprover(e env.Env) *Controller {
	c := newController(e, "csrapproving")
	c.handle = c.approve
	return c
}

func (c *Controller) approve(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	if len(r.Status.Certificate) > 0 || has(r, certificatesv1.CertificateApproved) || has(r, certificatesv1.CertificateDenied) {
		return nil
	}
	rights := rightsFor(r)
	for _, need := range rights {
		allowed, err := c.allowed(ctx, r, need.subresource)
		if err != nil {
			return err
		}
		if !allowed {
			continue
		}
		alive, err := c.alive(ctx, need.node)
		if err != nil {
			return err
		}
		if !alive {
			return c.setApproved(ctx, r, need.message)
		}
	}
	if len(rights) > 0 {
		age := c.clock.Now().Sub(r.CreationTimestamp.Time)
		c.loop.AddAfter(r.Name, min(max(age, minAskAgain), maxAskAgain))
	}
	return nil
}

// rightsFor are the rights of which one approves the request; none where that is for people.
func rightsFor(r *certificatesv1.CertificateSigningRequest) []right {
	if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	req, err := csr.Parse(r.Spec.Request)
	if err != nil || csr.NodeClient(req, r.Spec.Usages) != nil {
		return nil
	}
	any := right{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.", csr.NodeName(req)}
	if r.Spec.Username != req.Subject.CommonName {
		return []right{any}
	}
	return []right{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.", ""}, any}
}

// alive tells whether there is a node of that name and it is Ready.
func (c *Controller) alive(ctx context.Context, node string) (bool, error) {
	if node == "" {
		return false, nil
	}
	n, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}), nil
}

func (c *Controller) allowed(ctx context.Context, r *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range r.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access of %s: %w", r.Spec.Username, err)
	}
	return review.Status.Allowed, nil
}

func (c *Controller) setApproved(ctx context.Context, r *certificatesv1.CertificateSigningRequest, message string) error {
	approved := r.DeepCopy()
	approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	_, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, r.Name, approved, metav1.UpdateOptions{})
	return err
}
