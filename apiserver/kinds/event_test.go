package kinds

import (
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func newStyleEvent(edit func(*corev1.Event)) *corev1.Event {
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default", ResourceVersion: "1"},
		EventTime:  metav1.NewMicroTime(now.Time), Type: "Normal", Reason: "Started", Action: "Start", Message: "hello",
		ReportingController: "example.com/c", ReportingInstance: "c-1",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"},
	}
	edit(e)
	return e
}

func TestEventValidation(t *testing.T) {
	core := kindOf(t, "", "events")
	events := kindOf(t, "events.k8s.io", "events")
	for name, c := range map[string]struct {
		edit      func(*corev1.Event)
		both, new []string // errors in both groups, and in the new one besides
	}{
		"good": {edit: func(e *corev1.Event) {}},
		"old": {
			edit: func(e *corev1.Event) {
				*e = corev1.Event{ObjectMeta: e.ObjectMeta, InvolvedObject: e.InvolvedObject, Type: "Normal", Count: 3, Source: corev1.EventSource{Component: "kubelet"}}
			},
			new: []string{"eventTime: Required value", `count: Invalid value: "": needs to be unset`, `source: Invalid value: "": needs to be unset`},
		},
		"old in another namespace": {
			edit: func(e *corev1.Event) { e.EventTime = metav1.MicroTime{}; e.InvolvedObject.Namespace = "other" },
			both: []string{`involvedObject.namespace: Invalid value: "other": does not match event.namespace`},
			new:  []string{"eventTime: Required value"},
		},
		"about nothing in a namespace": {
			edit: func(e *corev1.Event) { e.Namespace = "other"; e.InvolvedObject.Namespace = "" },
			both: []string{`involvedObject.namespace: Invalid value: "": does not match event.namespace`},
		},
		"texts": {
			edit: func(e *corev1.Event) {
				e.ReportingController, e.ReportingInstance, e.Action, e.Message, e.Type = "a b", "", strings.Repeat("x", 129), strings.Repeat("x", 1025), "Bad"
			},
			both: []string{
				`reportingController: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
				"reportingInstance: Required value",
				`action: Invalid value: "": can have at most 128 characters`,
				`message: Invalid value: "": can have at most 1024 characters`,
			},
			new: []string{`type: Invalid value: "": has invalid value: Bad`},
		},
		"series": {
			edit: func(e *corev1.Event) { e.Series = &corev1.EventSeries{Count: 1} },
			new:  []string{`series.count: Invalid value: "": should be at least 2`, "series.lastObservedTime: Required value"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newStyleEvent(c.edit)
			wantTexts(t, core.Validate(e), c.both...)
			wantTexts(t, events.Validate(newEvent(e)), append(c.new, c.both...)...)
		})
	}
	old := newStyleEvent(func(*corev1.Event) {})
	e := newStyleEvent(func(e *corev1.Event) {
		e.Series = &corev1.EventSeries{Count: 2, LastObservedTime: e.EventTime}
	})
	wantTexts(t, events.ValidateUpdate(newEvent(e), newEvent(old)))
	e.Reason, e.Message = "Other", "bye"
	wantTexts(t, events.ValidateUpdate(newEvent(e), newEvent(old)),
		`reason: Invalid value: "Other": field is immutable`, `message: Invalid value: "bye": field is immutable`)
	wantTexts(t, core.ValidateUpdate(e, old))
}

func TestEventCells(t *testing.T) {
	k := kindOf(t, "", "events")
	ago := func(minutes time.Duration) metav1.Time { return metav1.NewTime(now.Add(-minutes * time.Minute)) }
	for want, e := range map[string]*corev1.Event{
		"5m|Warning|Failed|pod/web|spec.containers{c}|kubelet, n1|oops|20m|3|e": {
			FirstTimestamp: ago(20), LastTimestamp: ago(5), Type: "Warning", Reason: "Failed", Message: " oops\n", Count: 3,
			Source:         corev1.EventSource{Component: "kubelet", Host: "n1"},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web", FieldPath: "spec.containers{c}"},
		},
		"7m|Normal|Ran|node||c, c-1||7m|1|e": {
			EventTime: metav1.MicroTime(ago(7)), Type: "Normal", Reason: "Ran", ReportingController: "c", ReportingInstance: "c-1",
			InvolvedObject: corev1.ObjectReference{Kind: "Node"},
		},
		"2m|||||||9m|4|e": {
			EventTime: metav1.MicroTime(ago(9)), Series: &corev1.EventSeries{Count: 4, LastObservedTime: metav1.MicroTime(ago(2))},
		},
	} {
		e.Name = "e"
		if have := rowText(k.Cells(e, now)); have != want {
			t.Errorf("have %s\nwant %s", have, want)
		}
		n := kindOf(t, "events.k8s.io", "events")
		if have := rowText(n.Cells(newEvent(e), now)); have != want {
			t.Errorf("have %s\nwant %s", have, want)
		}
	}
}

func TestEventFields(t *testing.T) {
	e := newStyleEvent(func(e *corev1.Event) {})
	if f := kindOf(t, "", "events").Fields(e); f["involvedObject.name"] != "web" || f["source"] != "example.com/c" || f["reportingComponent"] != "example.com/c" {
		t.Error(f)
	}
	if f := kindOf(t, "events.k8s.io", "events").Fields(newEvent(e)); f["regarding.name"] != "web" || f["reportingController"] != "example.com/c" || f["type"] != "Normal" {
		t.Error(f)
	}
}

func TestLease(t *testing.T) {
	k := kindOf(t, "coordination.k8s.io", "leases")
	l := &coordinationv1.Lease{ObjectMeta: configMeta, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: ptr("n1"), LeaseDurationSeconds: ptr(int32(0)), LeaseTransitions: ptr(int32(-1)),
		Strategy: ptr(coordinationv1.OldestEmulationVersion), PreferredHolder: ptr("n2"),
	}}
	wantTexts(t, k.Validate(l),
		"spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
		"spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0")
	l.Spec = coordinationv1.LeaseSpec{PreferredHolder: ptr("n2")}
	wantTexts(t, k.Validate(l), "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined")
	l.Spec.Strategy = ptr(coordinationv1.CoordinatedLeaseStrategy("Mine"))
	wantTexts(t, k.Validate(l), `spec.strategy.strategy: Unsupported value: "Mine": supported values: "OldestEmulationVersion"`)
	k.PrepareCreate(l)
	if l.Spec.Strategy != nil || l.Spec.PreferredHolder != nil {
		t.Errorf("created: %+v", l.Spec)
	}
	l.Spec.HolderIdentity = ptr("n1")
	if have := rowText(k.Cells(l, now)); have != "c|n1|<unknown>" {
		t.Error(have)
	}
}

func TestPriorityClass(t *testing.T) {
	k := kindOf(t, "scheduling.k8s.io", "priorityclasses")
	for _, pc := range SystemPriorityClasses() {
		wantTexts(t, k.Validate(pc))
	}
	class := func(name string, value int32) *schedulingv1.PriorityClass {
		pc := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"}, Value: value}
		k.Default(pc)
		return pc
	}
	wantTexts(t, k.Validate(class("high", 1000000000)))
	wantTexts(t, k.Validate(class("high", 1000000001)), "value: Forbidden: maximum allowed value of a user defined priority is 1000000000")
	wantTexts(t, k.Validate(class("system-mine", 1)),
		"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class")
	wantTexts(t, k.Validate(class("system-node-critical", 1)),
		"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000")
	changed := class("high", 2)
	changed.PreemptionPolicy = ptr(corev1.PreemptNever)
	wantTexts(t, k.ValidateUpdate(changed, class("high", 1)),
		"value: Forbidden: may not be changed in an update.", `preemptionPolicy: Invalid value: "Never": field is immutable`)
	changed.PreemptionPolicy = ptr(corev1.PreemptionPolicy("Often"))
	wantTexts(t, k.Validate(changed), `preemptionPolicy: Unsupported value: "Often": supported values: "PreemptLowerPriority", "Never"`)
	if have := rowText(k.Cells(class("high", 7), now)); have != "high|7|false|<unknown>|PreemptLowerPriority" {
		t.Error(have)
	}
}
