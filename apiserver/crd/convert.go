package crd

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// converter changes the version of objects, one or many. It may change those that it is given.
type converter func(all []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error)

// rename is the conversion None: the versions differ by name alone.
func rename(all []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
	for _, u := range all {
		u.SetAPIVersion(apiVersion)
	}
	return all, nil
}

// asks tells whether conversions of a definition are a webhook's.
func asks(crd *apiextensionsv1.CustomResourceDefinition) bool {
	c := crd.Spec.Conversion
	return c != nil && c.Strategy == apiextensionsv1.WebhookConverter && c.Webhook != nil && c.Webhook.ClientConfig != nil
}

func converterOf(crd *apiextensionsv1.CustomResourceDefinition, hooks *webhooks) converter {
	if !asks(crd) {
		return rename
	}
	return hooks.converter(crd.Spec.Conversion.Webhook)
}

// fromStorage gives a stored object in a served version, as its schemas have it. The stored one is not changed.
func (d *definition) fromStorage(v *versionSchema, stored *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	all, err := d.fromStorageAll(v, []runtime.Object{stored})
	if err != nil {
		return nil, err
	}
	return all[0].(*unstructured.Unstructured), nil
}

// fromStorageAll does the same for many.
func (d *definition) fromStorageAll(v *versionSchema, stored []runtime.Object) ([]runtime.Object, error) {
	out := make([]runtime.Object, len(stored))
	var others []*unstructured.Unstructured
	for i, obj := range stored {
		u := obj.(*unstructured.Unstructured).DeepCopy()
		from := d.versions[u.GroupVersionKind().Version]
		if from == nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("request to convert CR from an invalid group/version: %s", u.GetAPIVersion()))
		}
		if _, err := from.coerce(u, shaping{stored: true}); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		from.fill(u)
		if from == v {
			out[i] = u
		} else {
			others = append(others, u)
		}
	}
	others, err := d.to(v, others)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if out[i] == nil {
			out[i], others = others[0], others[1:]
		}
	}
	return out, nil
}

// toStorage gives what is stored of an object in a served version, which is not changed.
func (d *definition) toStorage(u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	v := d.versions[d.storage]
	if u.GetAPIVersion() == v.gvk.GroupVersion().String() {
		return u, nil
	}
	out, err := d.to(v, []*unstructured.Unstructured{u.DeepCopy()})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// to converts objects of other versions.
func (d *definition) to(v *versionSchema, all []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if len(all) == 0 {
		return nil, nil
	}
	out, err := d.convert(all, v.gvk.GroupVersion().String())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	for _, u := range out {
		if _, err := v.coerce(u, shaping{}); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	return out, nil
}
