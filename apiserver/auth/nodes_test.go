package auth

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

// storageWorld has a pod on n1 with volumes of several kinds, and a mirror pod that n1 has made up.
func storageWorld() objects {
	volume := func(name, claimNamespace, claim string, csi *corev1.CSIPersistentVolumeSource) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: named1("", name, name), Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: claimNamespace, Name: claim}, PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: csi},
		}}
	}
	mirror := &corev1.Pod{ObjectMeta: named1("ns", "mirror", "m"), Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "boss",
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "made-up"}}}}}}
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	local := func(node string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "local-" + node, Labels: map[string]string{"coracle.dev/local-volume-of": node},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "coracle.dev/local"}},
			Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/v"}}}}
	}
	return objects{
		"pods": {mirror, &corev1.Pod{ObjectMeta: named1("ns", "db", "p"), Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa",
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
				{Name: "inline", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: "inline"}}}},
			},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("gpu")}},
		}, Status: corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "made", ResourceClaimName: ptr.To("db-made-x")}}}}},
		"persistentvolumes": {
			local("n1"), local("n2"),
			volume("pv", "ns", "data", &corev1.CSIPersistentVolumeSource{NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "stage"}}),
			volume("other", "ns", "unused", &corev1.CSIPersistentVolumeSource{NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "other"}}),
		},
		"volumeattachments": {
			&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}},
			&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n2"}},
		},
		"resourceslices": {
			&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: resourcev1.ResourceSliceSpec{NodeName: ptr.To("n1")}},
			&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: resourcev1.ResourceSliceSpec{AllNodes: ptr.To(true)}},
		},
	}
}

func TestNodeGraph(t *testing.T) {
	z := newTestAuthorizer(storageWorld())
	node := person("system:node:n1", "system:nodes", "system:authenticated")
	const none = "no relationship found between node 'n1' and this object"
	for question, want := range map[string]string{
		"get :persistentvolumeclaims ns=ns name=data":                           "",
		"get :persistentvolumeclaims ns=ns name=db-scratch":                     "",
		"get :persistentvolumeclaims ns=ns name=unused":                         none,
		"list :persistentvolumeclaims ns=ns":                                    "can only get individual resources of this type",
		"patch :persistentvolumeclaims/status ns=ns name=data":                  "",
		"update :persistentvolumeclaims/status ns=ns name=unused":               none,
		"update :persistentvolumeclaims ns=ns name=data":                        "can only get individual resources of this type",
		"get :persistentvolumes name=pv":                                        "",
		"get :persistentvolumes name=other":                                     none,
		"get :persistentvolumes name=absent":                                    none,
		"list :persistentvolumes":                                               "can only get individual resources of this type",
		"list :persistentvolumes label=coracle.dev/local-volume-of=n1":          "",
		"watch :persistentvolumes label=coracle.dev/local-volume-of=n1":         "",
		"watch :persistentvolumes label=coracle.dev/local-volume-of=n2":         "can only get individual resources of this type",
		"list :persistentvolumes label=coracle.dev/local-volume-of!=n1":         "can only get individual resources of this type",
		"patch :persistentvolumes name=local-n1":                                "",
		"patch :persistentvolumes name=local-n2":                                "-",
		"patch :persistentvolumes name=pv":                                      "-",
		"patch :persistentvolumes name=absent":                                  "-",
		"patch :persistentvolumes/status name=local-n1":                         "can only get individual resources of this type",
		"update :persistentvolumes name=local-n1":                               "can only get individual resources of this type",
		"delete :persistentvolumes name=local-n1":                               "can only get individual resources of this type",
		"create :persistentvolumes":                                             "can only get individual resources of this type",
		"get :secrets ns=storage name=stage":                                    "",
		"get :secrets ns=storage name=other":                                    none,
		"get :secrets ns=ns name=stage":                                         none,
		"get :secrets ns=ns name=inline":                                        "",
		"get :secrets ns=ns name=made-up":                                       none,
		"create :serviceaccounts/token ns=ns name=sa":                           "",
		"create :serviceaccounts/token ns=ns name=boss":                         none,
		"create :serviceaccounts ns=ns":                                         "can only create tokens for individual service accounts",
		"get resource.k8s.io:resourceclaims ns=ns name=gpu":                     "",
		"get resource.k8s.io:resourceclaims ns=ns name=db-made-x":               "",
		"get resource.k8s.io:resourceclaims ns=ns name=other":                   none,
		"get storage.k8s.io:volumeattachments name=mine":                        "",
		"get storage.k8s.io:volumeattachments name=theirs":                      none,
		"list storage.k8s.io:volumeattachments":                                 "can only get individual resources of this type",
		"patch storage.k8s.io:csinodes name=n1":                                 "",
		"patch storage.k8s.io:csinodes name=n2":                                 "can only access CSINode with the same name as the requesting node",
		"list storage.k8s.io:csinodes":                                          "can only get, create, update, patch, or delete a CSINode",
		"delete resource.k8s.io:resourceslices name=mine":                       "",
		"delete resource.k8s.io:resourceslices name=all":                        none,
		"create resource.k8s.io:resourceslices":                                 "",
		"list resource.k8s.io:resourceslices":                                   "can only list/watch/deletecollection resourceslices with nodeName field selector",
		"list resource.k8s.io:resourceslices field=nodeName=n1":                 "",
		"deletecollection coordination.k8s.io:leases ns=x":                      "can only get, create, update, patch, or delete a node lease",
		"create certificates.k8s.io:certificatesigningrequests":                 "",
		"update certificates.k8s.io:certificatesigningrequests/approval name=x": "-",
	} {
		d, reason, err := z.Authorize(t.Context(), ask(t, node, question))
		if err != nil || (d == authorizer.DecisionAllow) != (want == "") || want != "" && want != "-" && reason != want {
			t.Errorf("%s: %v, %q, %v", question, d, reason, err)
		}
	}
}

func TestPodThatMovedTakesItsVolumesAlong(t *testing.T) {
	w := storageWorld()
	z := newTestAuthorizer(w)
	node := person("system:node:n1", "system:nodes")
	may := func() bool {
		d, _, _ := z.Authorize(t.Context(), ask(t, node, "get :secrets ns=storage name=stage"))
		return d == authorizer.DecisionAllow
	}
	for range 2 { // the second time from what is remembered
		if !may() {
			t.Fatal("refused")
		}
	}
	w["pods"] = []runtime.Object{}
	if may() {
		t.Error("a volume's secret stays readable when its pod has gone")
	}
}

// TestNodesReadCertificatesOfIngresses: those of Ingresses of our class, by name and type, and no other Secret.
func TestNodesReadCertificatesOfIngresses(t *testing.T) {
	ingress := func(ns, name, class, annotation, secret string) *networkingv1.Ingress {
		i := &networkingv1.Ingress{ObjectMeta: named1(ns, name, name), Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{SecretName: secret}}}}
		if class != "" {
			i.Spec.IngressClassName = &class
		}
		if annotation != "" {
			i.Annotations = map[string]string{"kubernetes.io/ingress.class": annotation}
		}
		return i
	}
	class := func(name, controller string) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
	}
	w := objects{
		"ingressclasses": {class("coracle", "coracle.dev/ingress"), class("inside", "coracle.dev/ingress"), class("nginx", "k8s.io/ingress-nginx")},
		"ingresses": {
			ingress("ns", "a", "coracle", "", "cert"), ingress("ns", "b", "inside", "", "inner"), ingress("ns", "c", "nginx", "", "theirs"),
			ingress("ns", "d", "", "coracle", "old"), ingress("ns", "e", "", "", "none"), ingress("ns", "f", "absent", "", "absent"),
		},
	}
	z := newTestAuthorizer(w)
	const none = "no relationship found between node 'n1' and this object"
	const tls = ",type=kubernetes.io/tls"
	node := person("system:node:n1", "system:nodes", "system:authenticated")
	answers := map[string]string{
		"list :secrets ns=ns field=metadata.name=cert" + tls:                    "",
		"watch :secrets ns=ns field=metadata.name=cert" + tls:                   "",
		"watch :secrets ns=ns field=metadata.name=inner" + tls:                  "",
		"watch :secrets ns=ns field=metadata.name=old" + tls:                    "",
		"get :secrets ns=ns name=cert":                                          none, // it might be of any type
		"watch :secrets ns=ns field=metadata.name=cert":                         none,
		"watch :secrets ns=ns field=metadata.name=cert,type=Opaque":             none,
		"watch :secrets ns=ns field=metadata.name=cert,type!=kubernetes.io/tls": none,
		"watch :secrets ns=other field=metadata.name=cert" + tls:                none,
		"watch :secrets ns=ns field=metadata.name=theirs" + tls:                 none,
		"watch :secrets ns=ns field=metadata.name=none" + tls:                   none,
		"watch :secrets ns=ns field=metadata.name=absent" + tls:                 none,
		"watch :secrets ns=ns field=metadata.name=unnamed" + tls:                none,
		"list :secrets ns=ns field=type=kubernetes.io/tls":                      "No Object name found",
		"list :secrets field=metadata.name=cert" + tls:                          "can only read namespaced object of this type",
		"list :configmaps ns=ns field=metadata.name=cert" + tls:                 none,
		"deletecollection :secrets ns=ns field=metadata.name=cert" + tls:        "can only read resources of this type",
		"list networking.k8s.io:ingresses":                                      "",
		"watch networking.k8s.io:ingressclasses":                                "",
		"update networking.k8s.io:ingresses/status ns=ns name=a":                "-",
	}
	check := func() {
		t.Helper()
		for question, want := range answers {
			d, reason, err := z.Authorize(t.Context(), ask(t, node, question))
			if err != nil || (d == authorizer.DecisionAllow) != (want == "") || want != "" && want != "-" && reason != want {
				t.Errorf("%s: %v, %q, %v", question, d, reason, err)
			}
		}
	}
	check()
	for _, who := range []user.Info{person("system:node:n1", "system:authenticated"), person("jane", "system:authenticated")} {
		if d, _, _ := z.Authorize(t.Context(), ask(t, who, "watch :secrets ns=ns field=metadata.name=cert"+tls)); d == authorizer.DecisionAllow {
			t.Errorf("%s may watch it", who.GetName())
		}
	}
	w["ingresses"] = w["ingresses"][1:]
	answers = map[string]string{"watch :secrets ns=ns field=metadata.name=cert" + tls: none}
	check()
}
