package apiserver

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/internal/volumes"
)

// keepEvery is how often the objects that the server keeps are looked at.
const keepEvery = time.Minute

// self is the server's own identity.
var self = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}

// keep creates the objects that every cluster has, and creates them again where they were deleted.
func (s *Server) keep(ctx context.Context) error {
	if err := s.cache.WaitReady(ctx); err != nil {
		return nil // ctx has ended
	}
	client, err := kubernetes.NewForConfig(s.LocalConfig(self))
	if err != nil {
		return err
	}
	wait := 100 * time.Millisecond
	for {
		if err := s.keepOnce(ctx, client); err != nil {
			s.log.Warn("cannot keep the cluster's own objects", "error", err)
			wait = min(2*wait, keepEvery)
		} else {
			if !s.health.isBooted() {
				close(s.health.booted)
			}
			wait = keepEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (s *Server) keepOnce(ctx context.Context, client kubernetes.Interface) error {
	if err := s.beginStorage(ctx, client); err != nil {
		return fmt.Errorf("storage class: %w", err)
	}
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
		if apierrors.IsNotFound(err) {
			_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if err := s.access.keep(ctx, client); err != nil {
		return fmt.Errorf("default roles: %w", err)
	}
	if err := s.flows.keep(ctx, client.FlowcontrolV1()); err != nil {
		return fmt.Errorf("flow control: %w", err)
	}
	for _, class := range priorityClasses() {
		_, err := client.SchedulingV1().PriorityClasses().Get(ctx, class.Name, metav1.GetOptions{ResourceVersion: "0"})
		if apierrors.IsNotFound(err) {
			_, err = client.SchedulingV1().PriorityClasses().Create(ctx, &class, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if err := s.keepIngressClass(ctx, client); err != nil {
		return fmt.Errorf("ingress class: %w", err)
	}
	if err := s.external.Register(ctx); err != nil {
		return fmt.Errorf("APIServices: %w", err)
	}
	if err := keepConfigMap(ctx, client, auth.AuthenticationConfigMap, s.cfg.Authentication); err != nil {
		return err
	}
	if err := keepConfigMap(ctx, client, auth.ClusterConfigMap, s.cfg.Cluster); err != nil {
		return err
	}
	if err := s.keepClusterInfo(ctx, client); err != nil {
		return err
	}
	if err := s.keepService(ctx, client); err != nil {
		return err
	}
	return s.keepDNSService(ctx, client)
}

// priorityClasses are those for parts of the cluster itself.
func priorityClasses() []schedulingv1.PriorityClass {
	return []schedulingv1.PriorityClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       2000001000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}

// beginStorage gives a new cluster its storage class. It is new as long as it has no namespaces, so that the class comes before them, once.
func (s *Server) beginStorage(ctx context.Context, client kubernetes.Interface) error {
	if !s.cfg.LocalStorage {
		return nil
	}
	_, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{ResourceVersion: "0"})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: volumes.LocalClass, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: volumes.LocalProvisioner, ReclaimPolicy: new(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: new(true),
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// keepClusterInfo publishes how the cluster is found. What stands there is changed once, when the server has started: of two servers that
// are found in different ways neither takes away what the other wrote. Keys that others add stay.
func (s *Server) keepClusterInfo(ctx context.Context, client kubernetes.Interface) error {
	if s.cfg.ClusterInfo == "" {
		return nil
	}
	const name, key = "cluster-info", "kubeconfig"
	maps := client.CoreV1().ConfigMaps(metav1.NamespacePublic)
	have, err := maps.Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	switch {
	case apierrors.IsNotFound(err):
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{key: s.cfg.ClusterInfo}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
	case err == nil && !s.told && have.Data[key] != s.cfg.ClusterInfo:
		if have.Data == nil {
			have.Data = map[string]string{}
		}
		have.Data[key] = s.cfg.ClusterInfo
		_, err = maps.Update(ctx, have, metav1.UpdateOptions{})
	}
	s.told = s.told || err == nil
	return err
}

// keepConfigMap keeps these keys of a ConfigMap of kube-system. Keys that others add stay.
func keepConfigMap(ctx context.Context, client kubernetes.Interface, name string, data map[string]string) error {
	if data == nil {
		return nil
	}
	all := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := all.Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	changed := false
	for key, value := range data {
		if have.Data[key] == value {
			continue
		}
		if have.Data == nil {
			have.Data = map[string]string{}
		}
		have.Data[key], changed = value, true
	}
	if !changed {
		return nil
	}
	_, err = all.Update(ctx, have, metav1.UpdateOptions{})
	return err
}
