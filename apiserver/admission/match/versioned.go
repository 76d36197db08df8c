package match

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	kadmission "k8s.io/apiserver/pkg/admission"

	"github.com/coracle-dev/coracle/apiserver/admission"
)

// Versioned is a request as a library of CEL expressions takes it, with its objects in the target's version.
func (m *Matcher) Versioned(r *admission.Request, target Target) (*kadmission.VersionedAttributes, error) {
	obj, err := m.convert(r.Object, r, target)
	if err != nil {
		return nil, err
	}
	old, err := m.convert(r.Old, r, target)
	if err != nil {
		return nil, err
	}
	return &kadmission.VersionedAttributes{
		Attributes: kadmission.NewAttributesRecord(r.Object, r.Old, r.Kind, r.Namespace, r.Name, r.Resource, r.Subresource,
			kadmission.Operation(r.Operation), r.Options, r.DryRun, r.User),
		VersionedKind:      target.Kind,
		VersionedObject:    kadmission.NewLazyObject(obj),
		VersionedOldObject: kadmission.NewLazyObject(old),
	}, nil
}

func (m *Matcher) convert(obj runtime.Object, r *admission.Request, target Target) (runtime.Object, error) {
	if obj == nil || r.Kind == target.Kind {
		return obj, nil
	}
	out, err := m.Versions.ConvertObject(obj, r.Kind, target.Kind)
	if err != nil {
		return nil, fmt.Errorf("failed to convert object version: %w", err)
	}
	return out, nil
}

// Replace takes what became of the request's object in the target's version back into it.
func (m *Matcher) Replace(r *admission.Request, target Target, changed runtime.Object) error {
	if r.Kind != target.Kind {
		var err error
		if changed, err = m.Versions.ConvertObject(changed, target.Kind, r.Kind); err != nil {
			return fmt.Errorf("failed to convert object version: %w", err)
		}
	}
	return r.SetObject(changed)
}
