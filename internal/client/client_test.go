package client

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/internal/version"
)

func TestRESTDefaults(t *testing.T) {
	in := &rest.Config{Host: "https://x", QPS: 5}
	cfg, err := Config{RestConfig: in, Component: "scheduler"}.REST()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.UserAgent != "coracle-scheduler/"+version.Version || cfg.QPS != -1 || !strings.Contains(cfg.ContentType, "protobuf") {
		t.Errorf("%+v", cfg)
	}
	if in.QPS != 5 || in.UserAgent != "" {
		t.Error("the caller's configuration was changed")
	}
	if _, err := (Config{}).REST(); err == nil {
		t.Error("no way in and no error")
	}
	if _, err := (Config{Kubeconfig: "/nowhere"}).REST(); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("err = %v", err)
	}
}

func TestDropManagedFieldsLeavesTheOriginal(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}}
	out, err := DropManagedFields(pod)
	if err != nil || out.(*corev1.Pod).ManagedFields != nil || out.(*corev1.Pod).Name != "a" {
		t.Errorf("%v, %v", out, err)
	}
	if len(pod.ManagedFields) != 1 {
		t.Error("the original was changed")
	}
	bare := &corev1.Pod{}
	if out, _ := DropManagedFields(bare); out != any(bare) {
		t.Error("an object without managedFields was copied")
	}
	tomb := cache.DeletedFinalStateUnknown{Key: "k"}
	if out, err := DropManagedFields(tomb); err != nil || out != any(tomb) {
		t.Errorf("tombstone: %v, %v", out, err)
	}
}
