package webhook

import (
	"context"
	"fmt"
	"sync"

	utilwebhook "k8s.io/apiserver/pkg/util/webhook"

	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/admission/match"
)

// validator asks the validating webhooks, all at once.
type validator struct {
	*dispatcher
	hooks *match.Source[*hook]
}

// Name implements admission.Plugin.
func (v *validator) Name() string { return "ValidatingAdmissionWebhook" }

// Mutate implements admission.Plugin.
func (v *validator) Mutate(context.Context, *admission.Request) error { return nil }

// Validate implements admission.Plugin. Of several refusals the first webhook's is given.
func (v *validator) Validate(ctx context.Context, r *admission.Request) error {
	hooks, err := v.hooks.All(ctx)
	if err != nil {
		return err
	}
	if len(hooks) == 0 || match.Exempt(r) {
		return nil
	}
	var asked []*invocation
	for _, h := range hooks {
		i, err := v.applies(ctx, r, h)
		if err != nil {
			return err
		}
		if i != nil {
			asked = append(asked, i)
		}
	}
	errs := make([]error, len(asked))
	var wg sync.WaitGroup
	for n, i := range asked {
		wg.Go(func() {
			if err := v.askSafely(ctx, r, i); err != nil {
				errs[n] = i.failed(ctx, r, err, n)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// askSafely makes a panic a failure to ask the webhook: in a goroutine of its own it would end the server.
func (v *validator) askSafely(ctx context.Context, r *admission.Request, i *invocation) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &utilwebhook.ErrCallingWebhook{WebhookName: i.name, Reason: fmt.Errorf("ValidatingAdmissionWebhook/%s has panicked: %v", i.name, p)}
		}
	}()
	_, err = v.ask(ctx, r, i)
	return err
}
