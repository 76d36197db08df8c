package apiserver_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// lifetimes notes how long keys are to live.
type lifetimes struct {
	store.Store
	mu   sync.Mutex
	last map[string]time.Duration
}

func (l *lifetimes) note(key string, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[key] = ttl
}

func (l *lifetimes) Create(ctx context.Context, key string, value []byte, opts store.CreateOptions) (int64, error) {
	l.note(key, opts.TTL)
	return l.Store.Create(ctx, key, value, opts)
}

func (l *lifetimes) Update(ctx context.Context, key string, value []byte, expected int64) (int64, error) {
	l.note(key, store.TTLOf(ctx))
	return l.Store.Update(ctx, key, value, expected)
}

func (l *lifetimes) of(key string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[store.Root+key]
}

// TestEventsOfBothGroups: one event is read, counted and refused alike by the names of both groups, and lives an hour from
// its last change.
func TestEventsOfBothGroups(t *testing.T) {
	ctx := t.Context()
	st := &lifetimes{Store: memory.New(), last: map[string]time.Duration{}}
	s := apiservertest.StartServer(t, apiserver.Config{Store: st})
	client := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	old, young := client.CoreV1().Events("default"), client.EventsV1().Events("default")
	about := corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "default", Name: "p", UID: "u"}
	first := metav1.NewTime(time.Unix(1e9, 0).UTC())

	_, err := old.Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "old"}, InvolvedObject: about, Reason: "Pulled", Message: "m", Type: "Normal",
		Source: corev1.EventSource{Component: "kubelet", Host: "n"}, FirstTimestamp: first, LastTimestamp: first, Count: 1}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ttl := st.of("events/default/old"); ttl != time.Hour {
		t.Errorf("lives %v", ttl)
	}
	if _, err := old.Patch(ctx, "old", types.StrategicMergePatchType, []byte(`{"count":7,"lastTimestamp":"2001-09-09T02:00:00Z"}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if ttl := st.of("events/default/old"); ttl != time.Hour {
		t.Errorf("lives %v after a change", ttl)
	}
	seen, err := young.Get(ctx, "old", metav1.GetOptions{})
	if err != nil || seen.DeprecatedCount != 7 || seen.Note != "m" || seen.Regarding != about || seen.DeprecatedSource.Component != "kubelet" || !seen.DeprecatedFirstTimestamp.Equal(&first) {
		t.Errorf("%+v, %v", seen, err)
	}

	at := metav1.NewMicroTime(time.Unix(1e9, 5000).UTC())
	made, err := young.Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "young"}, EventTime: at, ReportingController: "example.com/c", ReportingInstance: "c-1",
		Action: "Binding", Reason: "Scheduled", Regarding: about, Note: "n", Type: "Normal"}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = young.Patch(ctx, "young", types.StrategicMergePatchType, []byte(`{"series":{"count":1,"lastObservedTime":"2001-09-09T02:00:00.000001Z"}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "series.count: Invalid value: \"\": should be at least 2") {
		t.Errorf("%v", err)
	}
	if _, err = young.Patch(ctx, "young", types.StrategicMergePatchType, []byte(`{"series":{"count":3,"lastObservedTime":"2001-09-09T02:00:00.000001Z"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	as, err := old.Get(ctx, "young", metav1.GetOptions{})
	if err != nil || as.Series == nil || as.Series.Count != 3 || as.Message != "n" || as.InvolvedObject != about || !as.EventTime.Equal(&at) || as.ReportingController != "example.com/c" {
		t.Errorf("%+v, %v", as, err)
	}
	made.Note = "another"
	made.ResourceVersion = ""
	if _, err = young.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "message: Invalid value: \"another\": field is immutable") {
		t.Errorf("%v", err)
	}

	for _, selector := range []string{"reason=Scheduled", "regarding.name=p,reportingController=example.com/c"} {
		if l, err := young.List(ctx, metav1.ListOptions{FieldSelector: selector}); err != nil || len(l.Items) != 1 || l.Items[0].Name != "young" {
			t.Errorf("%s: %+v, %v", selector, l, err)
		}
	}
	if err := young.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if l, err := old.List(ctx, metav1.ListOptions{}); err != nil || len(l.Items) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
}
