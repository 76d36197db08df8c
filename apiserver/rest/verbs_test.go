package rest_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// TestNoPatchIsLost: patches without a version are tried again until they meet the newest state.
func TestNoPatchIsLost(t *testing.T) {
	f := newFixture(t, nil)
	f.must("POST", mapsPath, configMap("a"))
	const writers, each = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				f.must("PATCH", mapsPath+"/a", fmt.Sprintf(`{"data":{"w%d-%d":"x"}}`, w, i), "Content-Type", mergeType)
			}
		})
	}
	wg.Wait()
	data, _, _ := nested(f.must("GET", mapsPath+"/a", ""), "data")
	if len(data) != writers*each {
		t.Errorf("%d of %d patches are there", len(data), writers*each)
	}
}

func nested(a answer, field string) (map[string]any, bool, error) {
	m, ok := a.obj.Object[field].(map[string]any)
	return m, ok, nil
}

// TestOnlyOneUpdateOfAVersion: of several updates of one version all but one are conflicts.
func TestOnlyOneUpdateOfAVersion(t *testing.T) {
	f := newFixture(t, nil)
	version := f.must("POST", mapsPath, configMap("a")).obj.GetResourceVersion()
	var wg sync.WaitGroup
	codes := make([]int, 10)
	for i := range codes {
		wg.Go(func() {
			codes[i] = f.do("PUT", mapsPath+"/a", fmt.Sprintf(`{"metadata":{"name":"a","resourceVersion":%q},"data":{"i":"%d"}}`, version, i)).code
		})
	}
	wg.Wait()
	count := map[int]int{}
	for _, c := range codes {
		count[c]++
	}
	if count[http.StatusOK] != 1 || count[http.StatusConflict] != len(codes)-1 {
		t.Errorf("codes %v", count)
	}
}

// TestPagesAreOneState: what changes between two pages of a list is in neither.
func TestPagesAreOneState(t *testing.T) {
	f := newFixture(t, nil)
	for i := range 10 {
		f.must("POST", mapsPath, configMap(fmt.Sprintf("m%d", i)))
	}
	first := f.must("GET", mapsPath+"?limit=4", "")
	f.must("POST", mapsPath, configMap("m55"))
	f.must("DELETE", mapsPath+"/m9", "")
	names, pages, token := namesOf(t, first), 1, cont(first)
	for token != "" {
		p := f.must("GET", mapsPath+"?limit=4&continue="+token, "")
		if p.obj.GetResourceVersion() != first.obj.GetResourceVersion() {
			t.Errorf("page at %s, the first was at %s", p.obj.GetResourceVersion(), first.obj.GetResourceVersion())
		}
		names, token, pages = append(names, namesOf(t, p)...), cont(p), pages+1
	}
	if got := strings.Join(names, " "); got != "m0 m1 m2 m3 m4 m5 m6 m7 m8 m9" || pages != 3 {
		t.Errorf("%d pages: %s", pages, got)
	}
	exact := f.must("GET", mapsPath+"?resourceVersionMatch=Exact&resourceVersion="+first.obj.GetResourceVersion(), "")
	if got := strings.Join(namesOf(t, exact), " "); got != "m0 m1 m2 m3 m4 m5 m6 m7 m8 m9" {
		t.Errorf("exact list: %s", got)
	}
}

func namesOf(t *testing.T, a answer) []string {
	t.Helper()
	l, err := a.obj.ToList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, item := range l.Items {
		out = append(out, item.GetName())
	}
	return out
}

func cont(a answer) string {
	m, _, _ := nested(a, "metadata")
	token, _ := m["continue"].(string)
	return token
}

// compacted is a store that has forgotten the past, from when forgotten is set.
type compacted struct {
	store.Store
	forgotten atomic.Bool
}

func (c *compacted) List(ctx context.Context, prefix string, o store.ListOptions) (store.List, error) {
	if o.Revision > 0 && c.forgotten.Load() {
		return store.List{}, store.ErrCompacted
	}
	return c.Store.List(ctx, prefix, o)
}

// TestExpiredContinue: the answer offers to go on inconsistently, and that works.
func TestExpiredContinue(t *testing.T) {
	st := &compacted{Store: memory.New()}
	f := newFixture(t, func(c *rest.Config) { c.Store = st })
	st.forgotten.Store(true)
	for i := range 4 {
		f.must("POST", mapsPath, configMap(fmt.Sprintf("m%d", i)))
	}
	// A token of a revision that neither cache nor store have: {"v":"meta.k8s.io/v1","rv":3,"start":"m1\u0000"}.
	const old = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Mywic3RhcnQiOiJtMVx1MDAwMCJ9"
	a := f.do("GET", mapsPath+"?limit=2&continue="+old, "")
	s := a.status()
	if a.code != http.StatusGone || s.Reason != "Expired" || s.Continue == "" {
		t.Fatalf("%d %s", a.code, a.text)
	}
	rest := f.must("GET", mapsPath+"?limit=5&continue="+s.Continue, "")
	if got := strings.Join(namesOf(t, rest), " "); got != "m2 m3" {
		t.Errorf("the rest: %s", got)
	}
	exact := f.do("GET", mapsPath+"?resourceVersionMatch=Exact&resourceVersion=3", "")
	if exact.code != http.StatusGone {
		t.Errorf("exact: %d %s", exact.code, exact.text)
	}
}

// TestGeneratedNamesCollide: a name that is taken is generated anew; a store in which all are taken ends the tries.
func TestGeneratedNamesCollide(t *testing.T) {
	taken := &takenStore{Store: memory.New()}
	f := newFixture(t, func(c *rest.Config) { c.Store = taken })
	taken.left = 7
	if a := f.do("POST", mapsPath, `{"metadata":{"generateName":"x-"}}`); a.code != http.StatusCreated {
		t.Errorf("%d %s", a.code, a.text)
	}
	taken.left = 8
	a := f.do("POST", mapsPath, `{"metadata":{"generateName":"x-"}}`)
	if a.code != http.StatusConflict || !strings.Contains(a.text, "AlreadyExists") {
		t.Errorf("%d %s", a.code, a.text)
	}
	long := f.must("POST", mapsPath, fmt.Sprintf(`{"metadata":{"generateName":%q}}`, strings.Repeat("y", 80)))
	if n := len(long.obj.GetName()); n != 63 {
		t.Errorf("a generated name of %d characters", n)
	}
}

// takenStore says of some keys that they exist.
type takenStore struct {
	store.Store
	left int
}

func (s *takenStore) Create(ctx context.Context, key string, value []byte, o store.CreateOptions) (int64, error) {
	if s.left > 0 {
		s.left--
		return 0, &store.ExistsError{Current: store.Entry{Key: key, Value: value, Revision: 1}}
	}
	return s.Store.Create(ctx, key, value, o)
}

// TestHook: what a hook reserves is given back where the write does not happen.
func TestHook(t *testing.T) {
	var log []string
	begin := func(op string) func(bool) {
		return func(written bool) { log = append(log, fmt.Sprint(op, " ", written)) }
	}
	f := newFixture(t, func(c *rest.Config) {
		c.Hooks = map[schema.GroupResource]rest.Hook{{Resource: "configmaps"}: {
			BeginCreate: func(_ context.Context, obj runtime.Object, dryRun bool) (func(bool), error) {
				return begin(fmt.Sprint("create dry=", dryRun)), nil
			},
			BeginUpdate: func(_ context.Context, obj, old runtime.Object, dryRun bool) (func(bool), error) {
				return begin("update"), nil
			},
			AfterDelete: func(context.Context, runtime.Object) { log = append(log, "deleted") },
		}}
	})
	f.must("POST", mapsPath, configMap("a"))
	f.do("POST", mapsPath, configMap("a"))
	f.do("POST", mapsPath, `{"metadata":{"name":"b"},"data":{"bad key":""}}`)
	f.must("POST", mapsPath+"?dryRun=All", configMap("c"))
	f.must("PUT", mapsPath+"/a", `{"metadata":{"name":"a"},"data":{"k":"v"}}`)
	f.do("PUT", mapsPath+"/a", `{"metadata":{"name":"a"},"data":{"bad key":""}}`)
	f.must("DELETE", mapsPath+"/a?dryRun=All", "")
	f.must("DELETE", mapsPath+"/a", "")
	want := "create dry=false true; create dry=false false; create dry=false false; create dry=true false; update true; update false; deleted"
	// The update that fails is tried a second time where the cache was behind.
	if got := strings.Join(log, "; "); got != want && got != strings.Replace(want, "update false", "update false; update false", 1) {
		t.Errorf("hooks ran as\n%s\nwant\n%s", got, want)
	}
}

// broken fails every write.
type broken struct{ store.Store }

func (broken) Create(context.Context, string, []byte, store.CreateOptions) (int64, error) {
	return 0, fmt.Errorf("disk: %w", store.ErrUnavailable)
}

func TestStoreFailures(t *testing.T) {
	f := newFixture(t, func(c *rest.Config) { c.Store = broken{memory.New()} })
	a := f.do("POST", mapsPath, configMap("a"))
	if a.code != http.StatusInternalServerError || a.status().Reason != "ServerTimeout" || a.status().Details.RetryAfterSeconds == 0 {
		t.Errorf("%d %s", a.code, a.text)
	}
}

// TestTwoVersionsOfOneResource: events are stored once and served in both groups.
func TestTwoVersionsOfOneResource(t *testing.T) {
	f := newFixture(t, nil)
	const core, events = "/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events"
	w := f.watch(events + "?watch=true")
	f.must("POST", core, `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"reason":"R","message":"M","type":"Normal"}`)
	e := w.next(t)
	if e.Type != "ADDED" || e.Object.GetAPIVersion() != "events.k8s.io/v1" || e.Object.Object["note"] != "M" {
		t.Errorf("event %+v", e)
	}
	if a := f.must("GET", events+"/e", ""); a.obj.Object["note"] != "M" || a.obj.GetAPIVersion() != "events.k8s.io/v1" {
		t.Errorf("%s", a.text)
	}
	if a := f.must("GET", core+"/e", ""); a.obj.Object["message"] != "M" || a.obj.GetAPIVersion() != "v1" {
		t.Errorf("%s", a.text)
	}
	l := f.must("GET", events+"?fieldSelector=regarding.name=p", "")
	if got := namesOf(t, l); len(got) != 1 {
		t.Errorf("selected %v", got)
	}
	f.must("PATCH", events+"/e", `{"metadata":{"labels":{"a":"b"}}}`, "Content-Type", mergeType)
	f.must("DELETE", events+"/e", "")
}

// TestGeneratedNamespaceCollides: a namespace is labelled with the name that it gets in the end.
func TestGeneratedNamespaceCollides(t *testing.T) {
	taken := &takenStore{Store: memory.New()}
	f := newFixture(t, func(c *rest.Config) { c.Store = taken })
	taken.left = 3
	ns := f.must("POST", "/api/v1/namespaces", `{"metadata":{"generateName":"x-"}}`).obj
	if got := ns.GetLabels()["kubernetes.io/metadata.name"]; got != ns.GetName() || taken.left != 0 {
		t.Errorf("namespace %s is labelled %s", ns.GetName(), got)
	}
}
