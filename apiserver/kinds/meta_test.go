package kinds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// kindOf is the table's entry for a resource.
func kindOf(t *testing.T, group, resource string) *Kind {
	t.Helper()
	all := All()
	for i := range all {
		if all[i].GVK.Group == group && all[i].Resource == resource {
			return &all[i]
		}
	}
	t.Fatalf("no kind serves %s.%s", resource, group)
	return nil
}

// texts are the errors as users see them, in order.
func texts(errs field.ErrorList) []string {
	var s []string
	for _, e := range errs {
		s = append(s, e.Error())
	}
	slices.Sort(s)
	return slices.Compact(s)
}

func wantTexts(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	slices.Sort(want)
	if have := texts(errs); !slices.Equal(have, want) {
		t.Errorf("errors:\n\t%s\nwant:\n\t%s", strings.Join(have, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// create runs obj through what a create does, and gives the errors.
func create(k *Kind, obj runtime.Object) field.ErrorList {
	for _, f := range []func(runtime.Object){k.Default, k.PrepareCreate} {
		if f != nil {
			f(obj)
		}
	}
	return k.Validate(obj)
}

// update runs obj through what an update does, and gives the errors.
func update(k *Kind, obj, old runtime.Object) field.ErrorList {
	if k.Default != nil {
		k.Default(obj)
	}
	if k.PrepareUpdate != nil {
		k.PrepareUpdate(obj, old)
	}
	return k.ValidateUpdate(obj, old)
}

func ptr[T any](v T) *T { return &v }

func TestAge(t *testing.T) {
	for _, c := range []struct {
		t    metav1.Time
		want string
	}{
		{metav1.Time{}, "<unknown>"},
		{now, "0s"},
		{metav1.NewTime(now.Add(-90 * time.Second)), "90s"},
		{metav1.NewTime(now.Add(-5 * time.Minute)), "5m"},
		{metav1.NewTime(now.Add(-50 * time.Hour)), "2d2h"},
	} {
		if have := age(now, c.t); have != c.want {
			t.Errorf("age of %v is %s, want %s", c.t, have, c.want)
		}
	}
}

func TestMetadata(t *testing.T) {
	k := kindOf(t, "", "configmaps")
	for name, c := range map[string]struct {
		meta metav1.ObjectMeta
		want []string
	}{
		"good": {meta: metav1.ObjectMeta{Name: "a.b", Finalizers: []string{"orphan", "example.com/f"}}},
		"no name": {
			want: []string{"metadata.name: Required value: name or generateName is required"},
		},
		"bad name": {
			meta: metav1.ObjectMeta{Name: "A_b"},
			want: []string{`metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', ` +
				`and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		},
		"finalizer without domain": {
			meta: metav1.ObjectMeta{Name: "a", Finalizers: []string{"mine"}},
			want: []string{`metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`},
		},
		"owned by an event": {
			meta: metav1.ObjectMeta{Name: "a", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Event", Name: "e", UID: "1"}}},
			want: []string{`metadata.ownerReferences[0]: Invalid value: {"apiVersion":"v1","kind":"Event","name":"e","uid":"1"}: /v1, Kind=Event is disallowed from being an owner`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.meta.Namespace = "default"
			wantTexts(t, k.Validate(&corev1.ConfigMap{ObjectMeta: c.meta}), c.want...)
		})
	}
}

// rowText is a table's row with bars between cells.
func rowText(cells []any) string {
	var s []string
	for _, c := range cells {
		s = append(s, fmt.Sprint(c))
	}
	return strings.Join(s, "|")
}
