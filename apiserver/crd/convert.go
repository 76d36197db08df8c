package crd

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// converter changes an object's version. The result shares nothing with the object that others may change.
type converter func(u *unstructured.Unstructured, apiVersion string) (*unstructured.Unstructured, error)

// rename is the conversion None: the versions differ by name alone.
func rename(u *unstructured.Unstructured, apiVersion string) (*unstructured.Unstructured, error) {
	u = u.DeepCopy()
	u.SetAPIVersion(apiVersion)
	return u, nil
}

func converterOf(crd *apiextensionsv1.CustomResourceDefinition, hooks *webhooks) converter {
	c := crd.Spec.Conversion
	if c == nil || c.Strategy != apiextensionsv1.WebhookConverter || c.Webhook == nil || c.Webhook.ClientConfig == nil {
		return rename
	}
	return hooks.converter(crd.Name, c.Webhook)
}

// fromStorage gives a stored object in a served version, as its schemas have it. The stored one is not changed.
func (d *definition) fromStorage(v *versionSchema, stored *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	u := stored.DeepCopy()
	from := d.versions[u.GroupVersionKind().Version]
	if from == nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("request to convert CR from an invalid group/version: %s", u.GetAPIVersion()))
	}
	if _, err := from.coerce(u, shaping{stored: true}); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	from.fill(u)
	if from == v {
		return u, nil
	}
	return d.to(v, u)
}

// toStorage gives what is stored of an object in a served version.
func (d *definition) toStorage(u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	v := d.versions[d.storage]
	if u.GetAPIVersion() == v.gvk.GroupVersion().String() {
		return u, nil
	}
	return d.to(v, u)
}

func (d *definition) to(v *versionSchema, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out, err := d.convert(u, v.gvk.GroupVersion().String())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if _, err := v.coerce(out, shaping{}); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return out, nil
}
