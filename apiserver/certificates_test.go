package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

func certificateRequest(t *testing.T, name, signer string, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages,
		Username: "somebody else", Groups: []string{"system:masters"}, UID: "x", Extra: map[string]certificatesv1.ExtraValue{"a": {"b"}},
	}}
}

func TestCertificateRequestPaths(t *testing.T) {
	s := apiservertest.StartServer(t, apiserver.Config{Store: memory.New()})
	jane := &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"dev"}, Extra: map[string][]string{"team": {"red"}}}
	client := kubernetes.NewForConfigOrDie(s.LocalConfig(jane)).CertificatesV1().CertificateSigningRequests()
	ctx := t.Context()
	r, err := client.Create(ctx, certificateRequest(t, "r", "example.com/s", certificatesv1.UsageClientAuth), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Spec.Username != "jane" || r.Spec.UID != "7" || strings.Join(r.Spec.Groups, ",") != "dev,system:authenticated" || r.Spec.Extra["team"][0] != "red" || len(r.Spec.Extra) != 1 {
		t.Errorf("asked by %+v", r.Spec)
	}

	// The main path changes neither who asks nor the state.
	changed := r.DeepCopy()
	changed.Labels = map[string]string{"a": "b"}
	changed.Spec.Username, changed.Status.Conditions = "root", approved()
	if r, err = client.Update(ctx, changed, metav1.UpdateOptions{}); err != nil || r.Spec.Username != "jane" || len(r.Status.Conditions) != 0 || r.Labels["a"] != "b" {
		t.Fatalf("updated: %v, %v", r, err)
	}

	// The status may not approve, approval may not issue.
	changed = r.DeepCopy()
	changed.Status.Conditions = approved()
	if _, err = client.UpdateStatus(ctx, changed, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `updates may not add a condition of type "Approved"`) {
		t.Errorf("approved by status: %v", err)
	}
	changed.Status.Certificate = []byte("-----BEGIN NOTHING-----")
	if r, err = client.UpdateApproval(ctx, "r", changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := r.Status.Conditions[0]
	if len(r.Status.Certificate) > 0 || c.Type != certificatesv1.CertificateApproved || c.LastUpdateTime.IsZero() || c.LastTransitionTime.IsZero() {
		t.Errorf("after approval: %+v", r.Status)
	}
	denied := []byte(`{"status":{"conditions":[{"type":"Approved","status":"True"},{"type":"Denied","status":"True"}]}}`)
	_, err = client.Patch(ctx, "r", types.MergePatchType, denied, metav1.PatchOptions{}, "approval")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "Approved and Denied conditions are mutually exclusive") {
		t.Errorf("denied as well: %v", err)
	}
	changed = r.DeepCopy()
	changed.Status.Certificate = []byte("no certificate")
	if _, err = client.UpdateStatus(ctx, changed, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must contain at least one CERTIFICATE PEM block") {
		t.Errorf("issued nonsense: %v", err)
	}
	if l, err := client.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=example.com/s"}); err != nil || len(l.Items) != 1 {
		t.Errorf("by signer: %v, %v", l, err)
	}
}

func approved() []certificatesv1.CertificateSigningRequestCondition {
	return []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "T"}}
}

func TestPhaseOfVolumeHasItsTime(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Start(t)).CoreV1().PersistentVolumes()
	ctx := context.Background()
	pv, err := client.Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
	}}, metav1.CreateOptions{})
	if err != nil || pv.Status.Phase != corev1.VolumePending || pv.Status.LastPhaseTransitionTime == nil {
		t.Fatalf("created: %+v, %v", pv, err)
	}
	past := metav1.Unix(1000, 0)
	pv.Status.LastPhaseTransitionTime = &past
	if pv, err = client.UpdateStatus(ctx, pv, metav1.UpdateOptions{}); err != nil || !pv.Status.LastPhaseTransitionTime.Equal(&past) {
		t.Fatalf("told: %+v, %v", pv.Status, err)
	}
	pv.Status.Phase = corev1.VolumeBound
	if pv, err = client.UpdateStatus(ctx, pv, metav1.UpdateOptions{}); err != nil || pv.Status.LastPhaseTransitionTime.Equal(&past) {
		t.Errorf("bound: %+v, %v", pv.Status, err)
	}
}

func TestAdminAccessNeedsALabel(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Start(t))
	ctx := t.Context()
	claim := func(name string) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
		c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c", AdminAccess: ptr.To(true)}}}
		return c
	}
	_, err := client.ResourceV1().ResourceClaims("default").Create(ctx, claim("a"), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.devices.requests[0].exactly.adminAccess: Forbidden: admin access to devices requires the") {
		t.Errorf("without the label: %v", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "admins", Labels: map[string]string{"resource.kubernetes.io/admin-access": "true"}}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ResourceV1().ResourceClaims("admins").Create(ctx, claim("a"), metav1.CreateOptions{}); err != nil {
		t.Errorf("with the label: %v", err)
	}
	slice, err := client.ResourceV1().ResourceSlices().Create(ctx, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "d.example.com", NodeName: ptr.To("n"), Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1},
		Devices: []resourcev1.Device{{Name: "d0", Taints: []resourcev1.DeviceTaint{{Key: "k", Effect: resourcev1.DeviceTaintEffectNoSchedule}}}},
	}}, metav1.CreateOptions{})
	if err != nil || slice.Spec.Devices[0].Taints[0].TimeAdded == nil {
		t.Errorf("a taint without its time: %+v, %v", slice, err)
	}
}
