package rest

import (
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// defaultColumns show a kind that has none of its own.
var defaultColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
}

// includeObject reads what a table's rows carry beside their cells.
func (c *call) includeObject() (metav1.IncludeObjectPolicy, error) {
	switch policy := metav1.IncludeObjectPolicy(c.query().Get("includeObject")); policy {
	case "":
		return metav1.IncludeMetadata, nil
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		return policy, nil
	default:
		return "", apierrors.NewBadRequest(fmt.Sprintf(
			`Unable to convert to Table as requested: includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty`, policy))
	}
}

// table makes the Table of some objects.
func (c *call) table(objs []runtime.Object, m metav1.ListMeta) (*metav1.Table, error) {
	include, err := c.includeObject()
	if err != nil {
		return nil, err
	}
	t := &metav1.Table{ListMeta: m, ColumnDefinitions: c.r.Columns, Rows: make([]metav1.TableRow, 0, len(objs))}
	t.SetGroupVersionKind(c.tableKind())
	if c.r.Cells == nil {
		t.ColumnDefinitions = defaultColumns
	}
	now := metav1.NewTime(c.Now())
	objs, err = c.r.convertAll(objs)
	if err != nil {
		return nil, err
	}
	for _, obj := range objs {
		t.Rows = append(t.Rows, c.row(obj, include, now))
	}
	return t, nil
}

func (c *call) tableKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: c.out.metaVersion, Kind: "Table"}
}

// row is the row of an object in the served version.
func (c *call) row(obj runtime.Object, include metav1.IncludeObjectPolicy, now metav1.Time) metav1.TableRow {
	row := metav1.TableRow{}
	if c.r.Cells != nil {
		row.Cells = c.r.Cells(obj, now)
	} else {
		m := accessor(obj)
		row.Cells = []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	}
	switch include {
	case metav1.IncludeObject:
		row.Object.Object = obj
	case metav1.IncludeMetadata:
		row.Object.Object = partial(obj, c.out.metaVersion)
	}
	return row
}

func (c *call) respondTable(code int, objs []runtime.Object, m metav1.ListMeta) error {
	t, err := c.table(objs, m)
	if err != nil {
		return err
	}
	return c.respondFresh(code, c.tableKind(), t)
}
