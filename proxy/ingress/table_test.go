package ingress

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/coracle-dev/coracle/internal/ingress"
)

// rulesOf reads lines such as "a.example.com =/exact svc", "*.example.com /prefix svc" and "- / svc"; "default svc" and "tls secret host,host".
func rulesOf(name string, age int64, text string) *ingress.Rules {
	r := &ingress.Rules{Key: types.NamespacedName{Namespace: "ns", Name: name}, Age: age}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "default":
			r.Default = &ingress.Backend{Service: words[1]}
		case words[0] == "tls":
			t := ingress.TLS{Secret: strings.TrimPrefix(words[1], "-")}
			if len(words) > 2 {
				t.Hosts = strings.Split(words[2], ",")
			}
			r.TLS = append(r.TLS, t)
		default:
			p := ingress.Path{Host: strings.TrimPrefix(words[0], "-"), Path: strings.TrimRight(words[1], "/"), Backend: ingress.Backend{Service: words[2]}}
			if exact, ok := strings.CutPrefix(words[1], "="); ok {
				p.Path, p.Exact = exact, true
			}
			r.Paths = append(r.Paths, p)
		}
	}
	return r
}

func tableOf(all ...*ingress.Rules) *table {
	b := newBuilder(nil)
	for _, r := range all {
		b.set(r.Key, r)
	}
	return b.build()
}

func service(r *route) string {
	if r == nil {
		return ""
	}
	return r.Backend.Service
}

func TestMatch(t *testing.T) {
	tab := tableOf(
		rulesOf("a", 1, `
			a.example.com / root
			a.example.com /foo foo
			a.example.com =/foo foo-exact
			a.example.com /foo/bar/ foobar
			a.example.com =/foo/ foo-slash
			a.example.com /aaa aaa
			a.example.com /aaa/bbb aaabbb`),
		rulesOf("b", 2, `
			a.example.com /foo late
			a.example.com /late late
			*.example.com / wild
			*.example.com /only-wild only-wild
			b.example.com /b b
			default b-default`),
		rulesOf("c", 3, `
			- /any any
			default c-default`),
		rulesOf("d", 4, `default all`),
		rulesOf("e", 5, `default late`),
		rulesOf("f", 6, "x.example.org =/only x"),
	)
	for _, c := range []struct{ host, path, want string }{
		// Upstream's table of path types, and the longest of those that match.
		{"a.example.com", "/", "root"}, {"a.example.com", "/other", "root"}, {"a.example.com", "/foo", "foo-exact"}, {"a.example.com", "/foo/", "foo-slash"},
		{"a.example.com", "/foo/x", "foo"}, {"a.example.com", "/foobar", "root"}, {"a.example.com", "/foo/bar", "foobar"}, {"a.example.com", "/foo/bar/baz", "foobar"},
		{"a.example.com", "/foo/barbaz", "foo"}, {"a.example.com", "/FOO", "root"}, {"a.example.com", "/aaa/ccc", "aaa"}, {"a.example.com", "/aaa/bbb/ccc", "aaabbb"}, {"a.example.com", "/aaa/bbbxyz", "aaa"},
		{"a.example.com", "/late", "late"}, {"a.example.com", "/foo//", "foo"}, {"a.example.com", "//foo", "root"},
		// Hosts: its own, then a wildcard of one label, then any.
		{"b.example.com", "/b", "b"}, {"b.example.com", "/x", "wild"}, {"b.example.com", "/only-wild", "only-wild"}, {"c.example.com", "/", "wild"},
		{"x.c.example.com", "/any", "any"}, {"example.com", "/any/x", "any"}, {"", "/any", "any"}, {".example.com", "/any", "any"},
		{"x.example.org", "/only", "x"}, {"x.example.org", "/only/", "all"}, {"x.example.org", "/any", "any"},
		// The default backend of an Ingress that is nothing else comes before those that belong to rules.
		{"example.com", "/", "all"}, {"", "/", "all"},
		// What is no path.
		{"a.example.com", "", ""}, {"a.example.com", "*", ""},
	} {
		if got := service(tab.match(c.host, c.path)); got != c.want {
			t.Errorf("%s%s: %q, want %q", c.host, c.path, got, c.want)
		}
	}
	alone := tableOf(rulesOf("b", 2, "b.example.com /b b\ndefault b-default"))
	for path, want := range map[string]string{"/b": "b", "/x": "b-default"} {
		if got := service(alone.match("b.example.com", path)); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	two := tableOf(rulesOf("1", 1, "a.com /x x\ndefault first"), rulesOf("2", 2, "b.com /x x\ndefault second"))
	for host, want := range map[string]string{"a.com": "first", "b.com": "second", "c.com": "first"} {
		if got := service(two.match(host, "/")); got != want {
			t.Errorf("default backend of %s: %q", host, got)
		}
	}
	if r := tableOf().match("a.com", "/"); r != nil {
		t.Errorf("an empty table serves %v", r)
	}
}

func TestCertificateNames(t *testing.T) {
	tab := tableOf(
		rulesOf("a", 1, "a.com / x\nb.com / x\n*.w.com / x\ntls all"),
		rulesOf("b", 2, "tls own a.com,c.com,*.c.com"),
		rulesOf("c", 3, "tls - d.com"),
		rulesOf("d", 4, "- / x\ntls any"),
	)
	for host, want := range map[string]string{"a.com": "all", "b.com": "all", "x.w.com": "all", "x.x.w.com": "any", "c.com": "own", "x.c.com": "own", "d.com": "any", "": "any"} {
		if got, _ := tab.certs.find(host); got.Name != want {
			t.Errorf("%s: %s, want %s", host, got.Name, want)
		}
	}
	if _, ok := tableOf(rulesOf("a", 1, "a.com / x\ntls own a.com")).certs.find("b.com"); ok {
		t.Error("a certificate for a host that has none")
	}
	if !tab.secured || tableOf(rulesOf("a", 1, "a.com / x")).secured {
		t.Error("secured is wrong")
	}
}

// dump writes a table as text.
func dump(t *table) string {
	var lines []string
	add := func(kind, host string, s *site) {
		if s == nil {
			return
		}
		for path, r := range s.exact {
			lines = append(lines, fmt.Sprintf("%s %s =%s %s of %s", kind, host, path, r.Backend.Service, r.rules.Key))
		}
		for path, r := range s.prefixes {
			lines = append(lines, fmt.Sprintf("%s %s %s/ %s of %s", kind, host, path, r.Backend.Service, r.rules.Key))
		}
		lines = append(lines, fmt.Sprintf("%s %s: %d, %s", kind, host, s.longest, service(s.fallback)))
	}
	for host, s := range t.exact {
		add("exact", host, s)
	}
	for host, s := range t.wild {
		add("wild", host, s)
	}
	add("any", "", t.any)
	slices.Sort(lines)
	return fmt.Sprintf("%s\ndefault %s\ncerts %v %v", strings.Join(lines, "\n"), service(t.fallback), t.certs, t.secured)
}

// TestIncremental: after any sequence of changes the table is the one that would be made from the same Ingresses at once, and earlier
// tables are what they were.
func TestIncremental(t *testing.T) {
	hosts := []string{"-", "a.com", "b.com", "*.a.com", "x.a.com"}
	paths := []string{"/", "/a", "/a/b", "=/a", "=/"}
	rapid.Check(t, func(t *rapid.T) {
		b, now := newBuilder(nil), map[types.NamespacedName]*ingress.Rules{}
		was, wasText := b.build(), ""
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			key := types.NamespacedName{Namespace: "ns", Name: rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "name")}
			if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
				delete(now, key)
				b.set(key, nil)
			} else {
				var text strings.Builder
				for i := range rapid.IntRange(0, 4).Draw(t, "paths") {
					fmt.Fprintf(&text, "%s %s s%d\n", rapid.SampledFrom(hosts).Draw(t, "host"), rapid.SampledFrom(paths).Draw(t, "path"), i)
				}
				if rapid.Bool().Draw(t, "default") {
					text.WriteString("default d\n")
				}
				if rapid.Bool().Draw(t, "tls") {
					text.WriteString("tls cert a.com,*.a.com\n")
				}
				now[key] = rulesOf(key.Name, int64(rapid.IntRange(0, 2).Draw(t, "age")), text.String())
				b.set(key, now[key])
			}
			if rapid.Bool().Draw(t, "build") {
				continue // several changes at once
			}
			got := b.build()
			if want := dump(tableOf(slices.Collect(maps.Values(now))...)); dump(got) != want {
				t.Fatalf("changed step by step:\n%s\nmade at once:\n%s", dump(got), want)
			}
			if wasText != "" && dump(was) != wasText {
				t.Fatal("an earlier table has changed")
			}
			was, wasText = got, dump(got)
			if routes := len(slices.Collect(got.routes())); routes < len(got.exact) {
				t.Fatalf("%d routes of %d hosts", routes, len(got.exact))
			}
		}
	})
}

// FuzzMatch compares with matching as the specification words it.
func FuzzMatch(f *testing.F) {
	f.Add("/foo/bar", "/foo", "/foo/bar/baz")
	f.Add("/", "", "//")
	f.Add("/a/b", "/a", "/a/bc")
	f.Fuzz(func(t *testing.T, one, two, request string) {
		if !strings.HasPrefix(request, "/") {
			request = "/" + request
		}
		rules := &ingress.Rules{Key: types.NamespacedName{Name: "x"}}
		for i, p := range []string{one, two} {
			p = strings.TrimRight("/"+strings.TrimLeft(p, "/"), "/")
			rules.Paths = append(rules.Paths, ingress.Path{Path: p, Backend: ingress.Backend{Service: fmt.Sprint(i)}})
		}
		want := ""
		longest := -1
		for _, p := range rules.Paths {
			if (request == p.Path || strings.HasPrefix(request, p.Path+"/")) && len(p.Path) > longest {
				want, longest = p.Backend.Service, len(p.Path)
			}
		}
		if got := service(tableOf(rules).match("h", request)); got != want {
			t.Errorf("%q %q, request %q: %q, want %q", rules.Paths[0].Path, rules.Paths[1].Path, request, got, want)
		}
	})
}

// FuzzHost: whatever a client says, there is an answer, and it is the same for all ways to write a host.
func FuzzHost(f *testing.F) {
	for _, h := range []string{"a.com", "A.COM:80", "[::1]:80", "a.com.", ":", "[", "a:b:c", "*.com"} {
		f.Add(h)
	}
	tab := tableOf(rulesOf("a", 1, "a.com / x\n*.a.com / y\n- / z"))
	f.Fuzz(func(t *testing.T, host string) {
		h := hostOf(host)
		if tab.match(h, "/") == nil || strings.ToLower(h) != h {
			t.Errorf("%q: %q", host, h)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	build := newBuilder(nil)
	for i := range 10_000 {
		r := rulesOf(fmt.Sprint(i), int64(i), fmt.Sprintf("h%d.example.com / root\nh%d.example.com /api/v1 api\nh%d.example.com =/healthz health", i, i, i))
		build.set(r.Key, r)
	}
	t := build.build()
	b.ReportAllocs()
	for b.Loop() {
		if t.match("h5000.example.com", "/api/v1/things/42") == nil {
			b.Fatal("no match")
		}
	}
}

func BenchmarkOneChange(b *testing.B) {
	build := newBuilder(nil)
	for i := range 10_000 {
		r := rulesOf(fmt.Sprint(i), int64(i), fmt.Sprintf("h%d.example.com / root\nh%d.example.com /api/v1 api", i, i))
		build.set(r.Key, r)
	}
	build.build()
	one := rulesOf("7", 7, "h7.example.com / other")
	for b.Loop() {
		build.set(one.Key, one)
		build.build()
	}
}
