package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionreviewv1 "k8s.io/api/admission/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
	safepatch "github.com/coracle-dev/coracle/internal/jsonpatch"
)

// mutator asks the mutating webhooks, one after another: each sees what those before it made of the object.
type mutator struct {
	*dispatcher
	hooks *match.Source[*hook]
}

// Name implements admission.Plugin.
func (m *mutator) Name() string { return "MutatingAdmissionWebhook" }

// Validate implements admission.Plugin.
func (m *mutator) Validate(context.Context, *admission.Request) error { return nil }

// Mutate implements admission.Plugin.
func (m *mutator) Mutate(ctx context.Context, r *admission.Request) error {
	hooks, err := m.hooks.All(ctx)
	if err != nil {
		return err
	}
	if len(hooks) == 0 || match.Exempt(r) {
		return nil
	}
	p := admission.Note[admission.Passes](r, m)
	p.Begin(r)
	for n, h := range hooks {
		if !p.Runs(r, h.uid) {
			continue
		}
		i, err := m.applies(ctx, r, h)
		if err != nil {
			return err
		}
		if i == nil {
			continue
		}
		changed, err := m.call(ctx, r, i, n)
		if err != nil {
			return err
		}
		p.Ran(r, h.uid, changed, h.reinvoke)
	}
	p.End(r)
	return nil
}

// call asks one webhook and applies its patch.
func (m *mutator) call(ctx context.Context, r *admission.Request, i *invocation, number int) (changed bool, err error) {
	answer, err := m.ask(ctx, r, i)
	if err == nil {
		changed, err = m.patch(r, i, answer)
	}
	i.annotate(r, fmt.Sprintf("mutation.webhook.admission.k8s.io/round_%d_index_%d", i.round(r), number), i.mutationNote(changed))
	if err != nil {
		return false, i.failed(ctx, r, err, number)
	}
	return changed, nil
}

func (i *invocation) mutationNote(changed bool) string {
	note, _ := json.Marshal(struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}{i.configuration, i.name, changed})
	return string(note)
}

func (m *mutator) patch(r *admission.Request, i *invocation, answer *admissionreviewv1.AdmissionResponse) (changed bool, err error) {
	if len(answer.Patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(answer.Patch)
	if err != nil { // the webhook's failure, as no answer is
		return false, &utilwebhook.ErrCallingWebhook{WebhookName: i.name, Reason: fmt.Errorf("received undecodable patch in webhook response: %w", err)}
	}
	if len(patch) == 0 {
		return false, nil
	}
	obj := i.attrs.VersionedObject.Object()
	if obj == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", i.name))
	}
	before, err := json.Marshal(obj)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	after, err := safepatch.Apply(patch, before)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if bytes.Equal(before, after) {
		return false, nil
	}
	patched, err := m.Versions.DecodeObject(after, i.target.Kind)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if apiequality.Semantic.DeepEqual(patched, obj) {
		return false, nil
	}
	if err := m.Replace(r, i.target, patched); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return true, nil
}
