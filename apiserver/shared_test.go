package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// TestSharedInformers follows one resource by two informers, which hold the same objects.
func TestSharedInformers(t *testing.T) {
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New()})
	kube := kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	maps := kube.CoreV1().ConfigMaps("default")
	resource := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	create := func(name string) {
		t.Helper()
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("before")
	var stores [2]cache.SharedIndexInformer
	for i := range stores {
		stores[i] = cache.NewSharedIndexInformer(s.ListWatch(apiservertest.Admin, resource), &corev1.ConfigMap{}, 0, cache.Indexers{})
		go stores[i].RunWithContext(t.Context())
		if !cache.WaitForCacheSync(t.Context().Done(), stores[i].HasSynced) {
			t.Fatal("not synced")
		}
	}
	create("after")
	if err := maps.Delete(t.Context(), "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both informers hold one object, and not the one deleted", func() bool {
		one, found, _ := stores[0].GetStore().GetByKey("default/after")
		other, _, _ := stores[1].GetStore().GetByKey("default/after")
		_, left, _ := stores[0].GetStore().GetByKey("default/before")
		return found && !left && one == other
	})
}

// TestSharedInformersAreAuthorised: the way inside the process gives nothing that the network would not.
func TestSharedInformersAreAuthorised(t *testing.T) {
	st := memory.New()
	c := apiserver.NewCache(st)
	s := apiservertest.StartServer(t, apiserver.Config{Store: st, Cache: c, Authorizer: auth.NewAuthorizer(apiserver.NewReader(c))})
	lw := cache.ToListerWatcherWithContext(s.ListWatch(&user.DefaultInfo{Name: "ann"}, schema.GroupVersionResource{Version: "v1", Resource: "secrets"}))
	if _, err := lw.ListWithContext(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list: %v", err)
	}
	if _, err := lw.WatchWithContext(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("watch: %v", err)
	}
}
