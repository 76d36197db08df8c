package podspec

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/coracle-dev/coracle/agent/podspec/fields"
)

// Sources has the objects that environment variables are read from, by name; a name that maps to nil does not exist.
type Sources struct {
	ConfigMaps map[string]*v1.ConfigMap
	Secrets    map[string]*v1.Secret
	Services   []*v1.Service
	// Files are those of volumes, where they exist.
	Files map[EnvFile]string
}

// EnvRefs names the config maps and secrets that the container's environment reads.
func EnvRefs(c *v1.Container) (configMaps, secrets []string) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			configMaps = append(configMaps, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			secrets = append(secrets, from.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			configMaps = append(configMaps, r.Name)
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			secrets = append(secrets, r.Name)
		}
	}
	return compact(configMaps), compact(secrets)
}

func compact(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// environment in the making: values by name, in order of first appearance.
type environment struct {
	values map[string]string
	order  []string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.order = append(e.order, name)
	}
	e.values[name] = value
}

func (e *environment) list() []string {
	var out []string
	for _, name := range e.order {
		out = append(out, name+"="+e.values[name])
	}
	return out
}

// env resolves the container's environment: envFrom, then env, which wins, then services, which yield. Warnings tell of
// keys that cannot be names of variables.
func env(pod *v1.Pod, c *v1.Container, f fields.Facts, src Sources) (e *environment, warnings []string, err error) {
	e = &environment{values: map[string]string{}}
	for _, from := range c.EnvFrom {
		w, err := e.addFrom(pod.Namespace, from, src)
		if err != nil {
			return nil, nil, err
		}
		if w != "" {
			warnings = append(warnings, w)
		}
	}
	services := ServiceEnv(pod, src.Services)
	own := map[string]string{}
	for i := range c.Env {
		v := &c.Env[i]
		value, ok, err := envValue(pod, c, v, f, src, inMap(own, services))
		if err != nil {
			return nil, nil, err
		}
		if ok {
			own[v.Name] = value
			e.set(v.Name, value)
		}
	}
	for _, name := range sortedKeys(services) {
		if _, ok := e.values[name]; !ok {
			e.set(name, services[name])
		}
	}
	return e, warnings, nil
}

func (e *environment) addFrom(namespace string, from v1.EnvFromSource, src Sources) (warning string, err error) {
	data := map[string]string{}
	what := ""
	switch {
	case from.ConfigMapRef != nil:
		r := from.ConfigMapRef
		cm := src.ConfigMaps[r.Name]
		if cm == nil {
			return "", missing("configmap", r.Name, r.Optional)
		}
		what, data = "ConfigMap "+namespace+"/"+r.Name, cm.Data
	case from.SecretRef != nil:
		r := from.SecretRef
		s := src.Secrets[r.Name]
		if s == nil {
			return "", missing("secret", r.Name, r.Optional)
		}
		what = "Secret " + namespace + "/" + r.Name
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	var invalid []string
	for _, k := range sortedKeys(data) {
		name := from.Prefix + k
		if len(validation.IsRelaxedEnvVarName(name)) > 0 {
			invalid = append(invalid, name)
			continue
		}
		e.set(name, data[k])
	}
	if len(invalid) > 0 {
		warning = fmt.Sprintf("Keys [%s] from the EnvFrom %s were skipped since they are considered invalid environment variable names.",
			strings.Join(invalid, ", "), what)
	}
	return warning, nil
}

func missing(kind, name string, optional *bool) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s %q not found", kind, name)
}

// envValue is one variable's value; not ok where an optional source is absent.
func envValue(pod *v1.Pod, c *v1.Container, v *v1.EnvVar, f fields.Facts, src Sources, lookup func(string) (string, bool)) (value string, ok bool, err error) {
	if v.ValueFrom == nil {
		return Expand(v.Value, lookup), true, nil
	}
	switch from := v.ValueFrom; {
	case from.FieldRef != nil:
		value, err = fields.Field(pod, f, from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = fields.Resource(pod, f, from.ResourceFieldRef, c)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		cm := src.ConfigMaps[r.Name]
		if cm == nil {
			return "", false, missing("configmap", r.Name, r.Optional)
		}
		value, ok = cm.Data[r.Key]
		if !ok {
			return "", false, missingKey(r.Key, "ConfigMap", pod.Namespace, r.Name, r.Optional)
		}
		return value, true, nil
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		s := src.Secrets[r.Name]
		if s == nil {
			return "", false, missing("secret", r.Name, r.Optional)
		}
		data, ok := s.Data[r.Key]
		if !ok {
			return "", false, missingKey(r.Key, "Secret", pod.Namespace, r.Name, r.Optional)
		}
		return string(data), true, nil
	case from.FileKeyRef != nil:
		return fileValue(from.FileKeyRef, src)
	}
	return "", false, fmt.Errorf("environment variable %s: this node does not support its source", v.Name)
}

func missingKey(key, kind, namespace, name string, optional *bool) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("couldn't find key %s in %s %s/%s", key, kind, namespace, name)
}
