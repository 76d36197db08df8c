package conformance

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/internal/testenv"
)

// TestPodSpecDocument holds docs/pod-spec.md complete and true: it has every field of the API's types and no other, each with its effect and
// a test that is there.
func TestPodSpecDocument(t *testing.T) {
	documented := documentedFields(t)
	for owner, fields := range specFields(reflect.TypeFor[corev1.PodSpec]()) {
		have, ok := documented[owner]
		if !ok {
			t.Errorf("%s has no table", owner)
			continue
		}
		delete(documented, owner)
		if have["*"] {
			continue
		}
		for _, field := range fields {
			if !have[field] {
				t.Errorf("%s.%s has no row", owner, field)
			}
			delete(have, field)
		}
		for field := range have {
			t.Errorf("%s has no field %s", owner, field)
		}
	}
	for owner := range documented {
		t.Errorf("there is no type %s below PodSpec", owner)
	}
}

// specFields are the fields of a type and of all below it, by the types' names, under their names in JSON.
func specFields(of reflect.Type) map[string][]string {
	all := map[string][]string{}
	var walk func(of reflect.Type)
	walk = func(of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of.PkgPath() != reflect.TypeFor[corev1.PodSpec]().PkgPath() || all[of.Name()] != nil {
			return
		}
		all[of.Name()] = []string{}
		for i := range of.NumField() {
			f := of.Field(i)
			if !f.Anonymous { // what is inlined has a table of its own
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				all[of.Name()] = append(all[of.Name()], name)
			}
			walk(f.Type)
		}
	}
	walk(of)
	return all
}

// documentedFields are the rows of the document's tables, by type. It checks each row's effect and tests.
func documentedFields(t *testing.T) map[string]map[string]bool {
	t.Helper()
	document, err := os.ReadFile("../../docs/pod-spec.md")
	if err != nil {
		t.Fatal(err)
	}
	source := sources(t, ".", "..")
	all, owners := map[string]map[string]bool{}, []string(nil)
	for line := range strings.SplitSeq(string(document), "\n") {
		if title, ok := strings.CutPrefix(line, "### "); ok {
			owners = strings.Split(title, ", ")
			for _, owner := range owners {
				all[owner] = map[string]bool{}
			}
		}
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 3 {
			continue
		}
		for _, field := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			for _, owner := range owners {
				all[owner][field[1]] = true
			}
		}
		effect, tests := strings.TrimSpace(cells[1]), regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1)
		if effect == "" || len(tests) == 0 && !strings.HasPrefix(effect, "see ") {
			t.Errorf("no effect or no test in %q", line)
		}
		for _, test := range tests {
			if !testExists(source, test[1]) {
				t.Errorf("there is no %s", test[1])
			}
		}
	}
	if len(all) < 50 {
		t.Fatalf("only %v", slices.Sorted(maps.Keys(all)))
	}
	return all
}

// testExists looks for a test of the real binary, or for "folder: TestX".
func testExists(source, name string) bool {
	folder, test, found := strings.Cut(name, ": ")
	if !found {
		return exists(source, name)
	}
	files, err := filepath.Glob(filepath.Join(testenv.Repository(), folder, "*_test.go"))
	if err != nil {
		return false
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "\nfunc "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}
