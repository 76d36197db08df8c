package kinds

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

var rewriteErrors = flag.Bool("rewrite-errors", false, "rewrite testdata/errors")

// TestErrorTexts goes through testdata/errors, a file a group. A case is a title (== title), an object to create and the errors (> text);
// a second object, behind ---, is what is to become of the first one, whose uid is given.
func TestErrorTexts(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			head, cases, _ := strings.Cut(string(text), "== ")
			out.WriteString(head)
			for c := range strings.SplitSeq(cases, "\n== ") {
				title, body, _ := strings.Cut(c, "\n")
				objects, _, _ := strings.Cut("\n"+body, "\n>")
				fmt.Fprintf(&out, "== %s\n%s\n", title, strings.TrimSpace(objects))
				for _, line := range errorsOf(t, title, objects) {
					fmt.Fprintf(&out, "> %s\n", line)
				}
				out.WriteString("\n")
			}
			got := strings.TrimSpace(out.String()) + "\n"
			if *rewriteErrors {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("%s differs:\n%s", file, got)
			}
		})
	}
}

// errorsOf creates or updates.
func errorsOf(t *testing.T, title, objects string) []string {
	t.Helper()
	first, second, isUpdate := strings.Cut(objects, "\n---\n")
	k, obj := parseObject(t, title, first)
	errs := create(k, obj)
	if isUpdate {
		if len(errs) > 0 {
			t.Fatalf("%s: the object to change is refused: %v", title, errs)
		}
		metaOf(obj).SetResourceVersion("1")
		_, changed := parseObject(t, title, second)
		m := metaOf(changed)
		m.SetResourceVersion("1")
		m.SetUID(metaOf(obj).GetUID())
		errs = update(k, changed, obj)
	}
	if len(errs) == 0 {
		return []string{"(none)"}
	}
	return texts(errs)
}

func metaOf(obj runtime.Object) metav1.Object { return obj.(metav1.Object) }

func parseObject(t *testing.T, title, text string) (*Kind, runtime.Object) {
	t.Helper()
	var u unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%s: %v", title, err)
	}
	for _, k := range All() {
		if k.GVK != u.GroupVersionKind() {
			continue
		}
		obj := k.New()
		if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
			t.Fatalf("%s: %v", title, err)
		}
		m := metaOf(obj)
		if k.Namespaced {
			m.SetNamespace("default")
		}
		if m.GetName() == "" {
			m.SetName("x")
		}
		m.SetUID(types.UID("0b9c3a8e-0000-4000-8000-000000000000"))
		return &k, obj
	}
	t.Fatalf("%s: no kind %v", title, u.GroupVersionKind())
	return nil, nil
}
