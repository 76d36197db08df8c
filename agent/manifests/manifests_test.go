package manifests

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

const web = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a: b}}
spec:
  containers:
  - name: app
    image: demo:v1
    livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 3}
`

func TestParse(t *testing.T) {
	p, err := Parse([]byte(web), "N1")
	if err != nil {
		t.Fatal(err)
	}
	probe := p.Spec.Containers[0].LivenessProbe
	if p.Name != "web-n1" || p.Namespace != "default" || p.Spec.NodeName != "N1" || p.Annotations[AnnotationSource] != "file" ||
		p.Annotations[AnnotationHash] != string(p.UID) || p.Spec.RestartPolicy != v1.RestartPolicyAlways || probe.PeriodSeconds != 3 || probe.FailureThreshold != 3 {
		t.Errorf("%+v", p)
	}
	again, _ := Parse([]byte(web+"\n"), "N1")
	other, _ := Parse([]byte(web), "n2")
	changed, _ := Parse([]byte(strings.Replace(web, "v1\n    live", "v2\n    live", 1)), "N1")
	if again.UID != p.UID || other.UID == p.UID || changed.UID == p.UID {
		t.Errorf("UIDs %s %s %s %s", p.UID, again.UID, other.UID, changed.UID)
	}
	node := &v1.Node{}
	node.Name, node.UID = "N1", "u"
	m := Mirror(p, node)
	if MirrorOf(m) != p.UID || m.UID != "" || len(m.OwnerReferences) != 1 || m.OwnerReferences[0].Kind != "Node" || !*m.OwnerReferences[0].Controller || MirrorOf(p) != "" {
		t.Errorf("mirror %+v", m.ObjectMeta)
	}
	if _, err := Parse([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j"},"spec":{"containers":[{"name":"a","image":"b"}]}}`), "n"); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"kind: Secret\napiVersion: v1":                                                               "no Pod",
		web + "  nothing: 1":                                                                         "unknown field",
		web + "  serviceAccountName: x":                                                              "may not reference serviceaccounts",
		web + "  volumes: [{name: v, secret: {secretName: s}}]":                                      "may not reference secrets",
		strings.Replace(web, "name: web", "name: We_b", 1):                                           "metadata.name",
		strings.Replace(web, "image: demo:v1", "image: ''", 1):                                       "an image",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}":                                   "there is none",
		web + "  - {name: app, image: x}":                                                            "a name of its own",
		strings.Replace(web, "image: demo:v1", "envFrom: [{secretRef: {name: s}}]\n    image: x", 1): "configmaps or secrets",
	} {
		if _, err := Parse([]byte(text), "n1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan []string, 100)
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, dir, "n1", slog.New(slog.DiscardHandler), func(pods []*v1.Pod) {
			names := []string{}
			for _, p := range pods {
				names = append(names, p.Name+" "+p.Spec.Containers[0].Image)
			}
			got <- names
		})
	}()
	await := func(want ...string) {
		t.Helper()
		for {
			select {
			case names := <-got:
				if slices.Equal(names, want) {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("no %q", want)
			}
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	await()
	write("web.yaml", web)
	await("web-n1 demo:v1")
	write(".hidden", web)
	write("again.yaml", web) // the first file of a name counts
	write("web.yaml", strings.Replace(web, "demo:v1", "demo:v2", 1))
	await("web-n1 demo:v1")
	if err := os.Remove(filepath.Join(dir, "again.yaml")); err != nil {
		t.Fatal(err)
	}
	await("web-n1 demo:v2")
	write("web.yaml", "{")
	await("web-n1 demo:v2")
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	await()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
