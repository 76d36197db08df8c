package controllers_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/controllers"
	"github.com/coracle-dev/coracle/internal/client"
)

// admitting is an API server with its admission chain on a store that several may share.
func admitting(t *testing.T, st store.Store) *cluster {
	t.Helper()
	c := apiserver.NewCache(st)
	s := apiservertest.StartServer(t, apiserver.Config{Store: st, Cache: c, Admission: admission.New(admission.Config{Reader: apiserver.NewReader(c), Quotas: apiserver.NewQuotaWriter(st)})})
	config, err := client.Config{RestConfig: s.LocalConfig(apiservertest.Admin), Component: "test"}.REST()
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{T: t, ctx: t.Context(), config: config, client: kubernetes.NewForConfigOrDie(config)}
}

// control runs controllers on it until the test ends.
func (c *cluster) control(names ...string) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	go func() {
		done <- controllers.Run(ctx, controllers.Config{RestConfig: c.config, Enabled: names, Log: log})
	}()
	c.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.Errorf("controllers: %v", err)
		}
	})
}

// amounts reads "cpu=1 memory=1Gi".
func amounts(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, part := range strings.Fields(text) {
		name, value, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func plainPod(name, requests string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: amounts(requests), Limits: corev1.ResourceList{}},
	}}}}
}
