package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// eventTTLSeconds is how long events are kept.
const eventTTLSeconds = 3600

// coreEvents are events as they are stored.
func coreEvents() []Kind {
	return []Kind{{
		GVK:        corev1.SchemeGroupVersion.WithKind("Event"),
		Resource:   "events",
		Singular:   "event",
		ShortNames: []string{"ev"},
		Namespaced: true,
		Prefix:     "events",
		New:        func() runtime.Object { return &corev1.Event{} },
		NewList:    func() runtime.Object { return &corev1.EventList{} },

		Validate:            check(validateLegacyEvent),
		ValidateUpdate:      checkUpdate(func(e, _ *corev1.Event) field.ErrorList { return validateLegacyEvent(e) }),
		NoGeneration:        true,
		CreateOnUpdate:      true,
		UnconditionalUpdate: true,
		TTLSeconds:          eventTTLSeconds,
		Fields:              fieldSet(eventFields),
		Columns:             eventColumns(),
		Cells:               cells(eventCells),
	}}
}

// newEvents are events in events.k8s.io/v1: stored as the core ones, held to stricter rules.
func newEvents() []Kind {
	core := coreEvents()[0]
	return []Kind{{
		GVK:         eventsv1.SchemeGroupVersion.WithKind("Event"),
		Resource:    core.Resource,
		Singular:    core.Singular,
		ShortNames:  core.ShortNames,
		Namespaced:  true,
		Prefix:      core.Prefix,
		ToStorage:   converter(coreEvent),
		FromStorage: converter(newEvent),
		New:         func() runtime.Object { return &eventsv1.Event{} },
		NewList:     func() runtime.Object { return &eventsv1.EventList{} },

		Validate: check(func(e *eventsv1.Event) field.ErrorList { return validateNewEvent(coreEvent(e)) }),
		ValidateUpdate: checkUpdate(func(e, old *eventsv1.Event) field.ErrorList {
			return validateNewEventUpdate(coreEvent(e), coreEvent(old))
		}),
		NoGeneration:        true,
		CreateOnUpdate:      true,
		UnconditionalUpdate: true,
		TTLSeconds:          core.TTLSeconds,
		Fields: fieldSet(func(e *eventsv1.Event) fields.Set {
			stored := eventFields(coreEvent(e))
			set := fields.Set{}
			for name, storedName := range newEventFieldNames() {
				set[name] = stored[storedName]
			}
			return set
		}),
		FieldNames: newEventFieldNames(),
		Columns:    core.Columns,
		Cells: cells(func(e *eventsv1.Event, now metav1.Time) []any {
			return eventCells(coreEvent(e), now)
		}),
	}}
}

// converter adapts ToStorage and FromStorage.
func converter[From, To runtime.Object](convert func(From) To) func(runtime.Object) (runtime.Object, error) {
	return func(obj runtime.Object) (runtime.Object, error) {
		from, ok := obj.(From)
		if !ok {
			return nil, fmt.Errorf("kinds: %T where %T belongs", obj, from)
		}
		return convert(from), nil
	}
}

// newEventFieldNames maps the field selectors of events.k8s.io/v1 to those of core events.
func newEventFieldNames() map[string]string {
	names := map[string]string{"reason": "reason", "type": "type", "reportingController": "reportingComponent"}
	for _, f := range []string{"kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"} {
		names["regarding."+f] = "involvedObject." + f
	}
	return names
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

// coreEvent converts an event to the version that is stored. The result shares what e points to.
func coreEvent(e *eventsv1.Event) *corev1.Event {
	c := &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Action:              e.Action,
		Related:             e.Related,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
	c.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	if e.Series != nil {
		c.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return c
}

// newEvent is the reverse of coreEvent.
func newEvent(c *corev1.Event) *eventsv1.Event {
	e := &eventsv1.Event{
		ObjectMeta:               c.ObjectMeta,
		EventTime:                c.EventTime,
		ReportingController:      c.ReportingController,
		ReportingInstance:        c.ReportingInstance,
		Action:                   c.Action,
		Reason:                   c.Reason,
		Regarding:                c.InvolvedObject,
		Related:                  c.Related,
		Note:                     c.Message,
		Type:                     c.Type,
		DeprecatedSource:         c.Source,
		DeprecatedFirstTimestamp: c.FirstTimestamp,
		DeprecatedLastTimestamp:  c.LastTimestamp,
		DeprecatedCount:          c.Count,
	}
	e.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	if c.Series != nil {
		e.Series = &eventsv1.EventSeries{Count: c.Series.Count, LastObservedTime: c.Series.LastObservedTime}
	}
	return e
}

func eventColumns() []metav1.TableColumnDefinition {
	doc := corev1.Event{}.SwaggerDoc()
	name := nameColumn()
	name.Priority = 1
	return []metav1.TableColumnDefinition{
		column("Last Seen", "string", doc["lastTimestamp"]),
		column("Type", "string", doc["type"]),
		column("Reason", "string", doc["reason"]),
		column("Object", "string", doc["involvedObject"]),
		wideColumn("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
		wideColumn("Source", "string", doc["source"]),
		column("Message", "string", doc["message"]),
		wideColumn("First Seen", "string", doc["firstTimestamp"]),
		wideColumn("Count", "string", doc["count"]),
		name,
	}
}

func eventCells(e *corev1.Event, now metav1.Time) []any {
	first := age(now, e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = age(now, metav1.Time(e.EventTime))
	}
	last := first
	if !e.LastTimestamp.IsZero() {
		last = age(now, e.LastTimestamp)
	}
	count := max(e.Count, 1) // single events of the new kind have none
	if e.Series != nil {
		last = age(now, metav1.Time(e.Series.LastObservedTime))
		count = e.Series.Count
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{
		last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, eventSource(e),
		strings.TrimSpace(e.Message), first, int64(count), e.Name,
	}
}

// eventSource is "component, host" as far as they are known.
func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return component + ", " + host
}
