package apiserver_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver/apiservertest"
)

// Every stable resource is served, in its scope and with exactly its verbs.
func TestStableResources(t *testing.T) {
	text, err := os.ReadFile("testdata/api-resources.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := kubernetes.NewForConfigOrDie(apiservertest.Start(t)).Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]metav1.APIResource{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			served[l.GroupVersion+" "+r.Name] = r
		}
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		want := strings.Fields(line)
		if len(want) != 4 {
			t.Fatalf("not a resource: %q", line)
		}
		name := want[0] + " " + want[1]
		r, ok := served[name]
		if !ok {
			t.Errorf("%s is not served", name)
			continue
		}
		verbs := slices.Sorted(slices.Values(r.Verbs))
		if got := strconv.FormatBool(r.Namespaced) + " " + strings.Join(verbs, ","); got != want[2]+" "+want[3] {
			t.Errorf("%s: namespaced and verbs are %q, want %q", name, got, want[2]+" "+want[3])
		}
	}
}
