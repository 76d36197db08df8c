package clients

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/disk"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"

	"github.com/coracle-dev/coracle/integration/cluster"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func toUnstructured(t *testing.T, m *corev1.ConfigMap) *unstructured.Unstructured {
	t.Helper()
	m.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	obj, err := runtime.DefaultUnstructuredConverter.ToUnstructured(m)
	must(t, err)
	return &unstructured.Unstructured{Object: obj}
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// TestClients uses client-go's own machinery as its users do.
func TestClients(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	config, err := c.REST()
	must(t, err)
	kube, err := kubernetes.NewForConfig(config)
	must(t, err)
	t.Run("Informer", func(t *testing.T) { testInformer(t, kube) })
	t.Run("Dynamic", func(t *testing.T) { testDynamic(t, config) })
	t.Run("Metadata", func(t *testing.T) { testMetadata(t, config, kube) })
	t.Run("Discovery", func(t *testing.T) { testDiscovery(t, config) })
	t.Run("LeaderElection", func(t *testing.T) { testLeaderElection(t, kube) })
	t.Run("RetryOnConflict", func(t *testing.T) { testRetryOnConflict(t, kube) })
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"tried": "yes"}}, Data: map[string]string{"n": "0"}}
}

// testInformer follows objects through a shared informer, which lists by streaming.
func testInformer(t *testing.T, kube kubernetes.Interface) {
	ctx := t.Context()
	maps := kube.CoreV1().ConfigMaps("default")
	for i := range 20 {
		_, err := maps.Create(ctx, configMap(fmt.Sprint("before-", i)), metav1.CreateOptions{})
		must(t, err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace("default"),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "tried=yes" }))
	informer := factory.Core().V1().ConfigMaps()
	var added, updated, deleted atomic.Int64
	_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { added.Add(1) }, UpdateFunc: func(any, any) { updated.Add(1) }, DeleteFunc: func(any) { deleted.Add(1) },
	})
	must(t, err)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for i := range 20 {
		name := fmt.Sprint("after-", i)
		m, err := maps.Create(ctx, configMap(name), metav1.CreateOptions{})
		must(t, err)
		m.Data["n"] = "1"
		_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
		must(t, err)
		if i%2 == 0 {
			must(t, maps.Delete(ctx, name, metav1.DeleteOptions{}))
		}
	}
	cluster.Eventually(t, 20*time.Second, func() error {
		have, err := informer.Lister().List(labels.Everything())
		if err != nil || len(have) != 30 || added.Load() != 40 || deleted.Load() != 10 {
			return fmt.Errorf("%d objects, %d added, %d updated, %d deleted, %v", len(have), added.Load(), updated.Load(), deleted.Load(), err)
		}
		return nil
	})
	must(t, maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "tried=yes"}))
	cluster.Eventually(t, 20*time.Second, func() error {
		if n := deleted.Load(); n != 40 {
			return fmt.Errorf("%d deleted", n)
		}
		return nil
	})
}

// testDynamic reads and writes objects whose types it does not know.
func testDynamic(t *testing.T, config *rest.Config) {
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	maps := client.Resource(configMaps).Namespace("default")
	ctx := t.Context()
	w, err := maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=dynamic"})
	must(t, err)
	defer w.Stop()
	obj, err := maps.Apply(ctx, "dynamic", toUnstructured(t, configMap("dynamic")), metav1.ApplyOptions{FieldManager: "tester"})
	must(t, err)
	if e := <-w.ResultChan(); e.Type != "ADDED" {
		t.Errorf("watch brought %v", e)
	}
	if m := obj.GetManagedFields(); len(m) != 1 || m[0].Manager != "tester" || m[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("managed fields %v", m)
	}
	other := toUnstructured(t, configMap("dynamic"))
	other.Object["data"] = map[string]any{"n": "7"}
	if _, err := maps.Apply(ctx, "dynamic", other, metav1.ApplyOptions{FieldManager: "other"}); !apierrors.IsConflict(err) {
		t.Errorf("a conflict is %v", err)
	}
	_, err = maps.Apply(ctx, "dynamic", other, metav1.ApplyOptions{FieldManager: "other", Force: true})
	must(t, err)
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "tried=yes"})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].GetKind() != "ConfigMap" {
		t.Errorf("list %v", list.Items)
	}
	must(t, maps.Delete(ctx, "dynamic", metav1.DeleteOptions{}))
}

// testMetadata sees only metadata.
func testMetadata(t *testing.T, config *rest.Config, kube kubernetes.Interface) {
	ctx := t.Context()
	_, err := kube.CoreV1().ConfigMaps("default").Create(ctx, configMap("partial"), metav1.CreateOptions{})
	must(t, err)
	client, err := metadata.NewForConfig(config)
	must(t, err)
	maps := client.Resource(configMaps).Namespace("default")
	m, err := maps.Get(ctx, "partial", metav1.GetOptions{})
	must(t, err)
	if m.Name != "partial" || m.Labels["tried"] != "yes" {
		t.Errorf("metadata %+v", m)
	}
	_, err = maps.Patch(ctx, "partial", types.MergePatchType, []byte(`{"metadata":{"labels":{"tried":"twice"}}}`), metav1.PatchOptions{})
	must(t, err)
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "tried=twice"})
	must(t, err)
	if len(list.Items) != 1 {
		t.Errorf("list %v", list.Items)
	}
	must(t, maps.Delete(ctx, "partial", metav1.DeleteOptions{}))
}

// testDiscovery keeps discovery on disk and maps kinds to resources.
func testDiscovery(t *testing.T, config *rest.Config) {
	client, err := disk.NewCachedDiscoveryClientForConfig(config, t.TempDir(), t.TempDir(), time.Hour)
	must(t, err)
	for range 2 {
		mapper := restmapper.NewDeferredDiscoveryRESTMapper(client)
		m, err := mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, "v1")
		must(t, err)
		if m.Resource.Resource != "statefulsets" || m.Scope.Name() != "namespace" {
			t.Errorf("mapping %+v", m)
		}
	}
	_, all, err := client.ServerGroupsAndResources()
	must(t, err)
	if len(all) < 15 {
		t.Errorf("%d group versions", len(all))
	}
	client.Invalidate()
}

// testLeaderElection has two candidates, one of which steps down.
func testLeaderElection(t *testing.T, kube kubernetes.Interface) {
	leaders := make(chan string, 2)
	candidate := func(ctx context.Context, name string) {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Name: "tester", Namespace: "default"}, Client: kube.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			},
			LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { leaders <- name }, OnStoppedLeading: func() {}},
		})
	}
	first, stop := context.WithCancel(t.Context())
	defer stop()
	go candidate(first, "first")
	if got := next(t, leaders); got != "first" {
		t.Errorf("%s leads", got)
	}
	go candidate(t.Context(), "second")
	stop()
	if got := next(t, leaders); got != "second" {
		t.Errorf("%s leads", got)
	}
}

func next(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("nobody leads")
		return ""
	}
}

// testRetryOnConflict counts up from several goroutines.
func testRetryOnConflict(t *testing.T, kube kubernetes.Interface) {
	ctx := t.Context()
	maps := kube.CoreV1().ConfigMaps("default")
	_, err := maps.Create(ctx, configMap("counter"), metav1.CreateOptions{})
	must(t, err)
	const writers, each = 4, 10
	errs := make(chan error, writers)
	backoff := retry.DefaultBackoff
	backoff.Steps = 50
	for range writers {
		go func() {
			var err error
			for range each {
				err = retry.RetryOnConflict(backoff, func() error {
					m, err := maps.Get(ctx, "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					var n int
					if _, err := fmt.Sscan(m.Data["n"], &n); err != nil {
						return err
					}
					m.Data["n"] = fmt.Sprint(n + 1)
					_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
					return err
				})
				if err != nil {
					break
				}
			}
			errs <- err
		}()
	}
	for range writers {
		must(t, <-errs)
	}
	m, err := maps.Get(ctx, "counter", metav1.GetOptions{})
	must(t, err)
	if m.Data["n"] != fmt.Sprint(writers*each) {
		t.Errorf("counted to %s", m.Data["n"])
	}
}
