package webhook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionreviewv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kadmission "k8s.io/apiserver/pkg/admission"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

func TestReadReview(t *testing.T) {
	for _, c := range []struct {
		name, version, response, kind string
		mutating                      bool
		want                          string // part of the error; empty takes the answer
	}{
		{name: "admits", response: `{"uid":"u","allowed":true}`},
		{name: "none", response: `null`, want: "webhook response was absent"},
		{name: "another's", response: `{"uid":"v"}`, want: `expected response.uid="u", got "v"`},
		{name: "another kind", kind: "Other", response: `{"uid":"u"}`, want: "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1, Kind=Other"},
		{name: "validating patch", response: `{"uid":"u","patch":"W10="}`, want: "validating webhook may not return response.patch"},
		{name: "validating patch type", response: `{"uid":"u","patchType":"JSONPatch"}`, want: "validating webhook may not return response.patchType"},
		{name: "patch", mutating: true, response: `{"uid":"u","patch":"W10=","patchType":"JSONPatch"}`},
		{name: "patch of no type", mutating: true, response: `{"uid":"u","patch":"W10="}`, want: "webhook returned response.patch but not response.patchType"},
		{name: "patch of another type", mutating: true, response: `{"uid":"u","patch":"W10=","patchType":"Merge"}`, want: `webhook returned invalid response.patchType of "Merge"`},
		{name: "type of no patch", mutating: true, response: `{"uid":"u","patchType":"JSONPatch"}`, want: "webhook returned response.patchType but not response.patch"},
		{name: "v1beta1 asks for little", version: "v1beta1", mutating: true, response: `{"patch":"W10="}`},
		{name: "no JSON", response: `{`, want: "unexpected end of JSON input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.version == "" {
				c.version = "v1"
			}
			if c.kind == "" {
				c.kind = "AdmissionReview"
			}
			data := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/%s","kind":%q,"response":%s}`, c.version, c.kind, c.response)
			if c.name == "no JSON" {
				data = c.response
			}
			answer, err := readReview([]byte(data), "u", c.version, c.mutating)
			if c.want == "" && (err != nil || len(answer.Patch) > 0 && *answer.PatchType != admissionreviewv1.PatchTypeJSONPatch) {
				t.Errorf("%+v, %v", answer, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// noted is a request whose annotations are kept.
func noted() (*admission.Request, map[string]string) {
	notes := map[string]string{}
	return &admission.Request{Annotate: func(key, value string) { notes[key] = value }}, notes
}

func TestFailurePolicy(t *testing.T) {
	down := &utilwebhook.ErrCallingWebhook{WebhookName: "w", Reason: errors.New("down")}
	hungUp := &utilwebhook.ErrCallingWebhook{WebhookName: "w", Reason: fmt.Errorf("failed to call webhook: %w", context.Canceled)}
	denied := apierrors.NewBadRequest("denied")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name, phase    string
		ctx            context.Context
		closed, again  bool
		err            error
		want, noteable string
	}{
		{name: "closed", ctx: t.Context(), closed: true, err: down, want: `Internal error occurred: failed calling webhook "w": down`},
		{name: "mutating", ctx: t.Context(), phase: mutationPhase, err: down, noteable: "failed-open.mutation.webhook.admission.k8s.io/round_0_index_3"},
		{name: "mutating again", ctx: t.Context(), phase: mutationPhase, again: true, err: down, noteable: "failed-open.mutation.webhook.admission.k8s.io/round_1_index_3"},
		{name: "validating has one round", ctx: t.Context(), phase: validationPhase, again: true, err: down, noteable: "failed-open.validating.webhook.admission.k8s.io/round_0_index_3"},
		{name: "denials are no failures", ctx: t.Context(), err: denied, want: "denied"},
		{name: "the client hung up", ctx: gone, err: hungUp, want: "request did not complete within requested timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, notes := noted()
			r.Again = c.again
			err := (&invocation{hook: &hook{name: "w", phase: c.phase, failClosed: c.closed}}).failed(c.ctx, r, c.err, 3)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
			if c.noteable != "" && notes[c.noteable] != "w" || c.noteable == "" && len(notes) > 0 {
				t.Errorf("noted %v", notes)
			}
		})
	}
}

func TestPatchesThatAreNone(t *testing.T) {
	i := &invocation{hook: &hook{name: "w"}, attrs: &kadmission.VersionedAttributes{VersionedObject: kadmission.NewLazyObject(nil)}}
	m := &mutator{}
	var calling *utilwebhook.ErrCallingWebhook
	_, err := m.patch(nil, i, &admissionreviewv1.AdmissionResponse{Patch: []byte(`{`)})
	if !errors.As(err, &calling) || !strings.Contains(err.Error(), `failed calling webhook "w": received undecodable patch in webhook response: `) {
		t.Errorf("undecodable: %v", err)
	}
	_, err = m.patch(nil, i, &admissionreviewv1.AdmissionResponse{Patch: []byte(`[{"op":"remove","path":"/x"}]`)})
	if err == nil || !strings.Contains(err.Error(), `admission webhook "w" attempted to modify the object, which is not supported for this operation`) {
		t.Errorf("a deletion: %v", err)
	}
	if changed, err := m.patch(nil, i, &admissionreviewv1.AdmissionResponse{Patch: []byte(`[]`)}); changed || err != nil {
		t.Errorf("empty: %t, %v", changed, err)
	}
}

// TestPanicIsAFailure: validating webhooks are asked in goroutines of their own, where a panic would end the server.
func TestPanicIsAFailure(t *testing.T) {
	v := &validator{dispatcher: &dispatcher{}} // without clients to ask with
	i := &invocation{hook: &hook{name: "w", versions: []string{"v1"}}}
	var calling *utilwebhook.ErrCallingWebhook
	if err := v.askSafely(t.Context(), &admission.Request{}, i); !errors.As(err, &calling) || !strings.Contains(err.Error(), "ValidatingAdmissionWebhook/w has panicked: ") {
		t.Errorf("got %v", err)
	}
}
