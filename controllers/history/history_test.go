package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

func template(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{
			Containers:      []corev1.Container{{Name: "c", Image: image}},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000660000)},
		},
	}
}

func dataOf(image string) []byte {
	d, err := Data(template(image))
	if err != nil {
		panic(err)
	}
	return d.Raw
}

func rev(name, image string, number int64) *appsv1.ControllerRevision {
	return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: runtime.RawExtension{Raw: dataOf(image)}, Revision: number}
}

func TestData(t *testing.T) {
	const want = `{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"image":"v1","name":"c","resources":{}}],"securityContext":{"runAsUser":1000660000}}}}}`
	if got := string(dataOf("v1")); got != want {
		t.Fatalf("%s\nwant\n%s", got, want)
	}
	back, err := Template(rev("r", "v1", 1))
	if err != nil || back.Spec.Containers[0].Image != "v1" || *back.Spec.SecurityContext.RunAsUser != 1000660000 {
		t.Fatal(back, err)
	}
	if _, err := Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte("{")}}); err == nil {
		t.Fatal("nonsense was read")
	}
}

func TestDecide(t *testing.T) {
	old := rev("old-bytes", "v1", 3) // as a version wrote it that did not leave empty times out
	old.Data.Raw = []byte(strings.Replace(string(old.Data.Raw), `"metadata":{`, `"metadata":{"creationTimestamp":null,`, 1))
	for _, c := range []struct {
		name    string
		have    []*appsv1.ControllerRevision
		current string
		same    int
		number  int64
	}{
		{"nothing yet", nil, "", 0, 1},
		{"no change", []*appsv1.ControllerRevision{rev("a", "v1", 1)}, "a", 1, 1},
		{"another template", []*appsv1.ControllerRevision{rev("a", "v2", 4), rev("b", "v3", 7)}, "", 0, 8},
		{"the newest", []*appsv1.ControllerRevision{rev("a", "v2", 4), rev("b", "v1", 7)}, "b", 1, 7},
		{"back to an old one", []*appsv1.ControllerRevision{rev("a", "v1", 4), rev("b", "v2", 7)}, "a", 1, 8},
		{"equal ones", []*appsv1.ControllerRevision{rev("b", "v1", 5), rev("a", "v1", 4)}, "b", 2, 5},
		{"equal ones of one number", []*appsv1.ControllerRevision{rev("b", "v1", 5), rev("a", "v1", 5)}, "b", 2, 6},
		{"other bytes", []*appsv1.ControllerRevision{rev("a", "v2", 2), old}, "old-bytes", 1, 3},
	} {
		d := decide(c.have, dataOf("v1"), template("v1"))
		var current string
		if d.current != nil {
			current = d.current.Name
		}
		if current != c.current || len(d.same) != c.same || d.number != c.number {
			t.Errorf("%s: current %q, %d same, number %d", c.name, current, len(d.same), d.number)
		}
	}
}

func TestExcess(t *testing.T) {
	list := []*appsv1.ControllerRevision{rev("d", "v4", 4), rev("a", "v1", 1), rev("c", "v3", 3), rev("b", "v2", 2)}
	live := func(r *appsv1.ControllerRevision) bool { return r.Name == "d" || r.Name == "a" }
	for limit, want := range map[*int32]string{nil: "", ptr.To[int32](-1): "", ptr.To[int32](0): "b c", ptr.To[int32](1): "b", ptr.To[int32](2): "", ptr.To[int32](9): ""} {
		var got []string
		for _, r := range Excess(list, live, limit) {
			got = append(got, r.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("limit %d: %v, want %q", ptr.Deref(limit, -9), got, want)
		}
	}
}

func TestNames(t *testing.T) {
	if a, b := hashOf([]byte("x"), 0), hashOf([]byte("x"), 1); a == b || a != hashOf([]byte("x"), 0) {
		t.Fatal(a, b)
	}
	for prefix, want := range map[string]string{
		"web": "web-h", strings.Repeat("x", 60): strings.Repeat("x", 52) + "-h", strings.Repeat("x", 51) + "-.y": strings.Repeat("x", 51) + "-h",
	} {
		if got := nameOf(prefix, "h"); got != want {
			t.Errorf("%s", got)
		}
	}
}

// TestNumbers: whatever the order of templates, the present one has the highest number alone, and going back makes no second revision.
func TestNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var have []*appsv1.ControllerRevision
		seen := map[string]bool{}
		for i := range rapid.IntRange(1, 20).Draw(t, "changes") {
			image := fmt.Sprint("v", rapid.IntRange(0, 5).Draw(t, "image"))
			d := decide(have, dataOf(image), template(image))
			if (d.current == nil) == seen[image] {
				t.Fatalf("%s: seen %v, found %v", image, seen[image], d.current)
			}
			seen[image] = true
			if d.current == nil {
				d.current = rev(fmt.Sprint(i), image, d.number)
				have = append(have, d.current)
			}
			d.current.Revision = d.number
			for _, r := range have {
				if r != d.current && r.Revision >= d.number {
					t.Fatalf("%d is not above %d", d.number, r.Revision)
				}
			}
			limit := int32(rapid.IntRange(0, 4).Draw(t, "limit"))
			gone := Excess(have, func(r *appsv1.ControllerRevision) bool { return r == d.current }, &limit)
			have = slices.DeleteFunc(have, func(r *appsv1.ControllerRevision) bool { return slices.Contains(gone, r) })
			if len(have) > int(limit)+1 || !slices.Contains(have, d.current) {
				t.Fatalf("%d revisions left of %d", len(have), limit)
			}
			for _, r := range gone {
				image, _, _ := strings.Cut(strings.SplitAfter(string(r.Data.Raw), `"image":"`)[1], `"`)
				delete(seen, image)
			}
		}
	})
}
