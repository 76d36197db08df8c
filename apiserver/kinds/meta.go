package kinds

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The adapters below let an entry be written with typed functions. An object of another type is a
// mistake of the caller and panics.

// on adapts Default and PrepareCreate.
func on[T runtime.Object](f func(obj T)) func(runtime.Object) {
	return func(obj runtime.Object) { f(obj.(T)) }
}

// onUpdate adapts PrepareUpdate.
func onUpdate[T runtime.Object](f func(obj, old T)) func(obj, old runtime.Object) {
	return func(obj, old runtime.Object) { f(obj.(T), old.(T)) }
}

// check adapts Validate.
func check[T runtime.Object](f func(obj T) field.ErrorList) func(runtime.Object) field.ErrorList {
	return func(obj runtime.Object) field.ErrorList { return f(obj.(T)) }
}

// checkUpdate adapts ValidateUpdate.
func checkUpdate[T runtime.Object](f func(obj, old T) field.ErrorList) func(obj, old runtime.Object) field.ErrorList {
	return func(obj, old runtime.Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

// warn adapts Warnings; f sees the zero T (a nil pointer) as old on create.
func warn[T runtime.Object](f func(obj, old T) []string) func(obj, old runtime.Object) []string {
	return func(obj, old runtime.Object) []string {
		var typedOld T
		if old != nil {
			typedOld = old.(T)
		}
		return f(obj.(T), typedOld)
	}
}

// fieldSet adapts Fields.
func fieldSet[T runtime.Object](f func(obj T) fields.Set) func(runtime.Object) fields.Set {
	return func(obj runtime.Object) fields.Set { return f(obj.(T)) }
}

// cells adapts Cells.
func cells[T runtime.Object](f func(obj T, now metav1.Time) []any) func(runtime.Object, metav1.Time) []any {
	return func(obj runtime.Object, now metav1.Time) []any { return f(obj.(T), now) }
}

// age is how tables show the time since t: "5m", "3d4h", or "<unknown>" for the zero time.
func age(now, t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// nameColumn and ageColumn are the first and, mostly, the last column of every table.
func nameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}
}

func ageColumn() metav1.TableColumnDefinition {
	return column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// column is one that is always shown. typ is string, integer, number, boolean or date.
func column(name, typ, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: description}
}

// wideColumn is one that only `-o wide` shows.
func wideColumn(name, typ, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Priority: 1, Description: description}
}

// setDefault gives a field its default where it has no value.
func setDefault[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// setDefaultPtr gives an optional field its default where it is absent.
func setDefaultPtr[T any](to **T, value T) {
	if *to == nil {
		*to = &value
	}
}
