package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionreviewv1beta1 "k8s.io/api/admission/v1beta1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	hookerrors "k8s.io/apiserver/pkg/admission/plugin/webhook/errors"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

const (
	defaultTimeout  = 10         // seconds
	mutationPhase   = "mutation" // as audit annotations name the phases
	validationPhase = "validating"
)

// newClients keeps the connections to webhooks.
func newClients(service ServiceDialer) (*utilwebhook.ClientManager, error) {
	groups := []schema.GroupVersion{admissionreviewv1beta1.SchemeGroupVersion, admissionreviewv1.SchemeGroupVersion}
	m, err := utilwebhook.NewClientManager(groups, admissionreviewv1beta1.AddToScheme, admissionreviewv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	m.SetAuthenticationInfoResolver(dialers{service})
	m.SetServiceResolver(utilwebhook.NewDefaultServiceResolver())
	return &m, m.Validate()
}

// dialers says how webhooks are reached: by their URL, or through the node of one of their Service's endpoints.
type dialers struct{ service ServiceDialer }

// ClientConfigFor implements utilwebhook.AuthenticationInfoResolver.
func (d dialers) ClientConfigFor(string) (*rest.Config, error) { return &rest.Config{}, nil }

// ClientConfigForService implements utilwebhook.AuthenticationInfoResolver.
func (d dialers) ClientConfigForService(name, namespace string, port int) (*rest.Config, error) {
	if d.service == nil {
		return nil, errors.New("this server has no way to reach Services")
	}
	return &rest.Config{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.service(ctx, namespace, name, int32(port))
	}}, nil
}

// ask sends a review and gives the answer. An error is a refusal of the request, or a *utilwebhook.ErrCallingWebhook.
func (d *dispatcher) ask(ctx context.Context, r *admission.Request, i *invocation) (*admissionreviewv1.AdmissionResponse, error) {
	if r.DryRun && !i.dryRun {
		return nil, hookerrors.NewDryRunUnsupportedErr(i.name)
	}
	answer, err := d.review(ctx, r, i)
	if err != nil {
		return nil, &utilwebhook.ErrCallingWebhook{WebhookName: i.name, Reason: err}
	}
	for _, w := range answer.Warnings {
		if r.Warn != nil {
			r.Warn(w)
		}
	}
	for key, value := range answer.AuditAnnotations {
		i.annotate(r, i.name+"/"+key, value)
	}
	if !answer.Allowed {
		return nil, hookerrors.ToStatusErr(i.name, answer.Result)
	}
	return answer, nil
}

func (h *hook) annotate(r *admission.Request, key, value string) {
	if r.Annotate != nil {
		r.Annotate(key, value)
	}
}

// failed decides what becomes of a request whose webhook could not be asked: nil lets it go on.
func (i *invocation) failed(ctx context.Context, r *admission.Request, err error, number int) error {
	var calling *utilwebhook.ErrCallingWebhook
	if !errors.As(err, &calling) {
		return err
	}
	if i.failClosed {
		return apierrors.NewInternalError(err)
	}
	if !errors.Is(calling.Reason, context.Canceled) { // who hung up is no failure of the webhook's
		i.annotate(r, fmt.Sprintf("failed-open.%s.webhook.admission.k8s.io/round_%d_index_%d", i.phase, i.round(r), number), i.name)
	}
	if ctx.Err() != nil { // it was not the webhook's time that ran out, but the request's
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	return nil
}

// round counts the passes of mutating webhooks; there is one of validating ones.
func (h *hook) round(r *admission.Request) int {
	if r.Again && h.phase == mutationPhase {
		return 1
	}
	return 0
}

func (d *dispatcher) review(ctx context.Context, r *admission.Request, i *invocation) (*admissionreviewv1.AdmissionResponse, error) {
	at := slices.IndexFunc(i.versions, func(v string) bool { return slices.Contains(reviewed, v) })
	if at < 0 {
		return nil, fmt.Errorf("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)")
	}
	uid := uuid.NewUUID()
	body, err := json.Marshal(i.request(r, uid, i.versions[at]))
	if err != nil {
		return nil, fmt.Errorf("could not create admission objects: %w", err)
	}
	client, err := d.clients.HookClient(i.client)
	if err != nil {
		return nil, fmt.Errorf("could not get REST client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(i.timeout)*time.Second)
	defer cancel()
	call := client.Post().Body(body).SetHeader("Content-Type", runtime.ContentTypeJSON).SetHeader("Accept", runtime.ContentTypeJSON+", */*").
		Timeout(time.Duration(i.timeout) * time.Second) // which tells the webhook, too
	data, err := call.Do(ctx).Raw()
	if err != nil {
		return nil, fmt.Errorf("failed to call webhook: %w", err)
	}
	answer, err := readReview(data, uid, i.versions[at], i.phase == mutationPhase)
	if err != nil {
		return nil, fmt.Errorf("received invalid webhook response: %w", err)
	}
	return answer, nil
}

// readReview checks an answer as the version of the review demands.
func readReview(data []byte, uid types.UID, version string, mutating bool) (*admissionreviewv1.AdmissionResponse, error) {
	var review admissionreviewv1.AdmissionReview
	if err := json.Unmarshal(data, &review); err != nil {
		return nil, err
	}
	answer := review.Response
	if answer == nil {
		return nil, errors.New("webhook response was absent")
	}
	jsonPatch := admissionreviewv1.PatchTypeJSONPatch
	if version != admissionreviewv1.SchemeGroupVersion.Version { // v1beta1 checks nothing, and says no patch type
		if len(answer.Patch) > 0 {
			answer.PatchType = &jsonPatch
		}
		return answer, nil
	}
	if answer.UID != uid {
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, answer.UID)
	}
	want := admissionreviewv1.SchemeGroupVersion.WithKind("AdmissionReview")
	if got := review.GroupVersionKind(); got != want {
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want.String(), got.String())
	}
	if !mutating {
		if len(answer.Patch) > 0 {
			return nil, errors.New("validating webhook may not return response.patch")
		}
		if answer.PatchType != nil {
			return nil, errors.New("validating webhook may not return response.patchType")
		}
		return answer, nil
	}
	switch {
	case len(answer.Patch) > 0 && answer.PatchType == nil:
		return nil, errors.New("webhook returned response.patch but not response.patchType")
	case len(answer.Patch) > 0 && *answer.PatchType != jsonPatch:
		return nil, fmt.Errorf("webhook returned invalid response.patchType of %q", *answer.PatchType)
	case len(answer.Patch) == 0 && answer.PatchType != nil:
		return nil, errors.New("webhook returned response.patchType but not response.patch")
	}
	return answer, nil
}

// request is what a webhook is asked, in a version of AdmissionReview; the two versions look the same.
func (i *invocation) request(r *admission.Request, uid types.UID, version string) *admissionreviewv1.AdmissionReview {
	requestKind, requestResource := metav1.GroupVersionKind(r.Kind), metav1.GroupVersionResource(r.Resource)
	user := authenticationv1.UserInfo{}
	if r.User != nil {
		user = authenticationv1.UserInfo{Username: r.User.GetName(), UID: r.User.GetUID(), Groups: r.User.GetGroups()}
		for key, values := range r.User.GetExtra() {
			if user.Extra == nil {
				user.Extra = map[string]authenticationv1.ExtraValue{}
			}
			user.Extra[key] = authenticationv1.ExtraValue(values)
		}
	}
	dryRun := r.DryRun
	return &admissionreviewv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: admissionreviewv1.GroupName + "/" + version},
		Request: &admissionreviewv1.AdmissionRequest{
			UID: uid, Kind: metav1.GroupVersionKind(i.target.Kind), Resource: metav1.GroupVersionResource(i.target.Resource), SubResource: r.Subresource,
			RequestKind: &requestKind, RequestResource: &requestResource, RequestSubResource: r.Subresource,
			Name: r.Name, Namespace: r.Namespace, Operation: admissionreviewv1.Operation(r.Operation), UserInfo: user, DryRun: &dryRun,
			Object:    raw(i.attrs.VersionedObject.Object()),
			OldObject: raw(i.attrs.VersionedOldObject.Object()),
			Options:   runtime.RawExtension{Object: r.Options},
		},
	}
}

func raw(obj runtime.Object) runtime.RawExtension { return runtime.RawExtension{Object: obj} }
