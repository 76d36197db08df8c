package crd

import (
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// shaping says how strictly an object is brought into its schema's shape.
type shaping struct {
	// track lists the paths of what is dropped.
	track bool
	// stored objects may be older than the rules: metadata that does not fit is dropped instead of refused.
	stored bool
}

// coerce brings u, an object of this version, into the shape of the schema: it drops unknown fields and null values
// that the schema does not allow, and reads the metadata, also of embedded objects, as Go types would.
func (v *versionSchema) coerce(u *unstructured.Unstructured, how shaping) (unknown []string, err error) {
	shape, err := v.shape()
	if err != nil {
		return nil, err
	}
	gvk := u.GroupVersionKind()
	m, found, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: how.stored, ReturnUnknownFieldPaths: how.track,
	})
	if err != nil {
		return nil, err
	}
	if !v.preserve {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, shape, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.track})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, shape)
	}
	ferr, more := objectmeta.CoerceWithOptions(nil, u.Object, shape, false, objectmeta.CoerceOptions{
		DropInvalidFields: how.stored, ReturnUnknownFieldPaths: how.track,
	})
	if ferr != nil {
		return nil, ferr
	}
	unknown = append(unknown, more...)
	if how.stored && m != nil && m.Generation == 0 {
		m.Generation = 1
	}
	u.SetGroupVersionKind(gvk)
	if found {
		if err := objectmeta.SetObjectMeta(u.Object, m); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// fill gives the fields their defaults that the object leaves out. A schema that does not compile has none; it is
// reported where the object is shaped.
func (v *versionSchema) fill(u *unstructured.Unstructured) {
	if shape, err := v.shape(); err == nil {
		defaulting.Default(u.Object, shape)
	}
}
