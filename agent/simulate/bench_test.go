package simulate

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
)

// BenchmarkPods takes 2,000 pods from their binding to Running and away again, with the API server in the same process.
func BenchmarkPods(b *testing.B) {
	config := apiservertest.Start(b)
	kube := kubernetes.NewForConfigOrDie(config)
	ctx, cancel := context.WithCancel(b.Context())
	done, registered := make(chan error, 1), make(chan struct{})
	go func() {
		done <- Run(ctx, Config{RestConfig: config, Nodes: 100, PodCIDR: netip.MustParsePrefix(DefaultPodCIDR), Log: slog.New(slog.DiscardHandler), Registered: func() { close(registered) }})
	}()
	<-registered
	const pods = 2000
	await := func(selector string, want int) {
		for {
			l, err := kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: selector})
			if err != nil {
				b.Fatal(err)
			}
			if len(l.Items) == want {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	for b.Loop() {
		for i := range pods {
			_, err := kube.CoreV1().Pods("default").Create(ctx, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i)}, Spec: v1.PodSpec{
				NodeName: fmt.Sprintf("sim-%d", i%100), Containers: []v1.Container{{Name: "c", Image: "registry.example/app:1"}}}}, metav1.CreateOptions{})
			if err != nil {
				b.Fatal(err)
			}
		}
		await("status.phase=Running", pods)
		if err := kube.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			b.Fatal(err)
		}
		await("", 0)
	}
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
