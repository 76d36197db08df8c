// Package importrules holds the tree's import rules as a test, each with its reason.
package importrules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/coracle-dev/coracle/"

// rule forbids packages below From to import packages below any of Not, but for those below Except.
type rule struct {
	from   string
	not    []string
	except []string
	why    string
}

var components = []string{"scheduler", "controllers", "agent", "proxy", "apiserver"}

var rules = []rule{
	{from: "proto", not: append([]string{"cmd", "internal", "integration"}, components...), why: "contracts depend on nothing of ours"},
	{from: "internal", not: append([]string{"cmd", "integration"}, components...), except: []string{"internal/testenv", "internal/gen"}, why: "leaves import nothing above them"},
	{from: "scheduler", not: []string{"controllers", "agent", "proxy", "apiserver", "cmd"}, why: "components meet only at the API"},
	{from: "controllers", not: []string{"scheduler", "agent", "proxy", "apiserver", "cmd"}, why: "components meet only at the API"},
	{from: "agent", not: []string{"scheduler", "controllers", "proxy", "apiserver", "cmd"}, why: "components meet only at the API"},
	{from: "proxy", not: []string{"scheduler", "controllers", "agent", "apiserver", "cmd"}, why: "components meet only at the API"},
	{from: "apiserver", not: []string{"scheduler", "controllers", "agent", "proxy", "cmd"}, why: "the API server knows no component"},
	{from: "apiserver/store", not: []string{"apiserver"}, except: []string{"apiserver/store"}, why: "the store keeps bytes and knows nothing of the API"},
	{from: "apiserver/cache", not: []string{"apiserver"}, except: []string{"apiserver/cache", "apiserver/store"}, why: "the cache is below rest"},
	{from: "apiserver/kinds", not: []string{"apiserver"}, except: []string{"apiserver/kinds"}, why: "the table of kinds is pure"},
	{from: "apiserver/admission", not: []string{"apiserver/rest", "apiserver/cache", "apiserver/store"}, why: "plug-ins look at objects through Reader only"},
	{from: "apiserver/rest", not: []string{"apiserver/discovery", "apiserver/openapi", "apiserver/tunnel"}, why: "rest serves kinds; the composition adds the rest"},
	{from: "integration", not: append([]string{"cmd"}, components...), why: "integration sees binaries and clients"},
}

// pure packages decide; none of these may reach into them.
var (
	purePackages = []string{"scheduler/model", "scheduler/filter", "scheduler/score", "scheduler/decide", "scheduler/queue", "agent/lifecycle", "proxy/ruleset", "proxy/policy/rules", "internal/netpolicy", "apiserver/kinds", "internal/ingress"}
	impure       = []string{"os", "os/exec", "net", "net/http", "syscall", "math/rand", "math/rand/v2", "crypto/rand", "golang.org/x/sys/unix", "k8s.io/client-go/kubernetes"}
)

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func below(path string, roots []string) bool {
	for _, root := range roots {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}

func TestImports(t *testing.T) {
	pkgs := list(t)
	if len(pkgs) < 10 {
		t.Fatalf("only %d packages found", len(pkgs))
	}
	for _, p := range pkgs {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range rules {
			if !below(path, []string{r.from}) || below(path, r.except) {
				continue
			}
			for _, imported := range p.Imports {
				ours, found := strings.CutPrefix(imported, module)
				if found && below(ours, r.not) && !below(ours, r.except) && !below(ours, []string{r.from}) {
					t.Errorf("%s imports %s: %s", path, ours, r.why)
				}
			}
		}
	}
}

func TestPurePackages(t *testing.T) {
	for _, p := range list(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		if !below(path, purePackages) {
			continue
		}
		for _, imported := range p.Imports {
			for _, bad := range impure {
				if path == "apiserver/kinds" && bad == "net" {
					continue // for host and port as text, which is pure
				}
				if imported == bad {
					t.Errorf("%s imports %s: decisions are made without I/O, clock or randomness", path, imported)
				}
			}
		}
	}
}
