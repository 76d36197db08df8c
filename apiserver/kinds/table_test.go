package kinds

import (
	"fmt"
	"maps"
	"math/rand"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// checklist is docs/add-a-kind.md's.
var checklist = map[string]func(t *testing.T, k *Kind){
	"unique":   checkUnique,
	"scheme":   checkScheme,
	"names":    checkNames,
	"default":  checkDefault,
	"prepare":  checkPrepare,
	"validate": checkValidate,
	"columns":  checkColumns,
	"fields":   checkFields,
	"convert":  checkConvert,
}

var now = metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))

func TestChecklist(t *testing.T) {
	doc, err := os.ReadFile("../../docs/add-a-kind.md")
	if err != nil {
		t.Fatal(err)
	}
	var items []string
	for _, m := range regexp.MustCompile("(?m)^- `(\\w+)`:").FindAllStringSubmatch(string(doc), -1) {
		items = append(items, m[1])
	}
	slices.Sort(items)
	if have := slices.Sorted(maps.Keys(checklist)); !slices.Equal(items, have) {
		t.Fatalf("docs/add-a-kind.md lists %v, the test walks %v", items, have)
	}
	all := All()
	for _, name := range items {
		for i := range all {
			k := &all[i]
			t.Run(name+"/"+k.GroupResource().String(), func(t *testing.T) { checklist[name](t, k) })
		}
	}
}

// samples are an empty object of the kind and random ones, with the defaults of the kind and without.
func samples(k *Kind) []runtime.Object {
	codecs := serializer.NewCodecFactory(Scheme())
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), codecs)
	objects := []runtime.Object{k.New()}
	for range 30 {
		obj := k.New()
		fill.Fill(obj)
		obj.GetObjectKind().SetGroupVersionKind(k.GVK)
		objects = append(objects, obj)
		if k.Default != nil {
			defaulted := obj.DeepCopyObject()
			k.Default(defaulted)
			objects = append(objects, defaulted)
		}
	}
	return objects
}

// unchanged fails when call changes any of the objects.
func unchanged(t *testing.T, what string, call func(), objects ...runtime.Object) {
	t.Helper()
	var copies []runtime.Object
	for _, o := range objects {
		copies = append(copies, o.DeepCopyObject())
	}
	call()
	for i := range objects {
		if !apiequality.Semantic.DeepEqual(copies[i], objects[i]) {
			t.Fatalf("%s changes an object", what)
		}
	}
}

func checkUnique(t *testing.T, k *Kind) {
	all := All()
	for i := range all {
		o := &all[i]
		if o.GVK == k.GVK {
			continue
		}
		if o.GroupResource() == k.GroupResource() && o.Prefix != k.Prefix {
			t.Errorf("%v has the same resource", o.GVK)
		}
		if k.Prefix != "" && o.Prefix == k.Prefix && (o.ToStorage == nil) == (k.ToStorage == nil) {
			t.Errorf("%v is stored in the same place", o.GVK)
		}
		for _, n := range k.ShortNames {
			if slices.Contains(o.ShortNames, n) && o.Prefix != k.Prefix {
				t.Errorf("%v has the short name %s too", o.GVK, n)
			}
		}
	}
}

func checkScheme(t *testing.T, k *Kind) {
	scheme := Scheme()
	want, err := scheme.New(k.GVK)
	if err != nil {
		t.Fatal(err)
	}
	if reflect.TypeOf(want) != reflect.TypeOf(k.New()) {
		t.Errorf("New gives %T, want %T", k.New(), want)
	}
	if k.NotStored {
		return
	}
	list := k.GVK
	list.Kind += "List"
	want, err = scheme.New(list)
	if err != nil {
		t.Fatal(err)
	}
	if reflect.TypeOf(want) != reflect.TypeOf(k.NewList()) {
		t.Errorf("NewList gives %T, want %T", k.NewList(), want)
	}
}

// verbsOf are those that a kind serves.
func verbsOf(k *Kind) []string {
	if k.Verbs == nil {
		return []string{"create", "list"}
	}
	return k.Verbs
}

func checkNames(t *testing.T, k *Kind) {
	for _, n := range append([]string{k.Resource, k.Singular}, k.ShortNames...) {
		if n == "" || n != strings.ToLower(n) {
			t.Errorf("bad name %q", n)
		}
	}
	if k.NotStored != (k.Prefix == "") || k.NewList == nil != !slices.Contains(verbsOf(k), "list") {
		t.Errorf("NotStored %v, but prefix %q", k.NotStored, k.Prefix)
	}
	if strings.Trim(k.Prefix, "/") != k.Prefix {
		t.Errorf("slashes at the ends of prefix %q", k.Prefix)
	}
}

func checkDefault(t *testing.T, k *Kind) {
	if k.Default == nil {
		return
	}
	for _, obj := range samples(k) {
		k.Default(obj)
		unchanged(t, "Default run again", func() { k.Default(obj) }, obj)
	}
}

// part is the field of that name of an object, if it has one.
func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func checkPrepare(t *testing.T, k *Kind) {
	if k.NotStored {
		return
	}
	for _, obj := range samples(k) {
		if k.PrepareCreate != nil {
			k.PrepareCreate(obj.DeepCopyObject())
		}
		if svc, ok := obj.(*corev1.Service); ok {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer // others lose the status
		}
		if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
			recordStoredVersion(crd) // an update does as much
		}
		keeps(t, k.PrepareUpdate, obj, "Status")
		if k.Status != nil {
			keeps(t, k.Status.PrepareUpdate, obj, "Spec")
		}
	}
}

// keeps fails when prepare lets an update change the field, or a later change of the new object reaches the old one.
func keeps(t *testing.T, prepare func(obj, old runtime.Object), old runtime.Object, name string) {
	t.Helper()
	if !part(old, name).IsValid() || part(old, name).Kind() != reflect.Struct {
		return
	}
	if prepare == nil {
		t.Fatalf("nothing keeps the old %s", name)
	}
	updated := old.DeepCopyObject()
	part(updated, name).SetZero()
	unchanged(t, "PrepareUpdate", func() { prepare(updated, old) }, old)
	if !apiequality.Semantic.DeepEqual(part(updated, name).Interface(), part(old, name).Interface()) {
		t.Fatalf("the old %s is not kept", name)
	}
	unchanged(t, "a change of the updated object", func() { scramble(reflect.ValueOf(updated)) }, old)
}

// scramble changes every element of the slices and maps below v in place.
func scramble(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			scramble(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				scramble(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			scramble(v.Index(i))
			if v.Index(i).CanSet() {
				v.Index(i).SetZero()
			}
		}
	case reflect.Map:
		if !v.IsNil() && v.CanInterface() {
			v.Clear()
		}
	}
}

func checkValidate(t *testing.T, k *Kind) {
	objects := samples(k)
	for i, obj := range objects {
		old := objects[(i+1)%len(objects)]
		try := func(what string, call func()) { unchanged(t, what, call, obj, old) }
		if k.Validate != nil {
			try("Validate", func() { k.Validate(obj) })
		}
		if k.ValidateUpdate != nil {
			try("ValidateUpdate", func() { k.ValidateUpdate(obj, old) })
		}
		if k.Warnings != nil {
			try("Warnings", func() { k.Warnings(obj, nil); k.Warnings(obj, old) })
		}
		if k.Status != nil {
			try("Status.ValidateUpdate", func() { k.Status.ValidateUpdate(obj, old) })
		}
		if k.Fields != nil {
			try("Fields", func() { k.Fields(obj) })
		}
		if k.Cells != nil {
			try("Cells", func() { k.Cells(obj, now) })
		}
	}
	if k.Validate == nil && slices.Contains(verbsOf(k), "create") || !k.NotStored && k.ValidateUpdate == nil {
		t.Error("not validated")
	}
}

func checkColumns(t *testing.T, k *Kind) {
	if k.NotStored {
		return
	}
	i := slices.IndexFunc(k.Columns, func(c metav1.TableColumnDefinition) bool { return c.Format == "name" })
	if i < 0 || k.Columns[i].Name != "Name" {
		t.Error("no column is the name")
	}
	for _, obj := range samples(k) {
		row := k.Cells(obj, now)
		if len(row) != len(k.Columns) {
			t.Fatalf("%d cells in %d columns", len(row), len(k.Columns))
		}
		for i, cell := range row {
			c := &k.Columns[i]
			if c.Description == "" || c.Name == "" {
				t.Errorf("column %d has no name or description", i)
			}
			if got := fmt.Sprintf("%T", cell); !slices.Contains(cellTypes[c.Type], got) {
				t.Errorf("cell %s is %s, the column's type is %s", c.Name, got, c.Type)
			}
		}
	}
}

// cellTypes are what a column of a type may hold. Numbers and booleans in string columns, and texts such as "<unknown>" or "3 (2m ago)" in
// those of numbers, are upstream's.
var cellTypes = map[string][]string{
	"string":  {"string", "int64", "bool"},
	"integer": {"int64", "string"},
	"boolean": {"bool"},
	"date":    {"string"},
}

func checkFields(t *testing.T, k *Kind) {
	if k.Fields == nil {
		return
	}
	want := slices.Sorted(maps.Keys(k.Fields(k.New())))
	for _, obj := range samples(k) {
		if have := slices.Sorted(maps.Keys(k.Fields(obj))); !slices.Equal(want, have) {
			t.Fatalf("fields %v, of an empty object %v", have, want)
		}
	}
	all := All()
	for i := range all {
		stored := &all[i]
		if k.FieldNames == nil || stored.Prefix != k.Prefix || stored.ToStorage != nil {
			continue
		}
		names := stored.Fields(stored.New())
		for _, name := range want {
			if _, ok := names[k.FieldNames[name]]; !ok {
				t.Errorf("field %s leads to %q", name, k.FieldNames[name])
			}
		}
	}
}

func checkConvert(t *testing.T, k *Kind) {
	if (k.ToStorage == nil) != (k.FromStorage == nil) {
		t.Fatal("converts one way only")
	}
	if k.ToStorage == nil {
		return
	}
	for _, obj := range samples(k) {
		obj.GetObjectKind().SetGroupVersionKind(k.GVK)
		stored, err := k.ToStorage(obj)
		if err != nil {
			t.Fatal(err)
		}
		back, err := k.FromStorage(stored)
		if err != nil {
			t.Fatal(err)
		}
		if !apiequality.Semantic.DeepEqual(obj, back) {
			t.Fatalf("converted and back:\n%+v\nwas\n%+v", back, obj)
		}
	}
	if _, err := k.ToStorage(&metav1.Status{}); err == nil {
		t.Error("converts anything")
	}
}
