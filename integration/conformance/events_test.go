package conformance

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var eventTests = map[string]func(*env){
	"core events live and are found":  coreEvents,
	"newer events live and are found": newerEvents,
	"one event has two faces":         eventFaces,
	"a collection is deleted":         eventCollection,
}

func (e *env) coreEvent(name string) *corev1.Event {
	e.Helper()
	ev, err := e.kube.CoreV1().Events(e.ns).Create(e.ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: name, Labels: map[string]string{"set": e.ns}},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: e.ns},
		Message:        "first", Reason: "Tried", Type: corev1.EventTypeNormal, Source: corev1.EventSource{Component: "tester"},
		FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(), Count: 1,
	}, metav1.CreateOptions{})
	e.must(err)
	return ev
}

func coreEvents(e *env) {
	events := e.kube.CoreV1().Events(e.ns)
	e.coreEvent("one")
	all, err := e.kube.CoreV1().Events("").List(e.ctx, metav1.ListOptions{LabelSelector: "set=" + e.ns})
	e.must(err)
	equal(e, "events of all namespaces", len(all.Items), 1)
	ev, err := events.Patch(e.ctx, "one", types.StrategicMergePatchType, []byte(`{"message":"second"}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "message", ev.Message, "second")
	ev.Series = &corev1.EventSeries{Count: 100, LastObservedTime: metav1.MicroTime{Time: time.Unix(1505828956, 0)}}
	ev, err = events.Update(e.ctx, ev, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "series", ev.Series.Count, int32(100))
	found, err := events.List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Tried,type=Normal"})
	e.must(err)
	equal(e, "found by fields", len(found.Items), 1)
	e.must(events.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	found, err = events.List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "left", len(found.Items), 0)
}

func (e *env) newerEvent(name string) *eventsv1.Event {
	e.Helper()
	ev, err := e.kube.EventsV1().Events(e.ns).Create(e.ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"set": e.ns}},
		EventTime:  metav1.NowMicro(), ReportingController: "example.org/tester", ReportingInstance: "one",
		Action: "Do", Reason: "Tried", Type: "Normal", Note: "first", Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: e.ns},
	}, metav1.CreateOptions{})
	e.must(err)
	return ev
}

func newerEvents(e *env) {
	events := e.kube.EventsV1().Events(e.ns)
	e.newerEvent("one")
	ev, err := events.Patch(e.ctx, "one", types.StrategicMergePatchType, []byte(`{"series":{"count":2,"lastObservedTime":"2026-01-02T03:04:05.000001Z"}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "series", ev.Series.Count, int32(2))
	ev.Series.Count = 3
	ev, err = events.Update(e.ctx, ev, metav1.UpdateOptions{})
	e.must(err)
	equal(e, "series", ev.Series.Count, int32(3))
	found, err := events.List(e.ctx, metav1.ListOptions{FieldSelector: "reportingController=example.org/tester"})
	e.must(err)
	equal(e, "found by fields", len(found.Items), 1)
	ev.Note = "other"
	ev.Reason = "Else"
	_, err = events.Update(e.ctx, ev, metav1.UpdateOptions{})
	e.refused(err, "reason")
	e.must(events.Delete(e.ctx, "one", metav1.DeleteOptions{}))
}

func eventFaces(e *env) {
	e.newerEvent("one")
	ev, err := e.kube.CoreV1().Events(e.ns).Get(e.ctx, "one", metav1.GetOptions{})
	e.must(err)
	equal(e, "note", ev.Message, "first")
	equal(e, "regarding", ev.InvolvedObject.Name, "p")
	e.coreEvent("two")
	other, err := e.kube.EventsV1().Events(e.ns).Get(e.ctx, "two", metav1.GetOptions{})
	e.must(err)
	equal(e, "message", other.Note, "first")
	equal(e, "source", other.DeprecatedSource.Component, "tester")
}

func eventCollection(e *env) {
	for _, name := range []string{"one", "two", "three"} {
		e.coreEvent(name)
		e.newerEvent("new-" + name)
	}
	selector := metav1.ListOptions{LabelSelector: "set=" + e.ns}
	l, err := e.kube.EventsV1().Events(e.ns).List(e.ctx, selector)
	e.must(err)
	equal(e, "events", len(l.Items), 6)
	e.must(e.kube.EventsV1().Events(e.ns).DeleteCollection(e.ctx, metav1.DeleteOptions{}, selector))
	l, err = e.kube.EventsV1().Events(e.ns).List(e.ctx, selector)
	e.must(err)
	equal(e, "left", len(l.Items), 0)
}
