package objects

import (
	"context"
	"log/slog"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/internal/client"
)

func TestHeldObjectsAreFollowed(t *testing.T) {
	c, err := client.Config{RestConfig: apiservertest.Start(t), Component: "test"}.Clientset()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cache := New(ctx, c, slog.New(slog.DiscardHandler))
	changes := make(chan struct{}, 100)
	cache.Hold("pod", []Key{{ConfigMap, "default", "cm"}}, func() { changes <- struct{}{} })
	if _, err := cache.ConfigMap(ctx, "default", "cm"); !apierrors.IsNotFound(err) {
		t.Errorf("absent object: %v", err)
	}
	maps := c.CoreV1().ConfigMaps("default")
	cm, err := maps.Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(5 * time.Second):
			t.Fatal("no change told")
		}
		got, err := cache.ConfigMap(ctx, "default", "cm")
		if err != nil || got.Data["k"] != want {
			t.Errorf("got %v, %v; want %s", got, err, want)
		}
	}
	expect("1")
	cm.Data["k"] = "2"
	if _, err := maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("2")
	if err := maps.Delete(ctx, "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-changes
	if _, err := cache.ConfigMap(ctx, "default", "cm"); !apierrors.IsNotFound(err) {
		t.Errorf("deleted object: %v", err)
	}
	cache.Release("pod")
	if len(cache.entries) != 0 {
		t.Error("still watched after Release")
	}
	if _, err := cache.Secret(ctx, "default", "never-held"); !apierrors.IsNotFound(err) {
		t.Errorf("object that is not held: %v", err)
	}
}
