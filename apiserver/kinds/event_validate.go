package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The longest texts of an event of the new kind, in bytes.
const (
	maxEventInstance = 128
	maxEventAction   = 128
	maxEventReason   = 128
	maxEventNote     = 1024
)

// validateLegacyEvent holds for events of both groups. Those with eventTime are of the new kind whatever the group.
func validateLegacyEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		errs = oldEventNamespace(e)
	} else {
		errs = newEventTexts(e)
	}
	return append(errs, invalid(field.NewPath("namespace"), e.Namespace, validation.IsDNS1123Subdomain(e.Namespace))...)
}

func namespaceMismatch(e *corev1.Event) field.ErrorList {
	return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace")}
}

// oldEventNamespace: an event is in the namespace of its object, or in default for objects without one.
func oldEventNamespace(e *corev1.Event) field.ErrorList {
	about := e.InvolvedObject.Namespace
	if about == "" && e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault ||
		about != "" && about != e.Namespace {
		return namespaceMismatch(e)
	}
	return nil
}

func newEventTexts(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = namespaceMismatch(e)
	}
	controller := field.NewPath("reportingController")
	if e.ReportingController == "" {
		errs = append(errs, field.Required(controller, ""))
	}
	errs = append(errs, qualifiedName(e.ReportingController, controller)...)
	errs = append(errs, eventText(e.ReportingInstance, "reportingInstance", maxEventInstance)...)
	errs = append(errs, eventText(e.Action, "action", maxEventAction)...)
	errs = append(errs, eventText(e.Reason, "reason", maxEventReason)...)
	if len(e.Message) > maxEventNote {
		errs = append(errs, tooLongText("message", maxEventNote))
	}
	return errs
}

// eventText refuses an empty text and one of more than max bytes.
func eventText(text, name string, max int) field.ErrorList {
	if text == "" {
		return field.ErrorList{field.Required(field.NewPath(name), "")}
	}
	if len(text) > max {
		return field.ErrorList{tooLongText(name, max)}
	}
	return nil
}

func tooLongText(name string, max int) *field.Error {
	return field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", max))
}

// validateNewEvent checks what is created through events.k8s.io/v1. Paths are those of the stored version.
func validateNewEvent(e *corev1.Event) field.ErrorList {
	errs := validateLegacyEvent(e)
	errs = append(errs, validateMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)...)
	errs = append(errs, eventSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, deprecated := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()},
		{"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0},
		{"source", e.Source != corev1.EventSource{}},
	} {
		if deprecated.set {
			errs = append(errs, field.Invalid(field.NewPath(deprecated.name), "", "needs to be unset"))
		}
	}
	return errs
}

func eventSeries(s *corev1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// validateNewEventUpdate lets nothing but the series and the metadata change.
func validateNewEventUpdate(e, old *corev1.Event) field.ErrorList {
	errs := validateLegacyEvent(e)
	errs = append(errs, validateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta)...)
	if !apiequality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = append(errs, eventSeries(e.Series)...)
	}
	for _, f := range []struct {
		name     string
		new, old any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason},
		{"message", e.Message, old.Message},
		{"source", e.Source, old.Source},
		{"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count},
		{"type", e.Type, old.Type},
		{"eventTime", e.EventTime, old.EventTime},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, immutable(f.new, f.old, field.NewPath(f.name))...)
	}
	return errs
}
