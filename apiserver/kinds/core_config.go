package kinds

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func configMaps() []Kind {
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		Resource:   "configmaps",
		Singular:   "configmap",
		ShortNames: []string{"cm"},
		Namespaced: true,
		Prefix:     "configmaps",
		New:        func() runtime.Object { return &corev1.ConfigMap{} },
		NewList:    func() runtime.Object { return &corev1.ConfigMapList{} },

		Validate:            check(validateConfigMap),
		ValidateUpdate:      checkUpdate(validateConfigMapUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"]), ageColumn(),
		},
		Cells: cells(func(c *corev1.ConfigMap, now metav1.Time) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(now, c.CreationTimestamp)}
		}),
	}}
}

func secrets() []Kind {
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("Secret"),
		Resource:   "secrets",
		Singular:   "secret",
		Namespaced: true,
		Prefix:     "secrets",
		New:        func() runtime.Object { return &corev1.Secret{} },
		NewList:    func() runtime.Object { return &corev1.SecretList{} },

		Default:             on(defaultSecret),
		Validate:            check(validateSecret),
		ValidateUpdate:      checkUpdate(validateSecretUpdate),
		NoGeneration:        true,
		UnconditionalUpdate: true,
		Fields: fieldSet(func(s *corev1.Secret) fields.Set {
			return fields.Set{"type": string(s.Type)}
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", corev1.Secret{}.SwaggerDoc()["type"]),
			column("Data", "string", corev1.Secret{}.SwaggerDoc()["data"]),
			ageColumn(),
		},
		Cells: cells(func(s *corev1.Secret, now metav1.Time) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), age(now, s.CreationTimestamp)}
		}),
	}}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	size := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		path := field.NewPath("data").Key(key)
		errs = append(errs, invalid(path, key, validation.IsConfigMapKey(key))...)
		if _, both := c.BinaryData[key]; both {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(c.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		errs = append(errs, invalid(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(c.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), c, corev1.MaxSecretSize)) // of the object as a whole
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, sealed(c.Immutable, old.Immutable, []sealedField{
		{"data", c.Data, old.Data}, {"binaryData", c.BinaryData, old.BinaryData},
	})...)
	return append(errs, validateConfigMap(c)...)
}

// sealedField is a field of an object that can be made immutable.
type sealedField struct {
	name     string
	new, old any
}

// sealed refuses changes of an object that was made immutable, and its being made mutable again.
func sealed(immutable, wasImmutable *bool, data []sealedField) field.ErrorList {
	if wasImmutable == nil || !*wasImmutable {
		return nil
	}
	const detail = "field is immutable when `immutable` is set"
	var errs field.ErrorList
	if immutable == nil || !*immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), detail))
	}
	for _, d := range data {
		if !reflect.DeepEqual(d.new, d.old) {
			errs = append(errs, field.Forbidden(field.NewPath(d.name), detail))
		}
	}
	return errs
}

// defaultSecret gives the type and moves stringData, which is for writing only, into data.
func defaultSecret(s *corev1.Secret) {
	setDefault(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	errs := validateMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("data")
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, invalid(path.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(path, "", corev1.MaxSecretSize))
	}
	return append(errs, secretContents(s, path)...)
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, immutable(s.Type, old.Type, field.NewPath("type"))...)
	errs = append(errs, sealed(s.Immutable, old.Immutable, []sealedField{{"data", s.Data, old.Data}})...)
	return append(errs, validateSecret(s)...)
}

// secretContents checks what a secret of a known type must carry.
func secretContents(s *corev1.Secret, path *field.Path) field.ErrorList {
	missing := func(key string) field.ErrorList { return field.ErrorList{field.Required(path.Key(key), "")} }
	has := func(key string) bool { _, ok := s.Data[key]; return ok }
	var errs field.ErrorList
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(metadata().Child("annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		errs = dockerConfig(s, corev1.DockerConfigKey, path)
	case corev1.SecretTypeDockerConfigJson:
		errs = dockerConfig(s, corev1.DockerConfigJsonKey, path)
	case corev1.SecretTypeBasicAuth: // either may be empty or missing, not both
		if !has(corev1.BasicAuthUsernameKey) && !has(corev1.BasicAuthPasswordKey) {
			errs = append(missing(corev1.BasicAuthUsernameKey), missing(corev1.BasicAuthPasswordKey)...)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = missing(corev1.SSHAuthPrivateKey)
		}
	case corev1.SecretTypeTLS:
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if !has(key) {
				errs = append(errs, missing(key)...)
			}
		}
	}
	return errs
}

func dockerConfig(s *corev1.Secret, key string, path *field.Path) field.ErrorList {
	data, ok := s.Data[key]
	if !ok {
		return field.ErrorList{field.Required(path.Key(key), "")}
	}
	if err := json.Unmarshal(data, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(path.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}
