package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// systemPriorityPrefix begins the names that users may not give.
	systemPriorityPrefix = "system-"
	// highestUserPriority is the greatest value of a class that is not the system's.
	highestUserPriority = int32(1000000000)
	// systemCriticalPriority is where the system's classes begin.
	systemCriticalPriority = 2 * highestUserPriority
)

func priorityClasses() []Kind {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return []Kind{{
		GVK:        schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
		Resource:   "priorityclasses",
		Singular:   "priorityclass",
		ShortNames: []string{"pc"},
		Prefix:     "priorityclasses",
		New:        func() runtime.Object { return &schedulingv1.PriorityClass{} },
		NewList:    func() runtime.Object { return &schedulingv1.PriorityClassList{} },

		Default: on(func(pc *schedulingv1.PriorityClass) {
			setDefaultPtr(&pc.PreemptionPolicy, corev1.PreemptLowerPriority)
		}),
		Validate:            check(validatePriorityClass),
		ValidateUpdate:      checkUpdate(validatePriorityClassUpdate),
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Value", "integer", doc["value"]),
			column("Global-Default", "boolean", doc["globalDefault"]),
			ageColumn(),
			column("PreemptionPolicy", "string", doc["preemptionPolicy"]),
		},
		Cells: cells(func(pc *schedulingv1.PriorityClass, now metav1.Time) []any {
			policy := ""
			if pc.PreemptionPolicy != nil {
				policy = string(*pc.PreemptionPolicy)
			}
			return []any{pc.Name, int64(pc.Value), pc.GlobalDefault, age(now, pc.CreationTimestamp), policy}
		}),
	}}
}

// SystemPriorityClasses are the classes that exist in every cluster, in the order of their names.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		policy := corev1.PreemptLowerPriority
		return &schedulingv1.PriorityClass{
			ObjectMeta:       metav1.ObjectMeta{Name: name},
			Value:            value,
			Description:      description,
			PreemptionPolicy: &policy,
		}
	}
	return []*schedulingv1.PriorityClass{
		class("system-cluster-critical", systemCriticalPriority,
			"Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
		class("system-node-critical", systemCriticalPriority+1000,
			"Used for system critical pods that must not be moved from their current node."),
	}
}

func validatePriorityClass(pc *schedulingv1.PriorityClass) field.ErrorList {
	errs := validateMeta(&pc.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	if strings.HasPrefix(pc.Name, systemPriorityPrefix) {
		if err := systemPriorityClass(pc); err != nil {
			errs = append(errs, field.Forbidden(metadata().Child("name"),
				"priority class names with '"+systemPriorityPrefix+"' prefix are reserved for system use only. error: "+err.Error()))
		}
	} else if pc.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if pc.PreemptionPolicy != nil {
		errs = append(errs, oneOf(*pc.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// systemPriorityClass tells how a class differs from the system's of its name.
func systemPriorityClass(pc *schedulingv1.PriorityClass) error {
	for _, known := range SystemPriorityClasses() {
		switch {
		case pc.Name != known.Name:
			continue
		case pc.Value != known.Value:
			return fmt.Errorf("value of %v PriorityClass must be %v", known.Name, known.Value)
		case pc.GlobalDefault != known.GlobalDefault:
			return fmt.Errorf("globalDefault of %v PriorityClass must be %v", known.Name, known.GlobalDefault)
		}
		return nil
	}
	return fmt.Errorf("%v is not a known system priority class", pc.Name)
}

func validatePriorityClassUpdate(pc, old *schedulingv1.PriorityClass) field.ErrorList {
	errs := validateMetaUpdate(&pc.ObjectMeta, &old.ObjectMeta)
	if pc.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, immutable(pc.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}
