package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// serviceUsage counts what is meant, for ports are not chosen yet when a request is charged.
func serviceUsage(use corev1.ResourceList, svc *corev1.Service) {
	use[corev1.ResourceServices] = one()
	ports, balancers := 0, 0
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(svc.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		ports = len(svc.Spec.Ports)
		if a := svc.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
			ports = 0
			for i := range svc.Spec.Ports {
				if svc.Spec.Ports[i].NodePort != 0 {
					ports++
				}
			}
		}
	}
	use[corev1.ResourceServicesNodePorts] = number(ports)
	use[corev1.ResourceServicesLoadBalancers] = number(balancers)
}

// perClass stands between a storage class's name and what is counted of its claims.
const perClass = ".storageclass.storage.k8s.io/"

func measuresClaim(name corev1.ResourceName) bool {
	if _, rest, ok := strings.Cut(string(name), perClass); ok {
		name = corev1.ResourceName(rest)
	}
	return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
}

func claimUsage(use corev1.ResourceList, pvc *corev1.PersistentVolumeClaim) {
	use[corev1.ResourcePersistentVolumeClaims] = one()
	class := classOf(pvc)
	if class != "" {
		use[corev1.ResourceName(class+perClass)+corev1.ResourcePersistentVolumeClaims] = one()
	}
	size, ok := pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return
	}
	if granted, ok := pvc.Status.AllocatedResources[corev1.ResourceStorage]; ok && granted.Cmp(size) > 0 {
		size = granted // a volume that grew does not shrink when less is asked for
	}
	size = size.DeepCopy()
	size.RoundUp(0)
	use[corev1.ResourceRequestsStorage] = size
	if class != "" {
		use[corev1.ResourceName(class+perClass)+corev1.ResourceRequestsStorage] = size
	}
}

// classOf reads the annotation first, which is the older way.
func classOf(pvc *corev1.PersistentVolumeClaim) string {
	if class, ok := pvc.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if pvc.Spec.StorageClassName != nil {
		return *pvc.Spec.StorageClassName
	}
	return ""
}

func claimInScope(s corev1.ScopedResourceSelectorRequirement, pvc *corev1.PersistentVolumeClaim) (bool, error) {
	if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	var names []string
	for _, name := range []*string{pvc.Spec.VolumeAttributesClassName, pvc.Status.CurrentVolumeAttributesClassName} {
		if name != nil {
			names = append(names, *name)
		}
	}
	if m := pvc.Status.ModifyVolumeStatus; m != nil {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	return selects(s, given(names...))
}
