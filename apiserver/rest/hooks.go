package rest

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
)

// Hook lets a resource reserve something outside its object around a write, as Services do with their
// addresses and ports. It may change obj. The returned finish is called once, with whether the write happened.
// dryRun asks for a reservation that finish(false) always gives back.
type Hook struct {
	BeginCreate func(ctx context.Context, obj runtime.Object, dryRun bool) (finish func(written bool), err error)
	BeginUpdate func(ctx context.Context, obj, old runtime.Object, dryRun bool) (finish func(written bool), err error)
	AfterDelete func(ctx context.Context, obj runtime.Object)
}
