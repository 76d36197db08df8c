package apiserver_test

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// TestIngressClass: the class is there when the server is ready, as the default one unless another is; what is made of it stays.
func TestIngressClass(t *testing.T) {
	const isDefault = networkingv1.AnnotationIsDefaultIngressClass
	st := memory.New()
	start := func(on bool) kubernetes.Interface {
		t.Helper()
		return kubernetes.NewForConfigOrDie(apiservertest.StartServer(t, apiserver.Config{Store: st, IngressClass: on}).LocalConfig(apiservertest.Admin))
	}
	classes := start(false).NetworkingV1().IngressClasses()
	if all, err := classes.List(t.Context(), metav1.ListOptions{}); err != nil || len(all.Items) != 0 {
		t.Fatalf("without: %v, %v", all.Items, err)
	}
	classes = start(true).NetworkingV1().IngressClasses()
	have, err := classes.Get(t.Context(), "coracle", metav1.GetOptions{})
	if err != nil || have.Spec.Controller != "coracle.dev/ingress" || have.Annotations[isDefault] != "true" {
		t.Fatalf("%+v, %v", have, err)
	}
	have.Annotations = nil
	if _, err := classes.Update(t.Context(), have, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	classes = start(true).NetworkingV1().IngressClasses()
	if have, err = classes.Get(t.Context(), "coracle", metav1.GetOptions{}); err != nil || have.Annotations[isDefault] != "" {
		t.Fatalf("made the default one again: %+v, %v", have, err)
	}
	if err := classes.Delete(t.Context(), "coracle", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	other := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "other", Annotations: map[string]string{isDefault: "true"}}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/other"}}
	if _, err := classes.Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if have, err = start(true).NetworkingV1().IngressClasses().Get(t.Context(), "coracle", metav1.GetOptions{}); err != nil || have.Annotations[isDefault] != "" {
		t.Fatalf("beside another default: %+v, %v", have, err)
	}
}
