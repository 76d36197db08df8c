package apiserver_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/admission"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// heard collects the warnings of all responses.
type heard struct{ texts []string }

func (h *heard) HandleWarningHeader(code int, _ string, text string) {
	if code == 299 {
		h.texts = append(h.texts, text)
	}
}

func (h *heard) take() string {
	all := strings.Join(h.texts, "\n")
	h.texts = nil
	return all
}

// admitting serves the API with its admission chain. The default namespace has its account.
func admitting(t *testing.T) (*kubernetes.Clientset, *heard) {
	t.Helper()
	st := memory.New()
	c := apiserver.NewCache(st)
	s := apiservertest.StartServer(t, apiserver.Config{Store: st, Cache: c, Admission: admission.New(admission.Config{Reader: apiserver.NewReader(c), Quotas: apiserver.NewQuotaWriter(st)})})
	config := restclient.CopyConfig(s.LocalConfig(apiservertest.Admin))
	warnings := &heard{}
	config.WarningHandler = warnings
	client := kubernetes.NewForConfigOrDie(config)
	_, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return client, warnings
}

func cpu(requests, limits string) corev1.ResourceRequirements {
	var r corev1.ResourceRequirements
	if requests != "" {
		r.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(requests)}
	}
	if limits != "" {
		r.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(limits)}
	}
	return r
}

func podOf(name string, r corev1.ResourceRequirements) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: r}}}}
}

// TestLimitRange follows conformance: a pod gets the defaults, what exceeds is refused, changes count at once.
func TestLimitRange(t *testing.T) {
	client, _ := admitting(t)
	ctx := t.Context()
	ranges, pods := client.CoreV1().LimitRanges("default"), client.CoreV1().Pods("default")
	_, err := ranges.Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "limits", Labels: map[string]string{"a": "b"}}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, Min: cpu("50m", "").Requests, Max: cpu("500m", "").Requests, Default: cpu("300m", "").Requests, DefaultRequest: cpu("100m", "").Requests,
	}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := pods.Create(ctx, podOf("plain", corev1.ResourceRequirements{}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r := pod.Spec.Containers[0].Resources; r.Requests.Cpu().String() != "100m" || r.Limits.Cpu().String() != "300m" || pod.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("%v %s", r, pod.Status.QOSClass)
	}
	if pod, err = pods.Create(ctx, podOf("partial", cpu("150m", "")), metav1.CreateOptions{}); err != nil || pod.Spec.Containers[0].Resources.Limits.Cpu().String() != "300m" {
		t.Errorf("%v %v", pod, err)
	}
	for text, r := range map[string]corev1.ResourceRequirements{
		`pods "bad" is forbidden: minimum cpu usage per Container is 50m, but request is 10m`: cpu("10m", ""),
		`pods "bad" is forbidden: maximum cpu usage per Container is 500m, but limit is 600m`: cpu("200m", "600m"),
	} {
		if _, err := pods.Create(ctx, podOf("bad", r), metav1.CreateOptions{}); err == nil || err.Error() != text {
			t.Errorf("%v\nwant %s", err, text)
		}
	}
	if _, err := ranges.Patch(ctx, "limits", types.StrategicMergePatchType, []byte(`{"spec":{"limits":[{"type":"Container","max":{"cpu":"2"}}]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Create(ctx, podOf("big", cpu("200m", "2")), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if err := ranges.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Create(ctx, podOf("free", cpu("9", "9")), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// TestPodSecurityLabels: a namespace's labels decide, by refusal of pods, by warnings of workloads and of what is there.
func TestPodSecurityLabels(t *testing.T) {
	client, warnings := admitting(t)
	ctx := t.Context()
	namespaces, pods := client.CoreV1().Namespaces(), client.CoreV1().Pods("default")
	privileged := func(name string) *corev1.Pod {
		pod := podOf(name, corev1.ResourceRequirements{})
		pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		return pod
	}
	label := func(text string) error {
		_, err := namespaces.Patch(ctx, "default", types.MergePatchType, []byte(`{"metadata":{"labels":{`+text+`}}}`), metav1.PatchOptions{})
		return err
	}
	if _, err := pods.Create(ctx, privileged("early"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; { // warnings are of what the cache has
		l, err := pods.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err == nil && len(l.Items) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v %v", l, err)
		}
	}
	warnings.take()
	if err := label(`"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/enforce-version":"v1.30"`); err != nil {
		t.Fatal(err)
	}
	if got, want := warnings.take(), "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:v1.30\"\nearly: privileged"; got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	detail := `privileged (container "c" must not set securityContext.privileged=true)`
	_, err := pods.Create(ctx, privileged("late"), metav1.CreateOptions{})
	if want := `pods "late" is forbidden: violates PodSecurity "baseline:v1.30": ` + detail; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "rc"}, Spec: corev1.ReplicationControllerSpec{
		Selector: map[string]string{"a": "b"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: privileged("x").Spec}}}
	if _, err = client.CoreV1().ReplicationControllers("default").Create(ctx, rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := warnings.take(), `would violate PodSecurity "baseline:v1.30": `+detail; got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	err = label(`"pod-security.kubernetes.io/warn":"harsh"`)
	if want := `metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: "harsh": must be one of privileged, baseline, restricted`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

// TestRuntimeClassOverhead: a pod gets what its class says, and its class has to be there.
func TestRuntimeClassOverhead(t *testing.T) {
	client, _ := admitting(t)
	ctx := t.Context()
	_, err := client.NodeV1().RuntimeClasses().Create(ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm",
		Overhead:   &nodev1.Overhead{PodFixed: cpu("250m", "").Requests},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := podOf("p", corev1.ResourceRequirements{})
	pod.Spec.RuntimeClassName = ptr.To("vm")
	if pod, err = client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil || pod.Spec.Overhead.Cpu().String() != "250m" || pod.Spec.NodeSelector["vm"] != "yes" {
		t.Errorf("%+v, %v", pod, err)
	}
	pod = podOf("q", corev1.ResourceRequirements{})
	pod.Spec.RuntimeClassName = ptr.To("none")
	_, err = client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	if want := `pods "q" is forbidden: pod rejected: RuntimeClass "none" not found`; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}
