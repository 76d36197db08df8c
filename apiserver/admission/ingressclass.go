package admission

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// legacyIngressClass is the annotation that named an Ingress's class before the field did.
const legacyIngressClass = "kubernetes.io/ingress.class"

// defaultIngressClass gives a new Ingress without class the default one.
type defaultIngressClass struct{ reader Reader }

func (defaultIngressClass) Name() string { return "DefaultIngressClass" }

func (defaultIngressClass) Validate(context.Context, *Request) error { return nil }

func (p defaultIngressClass) Mutate(ctx context.Context, r *Request) error {
	ingress, ok := r.Object.(*networkingv1.Ingress)
	if !ok || r.Operation != Create || r.Subresource != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, named := ingress.Annotations[legacyIngressClass]; named {
		return nil
	}
	classes, err := list[*networkingv1.IngressClass](ctx, p.reader, schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingressclasses"}, "")
	if err != nil {
		return r.forbid(err)
	}
	var def *networkingv1.IngressClass
	for _, c := range classes {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" && (def == nil || newer(c, def)) {
			def = c
		}
	}
	if def != nil {
		ingress.Spec.IngressClassName = ptr.To(def.Name)
	}
	return nil
}

// newer orders default classes, of which there should be one: the youngest counts, then the first by name.
func newer(a, b *networkingv1.IngressClass) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return b.CreationTimestamp.Before(&a.CreationTimestamp)
	}
	return a.Name < b.Name
}
