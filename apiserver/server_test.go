package apiserver_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/etcd"
)

func client(t *testing.T) (context.Context, *kubernetes.Clientset) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx, kubernetes.NewForConfigOrDie(apiservertest.Start(t))
}

func TestClientRoundTrip(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		ctx, c := client(t)
		roundTrip(ctx, t, c)
	})
	t.Run("etcd", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		t.Cleanup(cancel)
		s := apiservertest.StartServer(t, apiserver.Config{Store: openEtcd(t, t.TempDir())})
		roundTrip(ctx, t, kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin)))
	})
}

func openEtcd(t *testing.T, dir string) *etcd.Engine {
	t.Helper()
	engine, err := etcd.OpenEmbedded(context.Background(), etcd.EmbeddedConfig{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	return engine
}

// TestRestart: what was written is there after a restart, under the same version, and a watch goes on where it was.
func TestRestart(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	var before *corev1.ConfigMap
	t.Run("before", func(t *testing.T) {
		s := apiservertest.StartServer(t, apiserver.Config{Store: openEtcd(t, dir)})
		c := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
		var err error
		before, err = c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	})
	s := apiservertest.StartServer(t, apiserver.Config{Store: openEtcd(t, dir)})
	c := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	after, err := c.CoreV1().ConfigMaps("default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil || after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("%+v %v, was %+v", after.ObjectMeta, err, before.ObjectMeta)
	}
	w, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := c.CoreV1().ConfigMaps("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e := <-w.ResultChan()
	if e.Type == watch.Error { // the history before the restart is not kept: the client lists again
		if !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
			t.Errorf("%+v", e)
		}
	} else if e.Type != watch.Deleted {
		t.Errorf("%+v", e)
	}
}

func roundTrip(ctx context.Context, t *testing.T, c *kubernetes.Clientset) {
	maps := c.CoreV1().ConfigMaps("default")
	w, err := maps.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "a-"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() || len(created.Name) != 7 {
		t.Errorf("created %+v", created.ObjectMeta)
	}
	created.Data["k"] = "w"
	updated, err := maps.Update(ctx, created, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Update(ctx, created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	patched, err := maps.Patch(ctx, created.Name, types.StrategicMergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if patched.Data["k"] != "w" || patched.Data["x"] != "y" || patched.ResourceVersion == updated.ResourceVersion {
		t.Errorf("patched %+v", patched)
	}
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Data["x"] != "y" {
		t.Fatalf("list %v %v", list, err)
	}
	if err := maps.Delete(ctx, created.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, created.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete: %v", err)
	}
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Deleted} {
		select {
		case e := <-w.ResultChan():
			if e.Type != want {
				t.Fatalf("event %s, want %s: %+v", e.Type, want, e.Object)
			}
		case <-ctx.Done():
			t.Fatalf("no %s event", want)
		}
	}
}

func TestInformer(t *testing.T) {
	ctx, c := client(t)
	f := informers.NewSharedInformerFactory(c, 0)
	lister := f.Core().V1().Namespaces().Lister()
	f.Core().V1().Pods().Informer()
	f.Start(ctx.Done())
	for typ, ok := range f.WaitForCacheSync(ctx.Done()) {
		if !ok {
			t.Fatalf("%v not synced", typ)
		}
	}
	if _, err := lister.Get("kube-system"); err != nil {
		t.Error(err)
	}
}

func TestDiscovery(t *testing.T) {
	_, c := client(t)
	v, err := c.Discovery().ServerVersion()
	if err != nil || v.Minor != "37" {
		t.Fatalf("version %v %v", v, err)
	}
	_, lists, err := c.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			found[l.GroupVersion+"/"+r.Name] = true
		}
	}
	for _, want := range []string{"v1/pods", "v1/pods/status", "v1/configmaps", "coordination.k8s.io/v1/leases"} {
		if !found[want] {
			t.Errorf("discovery lacks %s", want)
		}
	}
}
