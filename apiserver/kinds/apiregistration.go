package kinds

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// defaultAPIServicePort is where an aggregated API server listens that does not say.
const defaultAPIServicePort = 443

func apiServices() []Kind {
	return []Kind{{
		GVK:        apiregistrationv1.SchemeGroupVersion.WithKind("APIService"),
		Resource:   "apiservices",
		Singular:   "apiservice",
		Categories: []string{"api-extensions"},
		Prefix:     "apiregistration.k8s.io/apiservices",
		New:        func() runtime.Object { return &apiregistrationv1.APIService{} },
		NewList:    func() runtime.Object { return &apiregistrationv1.APIServiceList{} },

		Default: on(func(s *apiregistrationv1.APIService) {
			if s.Spec.Service != nil {
				setDefaultPtr(&s.Spec.Service.Port, defaultAPIServicePort)
			}
		}),
		PrepareCreate: on(func(s *apiregistrationv1.APIService) {
			s.Status = apiregistrationv1.APIServiceStatus{}
			if s.Spec.Service == nil {
				s.Status.Conditions = []apiregistrationv1.APIServiceCondition{LocalAPIServiceCondition()}
			}
		}),
		PrepareUpdate: onUpdate(func(s, old *apiregistrationv1.APIService) { s.Status = *old.Status.DeepCopy() }),
		Validate:      check(validateAPIService),
		ValidateUpdate: checkUpdate(func(s, old *apiregistrationv1.APIService) field.ErrorList {
			return append(validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateAPIService(s)...)
		}),
		NoGeneration: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Service", "string", "The reference to the service that hosts this API endpoint."),
			column("Available", "string", "Whether this service is available."),
			ageColumn(),
		},
		Cells: cells(apiServiceCells),
		Status: &Subresource{
			PrepareUpdate: onUpdate(func(s, old *apiregistrationv1.APIService) {
				s.Spec = *old.Spec.DeepCopy()
				s.Labels, s.Annotations, s.OwnerReferences, s.Finalizers = keptMeta(&old.ObjectMeta)
			}),
			ValidateUpdate: checkUpdate(validateAPIServiceStatus),
		},
	}}
}

// LocalAPIServiceCondition is that of every APIService which this server serves itself. Its time is left out.
func LocalAPIServiceCondition() apiregistrationv1.APIServiceCondition {
	return apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
		Reason: "Local", Message: "Local APIServices are always available",
	}
}

func apiServiceCells(s *apiregistrationv1.APIService, now metav1.Time) []any {
	service, available := "Local", string(apiregistrationv1.ConditionUnknown)
	if ref := s.Spec.Service; ref != nil {
		service = ref.Namespace + "/" + ref.Name
	}
	for _, c := range s.Status.Conditions {
		if c.Type != apiregistrationv1.Available {
			continue
		}
		available = string(c.Status)
		if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
			available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
	}
	return []any{s.Name, service, available, age(now, s.CreationTimestamp)}
}

func validateAPIService(s *apiregistrationv1.APIService) field.ErrorList {
	spec := field.NewPath("spec")
	want := s.Spec.Version + "." + s.Spec.Group
	errs := validateMeta(&s.ObjectMeta, false, func(name string, _ bool) []string {
		if problems := content.IsPathSegmentName(name); len(problems) > 0 {
			return problems
		}
		if name != want {
			return []string{fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)}
		}
		return nil
	})
	if s.Spec.Group == "" && s.Spec.Version != "v1" {
		errs = append(errs, field.Required(spec.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if s.Spec.Group != "" {
		for _, msg := range utilvalidation.IsDNS1123Subdomain(s.Spec.Group) {
			errs = append(errs, field.Invalid(spec.Child("group"), s.Spec.Group, msg))
		}
	}
	for _, msg := range utilvalidation.IsDNS1035Label(s.Spec.Version) {
		errs = append(errs, field.Invalid(spec.Child("version"), s.Spec.Version, msg))
	}
	if p := s.Spec.GroupPriorityMinimum; p <= 0 || p > 20000 {
		errs = append(errs, field.Invalid(spec.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := s.Spec.VersionPriority; p <= 0 || p > 1000 {
		errs = append(errs, field.Invalid(spec.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	return append(errs, validateAPIServiceTarget(&s.Spec, spec)...)
}

func validateAPIServiceTarget(s *apiregistrationv1.APIServiceSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	skip := spec.Child("insecureSkipTLSVerify")
	if s.Service == nil {
		if len(s.CABundle) != 0 {
			errs = append(errs, field.Invalid(spec.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle"))
		}
		if s.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(skip, s.InsecureSkipTLSVerify, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	service := spec.Child("service")
	if s.Service.Namespace == "" {
		errs = append(errs, field.Required(service.Child("namespace"), ""))
	}
	if s.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	}
	port := *orZero(s.Service.Port)
	if problems := utilvalidation.IsValidPortNum(int(port)); problems != nil {
		errs = append(errs, field.Invalid(service.Child("port"), port, "port is not valid: "+strings.Join(problems, ", ")))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(skip, s.InsecureSkipTLSVerify, "may not be true if caBundle is present"))
	}
	return errs
}

func validateAPIServiceStatus(s, old *apiregistrationv1.APIService) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&s.ObjectMeta, &old.ObjectMeta, metadata())
	known := []apiregistrationv1.ConditionStatus{apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown}
	for i, c := range s.Status.Conditions {
		if c.Status != known[0] && c.Status != known[1] && c.Status != known[2] {
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions").Index(i).Child("status"), c.Status, known))
		}
	}
	return errs
}
