package apiserver

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// keepIngressClass makes the class of Ingresses that nodes serve, where it is missing. It is the default one unless another is; what is changed
// of it later stays.
func (s *Server) keepIngressClass(ctx context.Context, client kubernetes.Interface) error {
	if !s.cfg.IngressClass {
		return nil
	}
	classes := client.NetworkingV1().IngressClasses()
	all, err := classes.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: ingress.ClassName}, Spec: networkingv1.IngressClassSpec{Controller: ingress.Controller}}
	class.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	for i := range all.Items {
		if all.Items[i].Name == ingress.ClassName {
			return nil
		}
		if all.Items[i].Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			class.Annotations = nil
		}
	}
	if _, err = classes.Create(ctx, class, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
