package quota

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

var now = time.Unix(1e9, 0)

// amounts reads "cpu=1 memory=1Gi".
func amounts(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, part := range strings.Fields(text) {
		name, value, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	change(p)
	return p
}

func asking(requests, limits string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)}
	}
}

func TestUsage(t *testing.T) {
	service := func(kind corev1.ServiceType, allocate *bool, nodePorts ...int32) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, AllocateLoadBalancerNodePorts: allocate}}
		for _, p := range nodePorts {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: p})
		}
		return s
	}
	claim := func(class *string, size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class, Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage=" + size)}}}
	}
	grown := claim(nil, "1Gi")
	grown.Status.AllocatedResources = amounts("storage=2Gi")
	for _, c := range []struct {
		name string
		gr   schema.GroupResource
		obj  runtime.Object
		want string
	}{
		{"pod", Pods, pod(asking("cpu=100m memory=1Mi ephemeral-storage=1Gi hugepages-2Mi=4Mi example.com/gpu=2", "cpu=1 memory=2Mi ephemeral-storage=2Gi example.com/gpu=2")),
			"count/pods=1 pods=1 cpu=100m requests.cpu=100m limits.cpu=1 memory=1Mi requests.memory=1Mi limits.memory=2Mi ephemeral-storage=1Gi requests.ephemeral-storage=1Gi limits.ephemeral-storage=2Gi hugepages-2Mi=4Mi requests.hugepages-2Mi=4Mi requests.example.com/gpu=2"},
		{"init container and overhead", Pods, pod(func(p *corev1.Pod) {
			asking("cpu=1", "")(p)
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: amounts("cpu=3")}}}
			p.Spec.Overhead = amounts("cpu=500m")
		}), "count/pods=1 pods=1 cpu=3500m requests.cpu=3500m"},
		{"pod level", Pods, pod(func(p *corev1.Pod) {
			asking("cpu=1", "")(p)
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("cpu=2"), Limits: amounts("cpu=4")}
		}), "count/pods=1 pods=1 cpu=2 requests.cpu=2 limits.cpu=4"},
		{"ended pod", Pods, pod(func(p *corev1.Pod) { asking("cpu=1", "")(p); p.Status.Phase = corev1.PodSucceeded }), "count/pods=1"},
		{"overdue pod", Pods, pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now.Add(-time.Minute))), ptr.To[int64](30)
		}), "count/pods=1"},
		{"going pod", Pods, pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now)), ptr.To[int64](30)
		}), "count/pods=1 pods=1"},
		{"service", Services, service(corev1.ServiceTypeClusterIP, nil, 0), "count/services=1 services=1 services.nodeports=0 services.loadbalancers=0"},
		{"node ports", Services, service(corev1.ServiceTypeNodePort, nil, 0, 30001), "count/services=1 services=1 services.nodeports=2 services.loadbalancers=0"},
		{"balancer", Services, service(corev1.ServiceTypeLoadBalancer, nil, 0), "count/services=1 services=1 services.nodeports=1 services.loadbalancers=1"},
		{"balancer without ports", Services, service(corev1.ServiceTypeLoadBalancer, ptr.To(false), 0, 30001), "count/services=1 services=1 services.nodeports=1 services.loadbalancers=1"},
		{"claim", Claims, claim(ptr.To("gold"), "1500m"), "count/persistentvolumeclaims=1 persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 requests.storage=2 gold.storageclass.storage.k8s.io/requests.storage=2"},
		{"grown claim", Claims, grown, "count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=2Gi"},
		{"secret", schema.GroupResource{Resource: "secrets"}, &corev1.Secret{}, "count/secrets=1 secrets=1"},
		{"other", schema.GroupResource{Group: "example.com", Resource: "widgets"}, &metav1.PartialObjectMetadata{}, "count/widgets.example.com=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Usage(c.gr, c.obj, now)
			if want := amounts(c.want); !Equal(got, want) {
				t.Errorf("%s\nwant %s", Text(got), Text(want))
			}
			hard := Measured(c.gr, got)
			if !Equal(hard, got) {
				t.Errorf("a quota could not have %s: measured %s", Text(got), Text(hard))
			}
			for _, gr := range Counts(got) {
				if gr != c.gr {
					t.Errorf("%s looks at %s", c.name, gr)
				}
			}
		})
	}
}

func TestScopes(t *testing.T) {
	of := func(class string) *corev1.Pod { return pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = class }) }
	deadline := pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) })
	far := pod(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}}}}}
	})
	vac := func(spec, current string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &spec}, Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: &current}}
	}
	for _, c := range []struct {
		scope    corev1.ResourceQuotaScope
		operator corev1.ScopeSelectorOperator
		values   string
		obj      runtime.Object
		want     bool
	}{
		{"Terminating", "Exists", "", deadline, true},
		{"Terminating", "Exists", "", of(""), false},
		{"NotTerminating", "Exists", "", of(""), true},
		{"BestEffort", "Exists", "", of(""), true},
		{"BestEffort", "Exists", "", pod(asking("cpu=1", "")), false},
		{"BestEffort", "Exists", "", pod(asking("example.com/gpu=1", "example.com/gpu=1")), true},
		{"NotBestEffort", "Exists", "", pod(asking("", "memory=1Mi")), true},
		{"PriorityClass", "Exists", "", of("high"), true},
		{"PriorityClass", "Exists", "", of(""), false},
		{"PriorityClass", "DoesNotExist", "", of(""), true},
		{"PriorityClass", "In", "high,low", of("low"), true},
		{"PriorityClass", "In", "high", of("low"), false},
		{"PriorityClass", "NotIn", "high", of("low"), true},
		{"PriorityClass", "NotIn", "high", of(""), true},
		{"CrossNamespacePodAffinity", "Exists", "", far, true},
		{"CrossNamespacePodAffinity", "Exists", "", of(""), false},
		{"VolumeAttributesClass", "In", "fast", vac("slow", "fast"), true},
		{"VolumeAttributesClass", "In", "fast", vac("slow", "slow"), false},
		{"VolumeAttributesClass", "Exists", "", of("high"), false},
		{"Terminating", "Exists", "", &corev1.Secret{}, false},
	} {
		s := corev1.ScopedResourceSelectorRequirement{ScopeName: c.scope, Operator: c.operator}
		if c.values != "" {
			s.Values = strings.Split(c.values, ",")
		}
		spec := &corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{s}}}
		if got, err := InScopes(spec, c.obj); got != c.want || err != nil {
			t.Errorf("%s %s %q: %v %v", c.scope, c.operator, c.values, got, err)
		}
	}
	both := &corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"BestEffort", "Terminating"}}
	if got, _ := InScopes(both, deadline); !got {
		t.Error("a pod of both scopes")
	}
	if got, _ := InScopes(both, of("")); got {
		t.Error("a pod of one scope of two")
	}
	if _, err := InScopes(&corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: "PriorityClass", Operator: "Like"}}}}, of("x")); err == nil {
		t.Error("an operator that is none")
	}
}

func TestDemand(t *testing.T) {
	two := pod(func(p *corev1.Pod) {
		asking("cpu=1", "")(p)
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"})
		p.Spec.InitContainers = []corev1.Container{{Name: "a"}}
	})
	for hard, want := range map[string]string{
		"pods=1 requests.ephemeral-storage=1":  "",
		"limits.cpu=1":                         "must specify limits.cpu for: a,b,c",
		"cpu=1 limits.memory=1 requests.cpu=1": "must specify cpu for: a,b; limits.memory for: a,b,c; requests.cpu for: a,b",
	} {
		got := ""
		if err := Demand(amounts(hard), two); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", hard, got, want)
		}
	}
	whole := two.DeepCopy()
	whole.Spec.Resources = &corev1.ResourceRequirements{Limits: amounts("cpu=2")}
	if err := Demand(amounts("limits.cpu=1"), whole); err != nil {
		t.Error(err)
	}
}

func TestCounts(t *testing.T) {
	got := Counts(amounts("pods=1 requests.example.com/gpu=1 requests.hugepages-2Mi=1 count/widgets.example.com=1 count/deployments.apps=1 configmaps=1 services.nodeports=1 gold.storageclass.storage.k8s.io/requests.storage=1 nonsense=1"))
	want := []string{"configmaps", "deployments.apps", "persistentvolumeclaims", "pods", "services", "widgets.example.com"}
	var names []string
	for _, gr := range got {
		names = append(names, gr.String())
	}
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestLists(t *testing.T) {
	a, b := amounts("cpu=1 pods=3"), amounts("cpu=2 pods=1 memory=1Gi")
	for name, got := range map[string]corev1.ResourceList{
		"cpu=3 pods=4 memory=1Gi": Add(a, b),
		"pods=2":                  Increase(a, b),
		"cpu=0 pods=2":            Decrease(a, b),
		"cpu=2 pods=1":            Mask(b, a),
	} {
		if !Equal(got, amounts(name)) {
			t.Errorf("%s, want %s", Text(got), name)
		}
	}
	if !maps.EqualFunc(a, amounts("cpu=1 pods=3"), func(x, y resource.Quantity) bool { return x.Equal(y) }) {
		t.Errorf("an operand changed: %s", Text(a))
	}
	if text := Text(Add(nil, amounts("requests.memory=1Gi cpu=500m"))); text != "cpu=500m,requests.memory=1Gi" {
		t.Error(text)
	}
	if n := Negative(amounts("cpu=-1 memory=1 a=-2")); !slices.Equal(n, []corev1.ResourceName{"a", "cpu"}) {
		t.Error(n)
	}
}
