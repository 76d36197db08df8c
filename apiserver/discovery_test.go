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

// notYet are the stable resources that are still to come. One that is served is checked like the others.
var notYet = []string{}

// moreVerbs are served beyond upstream's.
var moreVerbs = map[string]string{"v1 namespaces": "deletecollection"}

// Every stable resource is served, in its scope and with exactly its verbs, but for the exceptions above.
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
			if !slices.Contains(notYet, name) {
				t.Errorf("%s is not served", name)
			}
			continue
		}
		verbs := slices.Sorted(slices.Values(r.Verbs))
		verbs = slices.DeleteFunc(verbs, func(v string) bool { return v == moreVerbs[name] })
		if got := strconv.FormatBool(r.Namespaced) + " " + strings.Join(verbs, ","); got != want[2]+" "+want[3] {
			t.Errorf("%s: namespaced and verbs are %q, want %q", name, got, want[2]+" "+want[3])
		}
	}
}
