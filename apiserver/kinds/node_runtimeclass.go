package kinds

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func runtimeClasses() []Kind {
	return []Kind{{
		GVK:      nodev1.SchemeGroupVersion.WithKind("RuntimeClass"),
		Resource: "runtimeclasses",
		Singular: "runtimeclass",
		Prefix:   "runtimeclasses",
		New:      func() runtime.Object { return &nodev1.RuntimeClass{} },
		NewList:  func() runtime.Object { return &nodev1.RuntimeClassList{} },

		Default: on(func(c *nodev1.RuntimeClass) {
			if c.Overhead != nil {
				roundResources(c.Overhead.PodFixed)
			}
		}),
		Validate: check(validateRuntimeClass),
		ValidateUpdate: checkUpdate(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return append(validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), immutable(c.Handler, old.Handler, field.NewPath("handler"))...)
		}),
		Warnings:     warn(runtimeClassWarnings),
		NoGeneration: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Handler", "string", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]), ageColumn(),
		},
		Cells: cells(func(c *nodev1.RuntimeClass, now metav1.Time) []any {
			return []any{c.Name, c.Handler, age(now, c.CreationTimestamp)}
		}),
	}}
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, dnsLabel(c.Handler, field.NewPath("handler"))...)
	if c.Overhead != nil {
		limits := &corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}
		errs = append(errs, validateResources(limits, containerResourceName, nil, field.NewPath("overhead"))...)
	}
	if s := c.Scheduling; s != nil {
		path := field.NewPath("scheduling")
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
		errs = append(errs, validateTolerations(s.Tolerations, path.Child("tolerations"))...)
		for i := range s.Tolerations {
			same := func(o corev1.Toleration) bool { return equality.Semantic.DeepEqual(o, s.Tolerations[i]) }
			if slices.ContainsFunc(s.Tolerations[:i], same) {
				errs = append(errs, field.Duplicate(path.Child("tolerations").Index(i), s.Tolerations[i]))
			}
		}
	}
	return errs
}

func runtimeClassWarnings(c, _ *nodev1.RuntimeClass) []string {
	w := &warnings{}
	if c.Scheduling == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
		if msg := deprecatedNodeLabels[key]; msg != "" {
			w.add(field.NewPath("scheduling", "nodeSelector"), "%s", msg)
		}
	}
	return w.found
}
