package rest_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refusals are the codes with which bad input is answered.
var refusals = []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusGone, http.StatusRequestEntityTooLarge,
	http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}

// sane checks an answer: a success is JSON and no larger than its input can make it, anything else is a Status that says why.
func sane(t *testing.T, a answer, input int) {
	t.Helper()
	if a.code < 300 {
		if !json.Valid([]byte(a.text)) {
			t.Errorf("%d %q", a.code, a.text)
		}
		if limit := 64<<10 + 8*input; len(a.text) > limit {
			t.Errorf("%d bytes of input give %d of output", input, len(a.text))
		}
		return
	}
	s := a.status()
	if !slices.Contains(refusals, a.code) || s.Status != metav1.StatusFailure || s.Reason == "" && a.code != http.StatusUnprocessableEntity || int(s.Code) != a.code {
		t.Errorf("%d %s", a.code, a.text)
	}
}

const fuzzedPod = `{"metadata":{"name":"p","labels":{"a":"b"},"annotations":{"n":"1"}},"spec":{"containers":[
	{"name":"c","image":"i","ports":[{"containerPort":80}],"env":[{"name":"A","value":"x"}]},{"name":"d","image":"j"}],"tolerations":[{"key":"k","operator":"Exists"}]}}`

// fuzzPatches sends patches of one type to a pod, in dry run, so that each starts from the same.
func fuzzPatches(f *testing.F, mediaType string, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	fx := newFixture(f, nil)
	before := fx.must("POST", podsPath, fuzzedPod).obj
	path := podsPath + "/p?dryRun=All&fieldManager=fuzz"
	f.Fuzz(func(t *testing.T, patch []byte) {
		fx := fx.in(t)
		for _, validation := range []string{"Strict", "Ignore"} {
			a := fx.do("PATCH", path+"&fieldValidation="+validation, string(patch), "Content-Type", mediaType)
			sane(t, a, len(patch))
			if a.code < 300 && (a.obj.GetName() != "p" || a.obj.GetNamespace() != "default" || a.obj.GetUID() != before.GetUID() || a.obj.GetKind() != "Pod") {
				t.Errorf("it became another: %s", a.text)
			}
		}
	})
}

func FuzzJSONPatch(f *testing.F) {
	fuzzPatches(f, "application/json-patch+json", `[]`, `[{"op":"add","path":"/metadata/labels/x","value":"y"}]`,
		`[{"op":"test","path":"/spec/containers/0/name","value":"c"},{"op":"replace","path":"/spec/containers/0/image","value":"k"}]`,
		`[{"op":"move","from":"/metadata/labels","path":"/metadata/annotations"},{"op":"copy","from":"/spec","path":"/spec/x"},{"op":"remove","path":"/spec/tolerations/0"}]`,
		`[{"op":"add","path":"/spec/containers/-1","value":null}]`, `{"op":"add"}`, `[{"op":"copy","from":"","path":"/a"}]`)
}

func FuzzMergePatch(f *testing.F) {
	fuzzPatches(f, "application/merge-patch+json", `{}`, `null`, `{"metadata":{"labels":null,"name":"q"}}`, `{"spec":{"containers":[{"name":"c","image":"k"},{"name":"d","image":"j"}]}}`,
		`{"metadata":{"resourceVersion":"1"}}`, `{"a":{"a":{"a":{"a":1}}}}`, `{"metadata":{"labels":{"a":"b"},"labels":{"a":"c"}}}`)
}

func FuzzStrategicPatch(f *testing.F) {
	fuzzPatches(f, "application/strategic-merge-patch+json", `{}`, `{"spec":{"containers":[{"name":"c","image":"k"}]}}`,
		`{"spec":{"containers":[{"$patch":"replace"},{"name":"c","image":"k"}]}}`, `{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"d"}]}}`,
		`{"metadata":{"labels":{"$patch":"replace","x":"y"},"$retainKeys":["labels"]}}`, `{"spec":{"$deleteFromPrimitiveList/x":[1],"tolerations":[{"key":"l"}]}}`, `{"$patch":"merge"}`)
}

func FuzzApply(f *testing.F) {
	fuzzPatches(f, "application/apply-patch+yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: c}}\n",
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"k","ports":[{"containerPort":80},{"containerPort":80}]}]}}`,
		"apiVersion: v1\nkind: Pod\nmetadata: {managedFields: []}", "a: &a [*a]", `{"apiVersion":"v2","kind":"Pod"}`)
}

// FuzzSelectors: whatever selects, a list is answered or refused, and holds no more than there is.
func FuzzSelectors(f *testing.F) {
	for _, s := range [][2]string{{"a=b", "metadata.name=p"}, {"a in (b,c),!d", "spec.nodeName!="}, {"a notin (", "status.phase=\\,"}, {"x>1,y<2", "=="}, {"a,,b", "metadata.name="}} {
		f.Add(s[0], s[1])
	}
	fx := newFixture(f, nil)
	fx.must("POST", podsPath, fuzzedPod)
	f.Fuzz(func(t *testing.T, labels, fields string) {
		q := url.Values{"labelSelector": {labels}, "fieldSelector": {fields}}
		a := fx.in(t).do("GET", podsPath+"?"+q.Encode(), "")
		sane(t, a, len(labels)+len(fields))
		if items, _ := a.obj.Object["items"].([]any); a.code == http.StatusOK && len(items) > 1 {
			t.Errorf("%d of one pod", len(items))
		}
	})
}

// FuzzListPages: no continue token leads to what the path does not cover.
func FuzzListPages(f *testing.F) {
	fx := newFixture(f, nil)
	for _, name := range []string{"a", "b", "c"} {
		fx.must("POST", mapsPath, configMap(name))
	}
	fx.must("POST", "/api/v1/namespaces/other/configmaps", configMap("hidden"))
	first := fx.must("GET", mapsPath+"?limit=1", "").obj.GetContinue()
	f.Add(first, "1")
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYVx1MDAwMCJ9", "2")
	f.Add("", "-1")
	f.Fuzz(func(t *testing.T, token, limit string) {
		q := url.Values{"continue": {token}, "limit": {limit}}
		a := fx.in(t).do("GET", mapsPath+"?"+q.Encode(), "")
		sane(t, a, len(token))
		if strings.Contains(a.text, "hidden") {
			t.Errorf("another namespace's: %s", a.text)
		}
	})
}

// in is the fixture for one input.
func (f *fixture) in(t *testing.T) *fixture {
	one := *f
	one.t = t
	return &one
}
