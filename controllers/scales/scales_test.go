package scales

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/internal/clock"
)

// server knows boats, which have a scale, and rafts, which have none, once they are defined.
func server(t *testing.T) (cfg *rest.Config, defined *atomic.Bool, asked *atomic.Int32) {
	defined, asked = &atomic.Bool{}, &atomic.Int32{}
	const versions = `"versions":[{"groupVersion":"example.com/v1","version":"v1"}],"preferredVersion":{"groupVersion":"example.com/v1","version":"v1"}`
	answers := map[string]string{
		"/api":  `{"kind":"APIVersions","versions":[]}`,
		"/apis": `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"example.com",` + versions + `}]}`,
		"/apis/example.com/v1": `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"example.com/v1","resources":[
			{"name":"boats","singularName":"boat","namespaced":true,"kind":"Boat","verbs":["get"]},
			{"name":"boats/scale","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","update"]},
			{"name":"rafts","singularName":"raft","namespaced":true,"kind":"Raft","verbs":["get"]}]}`,
		"/apis/example.com/v1/namespaces/ns/boats/one/scale": `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"one","namespace":"ns","uid":"u1"},"spec":{"replicas":3}}`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, ok := answers[r.URL.Path]
		if r.URL.Path == "/apis" && !defined.Load() {
			body = `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`
		}
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not found","reason":"NotFound","code":404}`
		}
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return &rest.Config{Host: s.URL}, defined, asked
}

func TestKindsAreLookedForAgain(t *testing.T) {
	cfg, defined, asked := server(t)
	manual := clock.NewManual(time.Unix(1000, 0))
	c, err := New(cfg, manual)
	if err != nil || asked.Load() != 0 {
		t.Fatal("asked before it was used", err)
	}
	boats := schema.GroupKind{Group: "example.com", Kind: "Boat"}
	look := func() error {
		_, _, err := c.Get(context.Background(), boats, "ns", "one")
		return err
	}
	if err := look(); !meta.IsNoMatchError(err) {
		t.Fatal(err)
	}
	defined.Store(true)
	before := asked.Load()
	if err := look(); !meta.IsNoMatchError(err) || asked.Load() != before {
		t.Fatal("looked again at once", err)
	}
	manual.Advance(lookAgain)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	s, gr, err := c.Get(context.Background(), boats, "ns", "one")
	if err != nil || s.Spec.Replicas != 3 || gr.String() != "boats.example.com" {
		t.Fatal(s, gr, err)
	}
}

func TestOwners(t *testing.T) {
	cfg, defined, _ := server(t)
	defined.Store(true)
	c, err := New(cfg, clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	ref := func(kind, name string, uid types.UID) *metav1.OwnerReference {
		return &metav1.OwnerReference{APIVersion: "example.com/v1", Kind: kind, Name: name, UID: uid}
	}
	s, err := c.Owner(context.Background(), "ns", ref("Boat", "one", "u1"))
	if err != nil || s == nil || s.Spec.Replicas != 3 {
		t.Fatal(s, err)
	}
	if s, err := c.Owner(context.Background(), "ns", ref("Boat", "one", "u2")); err != nil || s != nil {
		t.Fatal("a namesake", s, err)
	}
	if s, err := c.Owner(context.Background(), "ns", ref("Boat", "two", "u1")); err != nil || s != nil {
		t.Fatal("one that is gone", s, err)
	}
	var none *NoScaleError
	if _, err := c.Owner(context.Background(), "ns", ref("Raft", "one", "u1")); !errors.As(err, &none) || err.Error() != "rafts.example.com does not implement the scale subresource" {
		t.Fatal(err)
	}
	if _, err := c.Owner(context.Background(), "ns", ref("Ship", "one", "u1")); !meta.IsNoMatchError(err) {
		t.Fatal(err)
	}
}
