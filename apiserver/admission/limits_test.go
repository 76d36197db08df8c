package admission

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// amounts reads "cpu=1 memory=1Gi".
func amounts(text string) corev1.ResourceList {
	if text == "" {
		return nil
	}
	out := corev1.ResourceList{}
	for _, part := range strings.Fields(text) {
		name, value, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func requirements(requests, limits string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)}
}

// in runs one plug-in on a request in a world with further objects.
func in(t *testing.T, extra objects, plugin func(Reader) Plugin, r *Request) (warnings []string, err error) {
	t.Helper()
	w := world()
	maps.Copy(w, extra)
	r.Warn = func(text string) { warnings = append(warnings, text) }
	p := plugin(w)
	if err := p.Mutate(t.Context(), r); err != nil {
		return warnings, err
	}
	return warnings, p.Validate(t.Context(), r)
}

func wantText(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("admitted, want %q", want)
	case want != "" && !strings.HasSuffix(err.Error(), want):
		t.Errorf("%q\nwant %q", err, want)
	}
}

func limitRange(items ...corev1.LimitRangeItem) objects {
	return objects{"limitranges": {&corev1.LimitRange{ObjectMeta: om("default", "limits"), Spec: corev1.LimitRangeSpec{Limits: items}}}}
}

func ranger(r Reader) Plugin { return limitRanger{reader: r} }

func TestLimitRangeDefaults(t *testing.T) {
	pod := simplePod("default")
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "own", Resources: requirements("cpu=50m", "cpu=60m memory=1Gi")})
	pod.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: requirements("cpu=1", "")}}
	limits := limitRange(corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: amounts("cpu=2 memory=2Gi"), DefaultRequest: amounts("cpu=100m")})
	if _, err := in(t, limits, ranger, podRequest(pod)); err != nil {
		t.Fatal(err)
	}
	got := pod.Spec.Containers[0].Resources
	if got.Requests.Cpu().String() != "100m" || got.Limits.Cpu().String() != "2" || got.Limits.Memory().String() != "2Gi" {
		t.Errorf("%v", got)
	}
	if own := pod.Spec.Containers[1].Resources; own.Requests.Cpu().String() != "50m" || own.Limits.Memory().String() != "1Gi" {
		t.Errorf("what the pod had said was changed: %v", own)
	}
	want := "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c; cpu, memory limit for init container i"
	if note := pod.Annotations["kubernetes.io/limit-ranger"]; note != want {
		t.Errorf("%q\nwant %q", note, want)
	}
}

func TestLimitRangeBounds(t *testing.T) {
	container := func(item corev1.LimitRangeItem) corev1.LimitRangeItem {
		item.Type = corev1.LimitTypeContainer
		return item
	}
	pods := func(item corev1.LimitRangeItem) corev1.LimitRangeItem {
		item.Type = corev1.LimitTypePod
		return item
	}
	two := func(a, b corev1.ResourceRequirements) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "a", Resources: a}, {Name: "b", Resources: b}}
		}
	}
	one := func(requests, limits string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources = requirements(requests, limits) }
	}
	cases := []struct {
		name string
		item corev1.LimitRangeItem
		pod  func(*corev1.Pod)
		text string
	}{
		{"within", container(corev1.LimitRangeItem{Max: amounts("cpu=500m"), Min: amounts("cpu=100m")}), one("cpu=100m", "cpu=500m"), ""},
		{"limit above", container(corev1.LimitRangeItem{Max: amounts("cpu=500m")}), one("", "cpu=1"), `pods "p" is forbidden: maximum cpu usage per Container is 500m, but limit is 1`},
		{"two faults", container(corev1.LimitRangeItem{Max: amounts("cpu=500m memory=1Gi")}), one("", "cpu=1 memory=2Gi"), `[maximum cpu usage per Container is 500m, but limit is 1, maximum memory usage per Container is 1Gi, but limit is 2Gi]`},
		{"no limit", container(corev1.LimitRangeItem{Max: amounts("cpu=500m")}), one("cpu=1", ""), `maximum cpu usage per Container is 500m.  No limit is specified`},
		{"request above", container(corev1.LimitRangeItem{Max: amounts("cpu=500m")}), one("cpu=1", "cpu=100m"), `maximum cpu usage per Container is 500m, but request is 1`},
		{"no request", container(corev1.LimitRangeItem{Min: amounts("memory=1Mi")}), one("", ""), `minimum memory usage per Container is 1Mi.  No request is specified`},
		{"request below", container(corev1.LimitRangeItem{Min: amounts("memory=1Mi")}), one("memory=1Ki", ""), `minimum memory usage per Container is 1Mi, but request is 1Ki`},
		{"limit below", container(corev1.LimitRangeItem{Min: amounts("memory=1Mi")}), one("memory=1Mi", "memory=1Ki"), `minimum memory usage per Container is 1Mi, but limit is 1Ki`},
		{"ratio", container(corev1.LimitRangeItem{MaxLimitRequestRatio: amounts("cpu=1500m")}), one("cpu=1", "cpu=2"), `cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000`},
		{"ratio without request", container(corev1.LimitRangeItem{MaxLimitRequestRatio: amounts("cpu=2")}), one("", "cpu=2"), `cpu max limit to request ratio per Container is 2, but no request is specified or request is 0`},
		{"ratio without limit", container(corev1.LimitRangeItem{MaxLimitRequestRatio: amounts("cpu=2")}), one("cpu=1", ""), `cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0`},
		{"init container", container(corev1.LimitRangeItem{Max: amounts("cpu=500m")}), func(p *corev1.Pod) {
			one("", "cpu=1m")(p)
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: requirements("", "cpu=3")}}
		}, `but limit is 3`},
		{"pod's sum", pods(corev1.LimitRangeItem{Max: amounts("cpu=2")}), two(requirements("cpu=1", "cpu=1500m"), requirements("cpu=1", "cpu=1")), `maximum cpu usage per Pod is 2, but limit is 2500m`},
		{"pod's sum within", pods(corev1.LimitRangeItem{Max: amounts("cpu=3"), Min: amounts("cpu=2")}), two(requirements("cpu=1", "cpu=1500m"), requirements("cpu=1", "cpu=1")), ""},
		{"pod's own", pods(corev1.LimitRangeItem{Max: amounts("cpu=3")}), func(p *corev1.Pod) {
			p.Spec.Resources = ptr.To(requirements("cpu=4", "cpu=4"))
		}, `maximum cpu usage per Pod is 3, but limit is 4`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pod := simplePod("default")
			c.pod(pod)
			_, err := in(t, limitRange(c.item), ranger, podRequest(pod))
			wantText(t, err, c.text)
		})
	}
}

func TestLimitRangeConcerns(t *testing.T) {
	limits := limitRange(
		corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Max: amounts("storage=2Gi"), Min: amounts("storage=1Gi")},
		corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: amounts("cpu=1")})
	claim := func(size string) *Request {
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: om("default", "c"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts(size)}}}
		return &Request{Operation: Create, Resource: schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}, Namespace: "default", Name: "c", Object: pvc}
	}
	for size, text := range map[string]string{
		"storage=2Gi": "", "storage=3Gi": "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi",
		"storage=1Mi": "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi",
	} {
		_, err := in(t, limits, ranger, claim(size))
		wantText(t, err, text)
	}
	big := func() *corev1.Pod {
		pod := simplePod("default")
		pod.Spec.Containers[0].Resources = requirements("", "cpu=2")
		return pod
	}
	update := podRequest(big())
	update.Operation, update.Old = Update, big()
	_, err := in(t, limits, ranger, update)
	wantText(t, err, "")
	update.Subresource = "resize"
	_, err = in(t, limits, ranger, update)
	wantText(t, err, "but limit is 2")
	going := big()
	going.DeletionTimestamp = &metav1.Time{}
	update.Old = going
	_, err = in(t, limits, ranger, update)
	wantText(t, err, "")
	elsewhere := podRequest(big())
	elsewhere.Namespace = "other"
	_, err = in(t, limits, ranger, elsewhere)
	wantText(t, err, "")
}

func TestRuntimeClass(t *testing.T) {
	classes := objects{"runtimeclasses": {
		&nodev1.RuntimeClass{ObjectMeta: om("", "vm"), Overhead: &nodev1.Overhead{PodFixed: amounts("memory=64Mi")}, Scheduling: &nodev1.Scheduling{
			NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}},
		&nodev1.RuntimeClass{ObjectMeta: om("", "plain")},
	}}
	plugin := func(r Reader) Plugin { return runtimeClass{reader: r} }
	pod := simplePod("default")
	pod.Spec.RuntimeClassName = ptr.To("vm")
	pod.Spec.NodeSelector = map[string]string{"disk": "fast"}
	pod.Spec.Tolerations = []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpEqual, Value: "1"}, {Key: "x", Operator: corev1.TolerationOpExists}}
	_, err := in(t, classes, plugin, podRequest(pod))
	wantText(t, err, "")
	s := pod.Spec
	if s.Overhead.Memory().String() != "64Mi" || s.NodeSelector["vm"] != "yes" || s.NodeSelector["disk"] != "fast" {
		t.Errorf("%v %v", s.Overhead, s.NodeSelector)
	}
	if len(s.Tolerations) != 2 || s.Tolerations[0].Key != "x" || s.Tolerations[1].Key != "vm" || s.Tolerations[1].Value != "" {
		t.Errorf("one toleration implies another: %v", s.Tolerations)
	}
	for _, c := range []struct {
		change func(*corev1.PodSpec)
		text   string
	}{
		{func(s *corev1.PodSpec) { s.RuntimeClassName = ptr.To("none") }, `pods "p" is forbidden: pod rejected: RuntimeClass "none" not found`},
		{func(s *corev1.PodSpec) { s.RuntimeClassName = ptr.To("vm"); s.Overhead = amounts("memory=1Mi") }, `pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead`},
		{func(s *corev1.PodSpec) { s.RuntimeClassName = ptr.To("plain"); s.Overhead = amounts("memory=1Mi") }, `pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`},
		{func(s *corev1.PodSpec) { s.Overhead = amounts("memory=1Mi") }, `pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`},
		{func(s *corev1.PodSpec) {
			s.RuntimeClassName = ptr.To("vm")
			s.NodeSelector = map[string]string{"vm": "no"}
		}, `conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no`},
		{func(s *corev1.PodSpec) { s.RuntimeClassName = ptr.To("plain") }, ""},
	} {
		pod := simplePod("default")
		c.change(&pod.Spec)
		_, err := in(t, classes, plugin, podRequest(pod))
		wantText(t, err, c.text)
	}
}

func TestDefaultIngressClass(t *testing.T) {
	class := func(name string, def bool, age int64) runtime.Object {
		c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0), Annotations: map[string]string{}}}
		if def {
			c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] = "true"
		}
		return c
	}
	plugin := func(r Reader) Plugin { return defaultIngressClass{reader: r} }
	request := func(change func(*networkingv1.Ingress)) (*networkingv1.Ingress, *Request) {
		i := &networkingv1.Ingress{ObjectMeta: om("default", "i")}
		change(i)
		return i, &Request{Operation: Create, Resource: schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}, Namespace: "default", Object: i}
	}
	for _, c := range []struct {
		name    string
		classes []runtime.Object
		change  func(*networkingv1.Ingress)
		want    string
	}{
		{"none is default", []runtime.Object{class("a", false, 1)}, func(*networkingv1.Ingress) {}, ""},
		{"the youngest", []runtime.Object{class("a", true, 5), class("b", true, 1), class("c", false, 0)}, func(*networkingv1.Ingress) {}, "b"},
		{"the first by name", []runtime.Object{class("b", true, 5), class("a", true, 5)}, func(*networkingv1.Ingress) {}, "a"},
		{"its own", []runtime.Object{class("a", true, 5)}, func(i *networkingv1.Ingress) { i.Spec.IngressClassName = ptr.To("x") }, "x"},
		{"annotated", []runtime.Object{class("a", true, 5)}, func(i *networkingv1.Ingress) { i.Annotations = map[string]string{"kubernetes.io/ingress.class": "x"} }, ""},
	} {
		i, r := request(c.change)
		if _, err := in(t, objects{"ingressclasses": c.classes}, plugin, r); err != nil || ptr.Deref(i.Spec.IngressClassName, "") != c.want {
			t.Errorf("%s: %q, %v", c.name, ptr.Deref(i.Spec.IngressClassName, ""), err)
		}
	}
}

func TestChainOrder(t *testing.T) {
	var names []string
	for _, p := range New(Config{Reader: world()}) {
		names = append(names, p.Name())
	}
	upstream := []string{"NamespaceLifecycle", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "PodSecurity", "Priority",
		"DefaultTolerationSeconds", "DefaultStorageClass", "StorageObjectInUseProtection", "PersistentVolumeClaimResize", "RuntimeClass", "CertificateApproval",
		"CertificateSigning", "ClusterTrustBundleAttest", "CertificateSubjectRestriction", "DefaultIngressClass", "PodTopologyLabels", "PodResizeValidator", "MutatingAdmissionPolicy",
		"MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook", "ResourceQuota"}
	at := -1
	for _, name := range names {
		i := slices.Index(upstream, name)
		if i <= at {
			t.Errorf("%s is out of upstream's order: %v", name, names)
		}
		at = i
	}
}
