package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEnv(vars []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range vars {
		v, at := &vars[i], path.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalid(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))...)
		}
		errs = append(errs, validateEnvSource(v, at.Child("valueFrom"))...)
	}
	return errs
}

// validateEnvSource checks where a variable has its value from: exactly one source, and then no value beside it.
func validateEnvSource(v *corev1.EnvVar, path *field.Path) field.ErrorList {
	s := v.ValueFrom
	if s == nil {
		return nil
	}
	sources := 0
	var errs field.ErrorList
	if r := s.FieldRef; r != nil {
		sources++
		errs = append(errs, validateFieldRef(r, envFields, path.Child("fieldRef"))...)
	}
	if r := s.ResourceFieldRef; r != nil {
		sources++
		errs = append(errs, validateResourceFieldRef(r, false, path.Child("resourceFieldRef"))...)
	}
	if r := s.ConfigMapKeyRef; r != nil {
		sources++
		errs = append(errs, validateKeyRef(r.Name, r.Key, path.Child("configMapKeyRef"))...)
	}
	if r := s.SecretKeyRef; r != nil {
		sources++
		errs = append(errs, validateKeyRef(r.Name, r.Key, path.Child("secretKeyRef"))...)
	}
	if r := s.FileKeyRef; r != nil {
		sources++
		errs = append(errs, validateFileKeyRef(r, path.Child("fileKeyRef"))...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(name, key string, path *field.Path) field.ErrorList {
	errs := dnsSubdomain(name, path.Child("name"))
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, invalid(path.Child("key"), key, validation.IsConfigMapKey(key))...)
}

func validateFileKeyRef(r *corev1.FileKeySelector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Key == "" {
		errs = append(errs, field.Required(path.Child("key"), ""))
	} else {
		errs = append(errs, invalid(path.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))...)
	}
	if r.VolumeName == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else {
		errs = append(errs, dnsLabel(r.VolumeName, path.Child("volumeName"))...)
	}
	if r.Path == "" {
		return append(errs, field.Required(path.Child("path"), ""))
	}
	return append(errs, noBacksteps(r.Path, path.Child("path"))...)
}

// fileKeyVolumes: a file of variables lies in an empty directory, where another container has put it.
func (c *podSpecCheck) fileKeyVolumes() field.ErrorList {
	var errs field.ErrorList
	visitContainers(c.spec, c.path, func(container *corev1.Container, path *field.Path) {
		for i := range container.Env {
			from := container.Env[i].ValueFrom
			if from == nil || from.FileKeyRef == nil {
				continue
			}
			name, at := from.FileKeyRef.VolumeName, path.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			volume := slices.IndexFunc(c.spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
			if volume < 0 {
				errs = append(errs, field.NotFound(at, name))
			} else if c.spec.Volumes[volume].EmptyDir == nil {
				errs = append(errs, field.Invalid(at, name, "referenced volume must be of type emptyDir"))
			}
		}
	})
	return errs
}

func validateEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range sources {
		s, at := &sources[i], path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalid(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		count := 0
		if s.ConfigMapRef != nil {
			count++
			errs = append(errs, validateEnvFromName(s.ConfigMapRef.Name, at.Child("configMapRef", "name"))...)
		}
		if s.SecretRef != nil {
			count++
			errs = append(errs, validateEnvFromName(s.SecretRef.Name, at.Child("secretRef", "name"))...)
		}
		if count == 0 {
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if count > 1 {
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

// validateEnvFromName lets a name end in a dash, as upstream does.
func validateEnvFromName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return invalid(path, name, apivalidation.NameIsDNSSubdomain(name, true))
}

// The fields of a pod that its containers may learn of, sorted: as variables, and as files.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// knownFields exist, but not all may be used everywhere.
	knownFields = []string{
		"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.phase", "status.podIP", "status.podIPs",
	}
	containerResources = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
)

// splitSubscript splits "metadata.labels['x']" into its path and what is between the quotes.
func splitSubscript(fieldPath string) (path, subscript string, ok bool) {
	rest, ok := strings.CutSuffix(fieldPath, "']")
	if !ok {
		return fieldPath, "", false
	}
	path, subscript, ok = strings.Cut(rest, "['")
	if !ok || path == "" {
		return fieldPath, "", false
	}
	return path, subscript, true
}

func validateFieldRef(r *corev1.ObjectFieldSelector, allowed []string, path *field.Path) field.ErrorList {
	at := path.Child("fieldPath")
	unknown := func(format, what string) field.ErrorList {
		return field.ErrorList{field.Invalid(at, r.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, what))}
	}
	switch {
	case r.APIVersion == "":
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	case r.FieldPath == "":
		return field.ErrorList{field.Required(at, "")}
	case r.APIVersion != "v1":
		return unknown("unsupported pod version: %s", r.APIVersion)
	}
	name, subscript, subscripted := splitSubscript(r.FieldPath)
	if subscripted {
		switch name {
		case "metadata.annotations":
			return qualifiedName(strings.ToLower(subscript), path)
		case "metadata.labels":
			return qualifiedName(subscript, path)
		}
		return unknown("field label does not support subscript: %s", r.FieldPath)
	}
	if name == "spec.host" { // its name before v1
		name = "spec.nodeName"
	}
	if !slices.Contains(knownFields, name) {
		return unknown("field label not supported: %s", r.FieldPath)
	}
	return among(name, at, allowed...)
}

func validateResourceFieldRef(r *corev1.ResourceFieldSelector, needsContainer bool, path *field.Path) field.ErrorList {
	hugePages := strings.HasPrefix(r.Resource, "requests.hugepages-") || strings.HasPrefix(r.Resource, "limits.hugepages-")
	var errs field.ErrorList
	switch {
	case needsContainer && r.ContainerName == "":
		errs = append(errs, field.Required(path.Child("containerName"), ""))
	case r.Resource == "":
		errs = append(errs, field.Required(path.Child("resource"), ""))
	case !hugePages:
		errs = append(errs, among(r.Resource, path.Child("resource"), containerResources...)...)
	}
	if !r.Divisor.IsZero() {
		errs = append(errs, validateDivisor(r, hugePages, path.Child("divisor"))...)
	}
	return errs
}

var (
	cpuDivisors  = []string{"1m", "1"}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func validateDivisor(r *corev1.ResourceFieldSelector, hugePages bool, path *field.Path) field.ErrorList {
	divisor := r.Divisor.String()
	refuse := func(values, what string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", values, what))}
	}
	_, resource, _ := strings.Cut(r.Resource, ".")
	if resource == "cpu" {
		if slices.Contains(cpuDivisors, divisor) {
			return nil
		}
		return refuse("1m and 1", "cpu")
	}
	if slices.Contains(byteDivisors, divisor) {
		return nil
	}
	switch {
	case hugePages:
		return refuse(strings.Join(byteDivisors, ", "), "hugepages")
	case resource == "memory":
		return refuse(strings.Join(byteDivisors, ", "), "memory")
	case resource == "ephemeral-storage":
		return refuse(strings.Join(byteDivisors, ", "), "local ephemeral storage")
	}
	return nil
}
