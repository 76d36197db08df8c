package kinds

import (
	"math/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"
)

// randomKinds are the entries that hold a spec of pods.
var randomKinds = []string{"Pod", "PodTemplate", "ReplicationController", "ReplicaSet", "Deployment"}

// TestRandomObjects: whatever an object holds, defaulting twice is defaulting once, checks do not panic and change nothing, and there are cells.
func TestRandomObjects(t *testing.T) {
	const rounds = 60
	for _, name := range randomKinds {
		t.Run(name, func(t *testing.T) {
			k := kindNamed(t, name)
			random := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), serializer.NewCodecFactory(runtime.NewScheme()))
			for range rounds {
				obj, old := k.New(), k.New()
				random.Fill(obj)
				random.Fill(old)
				checkRandom(t, k, obj, old)
				checkRandom(t, k, obj, obj.DeepCopyObject())
			}
		})
	}
}

func checkRandom(t *testing.T, k *Kind, obj, old runtime.Object) {
	t.Helper()
	if k.Default != nil {
		k.Default(obj)
		k.Default(old)
		once := obj.DeepCopyObject()
		k.Default(obj)
		if !semanticEqual(once, obj) {
			t.Fatalf("defaulting twice:\n%s", cmp.Diff(asYAML(once), asYAML(obj)))
		}
	}
	before := obj.DeepCopyObject()
	k.Validate(obj)
	k.ValidateUpdate(obj, old)
	if k.Warnings != nil {
		k.Warnings(obj, nil)
		k.Warnings(obj, old)
	}
	if k.Fields != nil {
		k.Fields(obj)
	}
	if k.Status != nil {
		k.Status.ValidateUpdate(obj, old)
	}
	k.Cells(obj, metav1.Now())
	if !semanticEqual(before, obj) {
		t.Fatalf("checks changed the object:\n%s", cmp.Diff(asYAML(before), asYAML(obj)))
	}
	oldBefore := old.DeepCopyObject()
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj.DeepCopyObject())
	}
	if k.PrepareUpdate != nil {
		k.PrepareUpdate(obj.DeepCopyObject(), old)
	}
	if k.Status != nil {
		k.Status.PrepareUpdate(obj, old)
	}
	if !semanticEqual(oldBefore, old) {
		t.Fatalf("preparing changed the old object:\n%s", cmp.Diff(asYAML(oldBefore), asYAML(old)))
	}
}

func asYAML(obj any) string {
	text, err := yaml.Marshal(obj)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// FuzzFieldPaths: paths of fields come from users.
func FuzzFieldPaths(f *testing.F) {
	for _, path := range []string{"metadata.name", "metadata.labels['a']", "']", "['']", "metadata.annotations['x/y']"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		validateFieldRef(&corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}, envFields, podSpecPath)
	})
}

func BenchmarkPodCreate(b *testing.B) {
	manifest := []byte(`{"spec":{"containers":[{"name":"a","image":"nginx:1.2","ports":[{"containerPort":80}],"env":[{"name":"A","value":"b"}],
		"resources":{"limits":{"cpu":"1","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":80}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}],
		"volumes":[{"name":"v","emptyDir":{}}]}}`)
	pod := &corev1.Pod{}
	if err := yaml.Unmarshal(manifest, pod); err != nil {
		b.Fatal(err)
	}
	pod.Name, pod.Namespace = "p", "default"
	b.ReportAllocs()
	for b.Loop() {
		p := pod.DeepCopy()
		defaultPod(p)
		preparePodCreate(p)
		if errs := validatePod(p); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}
