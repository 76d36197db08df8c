package rest

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// query reads parameters of a URL and keeps the first error.
type query struct {
	values url.Values
	err    error
}

func (q *query) get(name string) string { return q.values.Get(name) }

func (q *query) int64(name string) *int64 {
	v := q.values[name]
	if len(v) == 0 || v[0] == "" {
		return nil
	}
	n, err := strconv.ParseInt(v[0], 10, 64)
	if err != nil && q.err == nil {
		q.err = apierrors.NewBadRequest(err.Error())
	}
	return &n
}

// bool follows upstream's reading: any value but "false" and "0" is true, also an empty one.
func (q *query) bool(name string) *bool {
	v := q.values[name]
	if len(v) == 0 {
		return nil
	}
	b := v[0] != "0" && !strings.EqualFold(v[0], "false")
	return &b
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// listOptions reads and validates what list, watch and deletecollection take.
func (c *call) listOptions() (*metainternal.ListOptions, error) {
	q := query{values: c.query()}
	o := &metainternal.ListOptions{
		ResourceVersion:      q.get("resourceVersion"),
		ResourceVersionMatch: metav1.ResourceVersionMatch(q.get("resourceVersionMatch")),
		Continue:             q.get("continue"),
		TimeoutSeconds:       q.int64("timeoutSeconds"),
		Limit:                deref(q.int64("limit")),
		Watch:                deref(q.bool("watch")) || c.info.Verb == "watch",
		AllowWatchBookmarks:  deref(q.bool("allowWatchBookmarks")),
		SendInitialEvents:    q.bool("sendInitialEvents"),
	}
	if q.err != nil {
		return nil, q.err
	}
	var err error
	if o.LabelSelector, err = labels.Parse(q.get("labelSelector")); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if o.FieldSelector, err = c.fieldSelector(q.get("fieldSelector")); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	metainternal.SetListOptionsDefaults(o, true)
	if errs := listvalidation.ValidateListOptions(o, true); len(errs) > 0 {
		return nil, invalidOptions("ListOptions", errs)
	}
	return o, c.selectName(o)
}

// fieldSelector parses a selector and refuses labels that the kind does not offer.
func (c *call) fieldSelector(text string) (fields.Selector, error) {
	if text == "" {
		return fields.Everything(), nil
	}
	selector, err := fields.ParseSelector(text)
	if err != nil {
		return nil, err
	}
	return selector.Transform(func(label, value string) (string, string, error) {
		if stored, ok := c.r.FieldNames[label]; ok {
			return stored, value, nil
		}
		if c.r.fields[label] {
			return label, value, nil
		}
		return label, value, c.unsupportedField(label)
	})
}

// selectName narrows a list of a single name (/watch/pods/x, or a selector of metadata.name) to that name.
func (c *call) selectName(o *metainternal.ListOptions) error {
	name := c.info.Name
	if name == "" {
		return nil
	}
	if o.FieldSelector == nil || o.FieldSelector.Empty() {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name)
		return nil
	}
	if selected, ok := o.FieldSelector.RequiresExactMatch("metadata.name"); !ok || selected != name {
		return apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
	}
	return nil
}

// writeOptions reads dryRun, fieldManager and fieldValidation; force belongs to apply patches.
func (c *call) writeOptions(kind string, patch types.PatchType) error {
	q := query{values: c.query()}
	dryRun, manager, validation := q.values["dryRun"], q.get("fieldManager"), q.get("fieldValidation")
	var err error
	switch kind {
	case "CreateOptions":
		o := &metav1.CreateOptions{DryRun: dryRun, FieldManager: manager, FieldValidation: validation}
		if errs := metavalidation.ValidateCreateOptions(o); len(errs) > 0 {
			err = invalidOptions(kind, errs)
		}
		c.options = o
	case "UpdateOptions":
		o := &metav1.UpdateOptions{DryRun: dryRun, FieldManager: manager, FieldValidation: validation}
		if errs := metavalidation.ValidateUpdateOptions(o); len(errs) > 0 {
			err = invalidOptions(kind, errs)
		}
		c.options = o
	default:
		o := &metav1.PatchOptions{DryRun: dryRun, FieldManager: manager, FieldValidation: validation, Force: q.bool("force")}
		if errs := metavalidation.ValidatePatchOptions(o, patch); len(errs) > 0 {
			err = invalidOptions(kind, errs)
		}
		c.options = &metav1.UpdateOptions{DryRun: dryRun, FieldManager: manager, FieldValidation: validation}
	}
	c.dryRun = slices.Contains(dryRun, metav1.DryRunAll)
	c.fieldValidation = validation
	if validation == "" {
		c.fieldValidation = metav1.FieldValidationWarn
	}
	return err
}

// deleteOptions reads the body of a delete, or else its query.
func (c *call) deleteOptions() (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	body, err := readBody(c.req)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		err = c.decodeDeleteOptions(body, o)
	} else {
		err = c.deleteQuery(o)
	}
	if err != nil {
		return nil, err
	}
	o.IgnoreStoreReadErrorWithClusterBreakingPotential = nil
	if errs := metavalidation.ValidateDeleteOptions(o); len(errs) > 0 {
		return nil, invalidOptions("DeleteOptions", errs)
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	c.options = o
	c.dryRun = slices.Contains(o.DryRun, metav1.DryRunAll)
	return o, nil
}

// decodeDeleteOptions takes the options in meta.k8s.io/v1, in v1 and in the resource's own group, as clients send all of them.
func (c *call) decodeDeleteOptions(body []byte, o *metav1.DeleteOptions) error {
	mediaType, err := inputType(c.req)
	if err != nil {
		return err
	}
	want := c.r.gvr.GroupVersion().WithKind("DeleteOptions")
	if met, err := bodyKind(mediaType, body); err == nil && met.Kind == "DeleteOptions" {
		want = met
	}
	if _, err = (decoding{mediaType: mediaType}).decodeInto(body, want, o); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

func (c *call) deleteQuery(o *metav1.DeleteOptions) error {
	q := query{values: c.query()}
	o.GracePeriodSeconds = q.int64("gracePeriodSeconds")
	//lint:ignore SA1019 clients may still send it
	o.OrphanDependents = q.bool("orphanDependents")
	o.DryRun = q.values["dryRun"]
	if p := q.get("propagationPolicy"); p != "" {
		o.PropagationPolicy = (*metav1.DeletionPropagation)(&p)
	}
	return q.err
}

// unsupportedField words the refusal as upstream does: kinds with selectors of their own differ from the rest.
func (c *call) unsupportedField(label string) error {
	if c.r.Kind.Fields != nil || c.r.Dynamic != nil {
		return fmt.Errorf("field label not supported: %s", label)
	}
	if label == "metadata.namespace" {
		return nil
	}
	return fmt.Errorf("%q is not a known field selector: only %q, %q", label, "metadata.name", "metadata.namespace")
}
