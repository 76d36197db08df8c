package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

// defaultServiceCIDR is the ServiceCIDR that shows the configured range.
const defaultServiceCIDR = "kubernetes"

// keepServiceCIDR keeps that object, as far as it is served.
func (s *Server) keepServiceCIDR(ctx context.Context, client kubernetes.Interface) error {
	if !s.cfg.ServiceCIDR.IsValid() || !s.rest.Serves(networkingv1.SchemeGroupVersion.WithResource("servicecidrs")) {
		return nil
	}
	cidrs := client.NetworkingV1().ServiceCIDRs()
	have, err := cidrs.Get(ctx, defaultServiceCIDR, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		have, err = cidrs.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: defaultServiceCIDR},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{s.cfg.ServiceCIDR.Masked().String()}},
		}, metav1.CreateOptions{})
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil || len(have.Status.Conditions) > 0 || have.DeletionTimestamp != nil {
		return err
	}
	have = have.DeepCopy()
	meta.SetStatusCondition(&have.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready"})
	_, err = cidrs.UpdateStatus(ctx, have, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // the controller was faster
	}
	return err
}

// Reporter gives what tells of repairs: it writes warnings about objects, as the named controller's. An event that cannot
// be written is dropped.
func (s *Server) Reporter(ctx context.Context, controller, action string) (func(about runtime.Object, reason, note string), error) {
	client, err := kubernetes.NewForConfig(s.LocalConfig(self))
	if err != nil {
		return nil, err
	}
	return func(about runtime.Object, reason, note string) {
		m, err := meta.Accessor(about)
		if err != nil {
			return
		}
		gvk := about.GetObjectKind().GroupVersionKind()
		namespace := m.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		event := &eventsv1.Event{
			ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, GenerateName: m.GetName() + "."},
			EventTime:           metav1.NowMicro(),
			ReportingController: controller, ReportingInstance: controller,
			Action: action, Reason: reason, Note: note, Type: corev1.EventTypeWarning,
			Regarding: corev1.ObjectReference{Kind: gvk.Kind, APIVersion: gvk.GroupVersion().String(), Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID()},
		}
		if _, err := client.EventsV1().Events(namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
			s.log.Debug("event not written", "reason", reason, "about", m.GetName(), "error", err)
		}
	}, nil
}
