package apiserver

import (
	"context"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	typed "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"

	"github.com/coracle-dev/coracle/apiserver/fairness"
)

// flowKeeper is who writes the objects that every cluster has, as managed fields have it.
const flowKeeper = "api-priority-and-fairness-config-producer-v1"

// keep creates what is missing of the objects of flow control, and brings those up to date that are the server's: the
// mandatory ones always, others as their annotation says or as long as nobody has changed them.
func (f *flowControl) keep(ctx context.Context, client typed.FlowcontrolV1Interface) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	levels := keeping[*flowcontrolv1.PriorityLevelConfiguration]{
		gr: priorityLevels, client: client.PriorityLevelConfigurations(), want: fairness.Levels(),
		mandatory: len(bootstrap.MandatoryPriorityLevelConfigurations), revise: reviseLevel,
	}
	schemas := keeping[*flowcontrolv1.FlowSchema]{
		gr: flowSchemas, client: client.FlowSchemas(), want: fairness.Schemas(),
		mandatory: len(bootstrap.MandatoryFlowSchemas), revise: reviseSchema,
		made: func(ctx context.Context, s *flowcontrolv1.FlowSchema) error {
			return tellDangling(ctx, client, s, fairness.Levels())
		},
	}
	if err := levels.keep(ctx, f); err != nil { // first: schemas refer to them
		return err
	}
	if err := schemas.keep(ctx, f); err != nil {
		return err
	}
	if err := schemas.drop(ctx, f); err != nil {
		return err
	}
	if err := levels.drop(ctx, f); err != nil {
		return err
	}
	if !isClosed(f.kept) {
		close(f.kept)
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	return nil
}

// writer is what a typed client does.
type writer[T any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// keeping are the objects of one resource that every cluster has.
type keeping[T interface {
	runtime.Object
	metav1.Object
}] struct {
	gr     schema.GroupResource
	client writer[T]
	want   []T
	// mandatory is how many of want, from the first, are as they are whatever the annotation says.
	mandatory int
	// revise returns a copy of have that is specified as want, and whether it differs.
	revise func(have, want T) (T, bool)
	// made is called with an object that was missing.
	made func(context.Context, T) error
}

func (k *keeping[T]) keep(ctx context.Context, f *flowControl) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(keepers)
	for i, want := range k.want {
		g.Go(func() error { return k.keepOne(ctx, f, want, i < k.mandatory) })
	}
	return g.Wait()
}

func (k *keeping[T]) keepOne(ctx context.Context, f *flowControl, want T, mandatory bool) error {
	obj, err := f.reader.Get(ctx, k.gr, "", want.GetName())
	if apierrors.IsNotFound(err) {
		return k.create(ctx, want.DeepCopyObject().(T))
	}
	if err != nil {
		return err
	}
	have := obj.(T)
	auto := mandatory || autoUpdated(have)
	revised, differs := k.revise(have, want)
	if !auto && differs {
		revised, differs = have.DeepCopyObject().(T), false
	}
	if said, err := strconv.ParseBool(have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); err != nil || said != auto {
		annotations := map[string]string{}
		for key, value := range have.GetAnnotations() {
			annotations[key] = value
		}
		annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(auto)
		revised.SetAnnotations(annotations)
		differs = true
	}
	if !differs {
		return nil
	}
	_, err = k.client.Update(ctx, revised, metav1.UpdateOptions{FieldManager: flowKeeper})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // what changed it wakes us again
	}
	return err
}

func (k *keeping[T]) create(ctx context.Context, want T) error {
	made, err := k.client.Create(ctx, want, metav1.CreateOptions{FieldManager: flowKeeper})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil && k.made != nil {
		err = k.made(ctx, made)
	}
	return err
}

// drop deletes what earlier releases kept.
func (k *keeping[T]) drop(ctx context.Context, f *flowControl) error {
	objs, err := listed[T](ctx, f, k.gr)
	if err != nil {
		return err
	}
	for _, o := range objs {
		auto, _ := strconv.ParseBool(o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
		if !auto || slices.ContainsFunc(k.want, func(w T) bool { return w.GetName() == o.GetName() }) {
			continue
		}
		uid, revision := o.GetUID(), o.GetResourceVersion()
		err := k.client.Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &revision}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// autoUpdated tells whether an object follows the server's releases: as its annotation says, else as long as its
// specification is the first.
func autoUpdated(o metav1.Object) bool {
	if auto, err := strconv.ParseBool(o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); err == nil {
		return auto
	}
	return o.GetGeneration() == 1
}

func reviseSchema(have, want *flowcontrolv1.FlowSchema) (*flowcontrolv1.FlowSchema, bool) {
	out := have.DeepCopy()
	want.Spec.DeepCopyInto(&out.Spec)
	return out, !apiequality.Semantic.DeepEqual(have.Spec, out.Spec)
}

// reviseLevel leaves the shares of the exempt level to the administrator.
func reviseLevel(have, want *flowcontrolv1.PriorityLevelConfiguration) (*flowcontrolv1.PriorityLevelConfiguration, bool) {
	out := have.DeepCopy()
	want.Spec.DeepCopyInto(&out.Spec)
	if have.Spec.Exempt != nil && out.Spec.Exempt != nil {
		have.Spec.Exempt.DeepCopyInto(out.Spec.Exempt)
	}
	return out, !apiequality.Semantic.DeepEqual(have.Spec, out.Spec)
}
