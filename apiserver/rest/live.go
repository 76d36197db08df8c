package rest

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Live answers for a kind of which nothing is stored: its objects are found out when somebody asks. Those it returns are the
// request's own. Errors are API status errors.
type Live interface {
	// Get gives one object; namespace is empty for kinds without.
	Get(ctx context.Context, namespace, name string) (runtime.Object, error)
	// List gives the objects of a namespace; empty is all.
	List(ctx context.Context, namespace string) ([]runtime.Object, error)
}

// live answers with what is found of one object now.
func (c *call) live() error {
	live := c.Live[c.r.gr]
	if live == nil {
		return apierrors.NewNotFound(c.r.gr, c.info.Name)
	}
	obj, err := live.Get(c.ctx(), c.info.Namespace, c.info.Name)
	if err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(c.r.GVK)
	switch {
	case c.out.table():
		return c.respondTable(http.StatusOK, []runtime.Object{obj}, metav1.ListMeta{})
	case c.out.transform == asMetadataList:
		return notAcceptableList(obj, true)
	case c.out.meta():
		p := partial(obj, c.out.metaVersion)
		return c.respondFresh(http.StatusOK, p.GroupVersionKind(), p)
	}
	return c.respondFresh(http.StatusOK, c.r.GVK, obj)
}

// liveList answers with all objects that the selectors select.
func (c *call) liveList() error {
	o, err := c.listOptions()
	if err != nil {
		return err
	}
	if o.Watch {
		return MethodNotAllowed()
	}
	var objs []runtime.Object
	if live := c.Live[c.r.gr]; live != nil {
		found, err := live.List(c.ctx(), c.info.Namespace)
		if err != nil {
			return err
		}
		for _, obj := range found {
			m := accessor(obj)
			name := labels.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
			if o.LabelSelector.Matches(labels.Set(m.GetLabels())) && o.FieldSelector.Matches(name) {
				obj.GetObjectKind().SetGroupVersionKind(c.r.GVK)
				objs = append(objs, obj)
			}
		}
	}
	switch {
	case c.out.table():
		return c.respondTable(http.StatusOK, objs, metav1.ListMeta{})
	case c.out.transform == asMetadata:
		return notAcceptableList(c.r.NewList(), false)
	case c.out.meta():
		list := &metav1.PartialObjectMetadataList{Items: []metav1.PartialObjectMetadata{}}
		for _, obj := range objs {
			list.Items = append(list.Items, *partial(obj, c.out.metaVersion))
		}
		return c.respondFresh(http.StatusOK, c.tableKind().GroupVersion().WithKind("PartialObjectMetadataList"), list)
	}
	list := c.r.NewList()
	if len(objs) > 0 {
		if err := meta.SetList(list, objs); err != nil {
			return err
		}
	}
	return c.respondFresh(http.StatusOK, c.r.list, list)
}
