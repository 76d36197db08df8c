package policy

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"os"
	"path/filepath"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/internal/netpolicy"
	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/policy/rules"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nft runs it in the test's network namespace.
func nft(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s\n%s", args, err, out, stdin)
	}
	return string(out)
}

func needsNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("skipped: needs nft to read the table back")
	}
}

// listTable lists the table in an order that depends on nothing but what is in it.
func listTable(t *testing.T) string {
	t.Helper()
	objects := strings.Split(strings.TrimSuffix(nft(t, "", "list", "table", "ip", rules.TableName), "}\n"), "\n\n")
	for i, object := range objects {
		object = strings.TrimSpace(strings.TrimPrefix(object, "table ip "+rules.TableName+" {\n"))
		before, elements, found := strings.Cut(object, "elements = {")
		if found {
			list := strings.FieldsFunc(strings.TrimRight(elements, " }\n\t"), func(r rune) bool { return strings.ContainsRune(",\n\t", r) })
			for j := range list {
				list[j] = strings.TrimSpace(list[j])
			}
			slices.Sort(list)
			object = before + strings.Join(list, "\n")
		}
		objects[i] = object
	}
	slices.Sort(objects)
	return strings.Join(objects, "\n")
}

func ip(t *testing.T, text string) rules.IP {
	t.Helper()
	a, ok := rules.ParseIP(text)
	if !ok {
		t.Fatalf("%q is no address", text)
	}
	return a
}

// TestKernelHoldsWhatIsPrinted: for every golden ruleset the table that netlink makes is the one that nft makes of its text, and updates lead from
// each to each.
func TestKernelHoldsWhatIsPrinted(t *testing.T) {
	testenv.NetNS(t)
	needsNFT(t)
	paths, err := filepath.Glob("rules/testdata/*.yaml")
	must(t, err)
	if len(paths) == 0 {
		t.Fatal("no golden files")
	}
	table := &Table{}
	for _, path := range append(paths, paths...) {
		r := rulesetOf(t, path)
		must(t, table.Update(r))
		byNetlink := listTable(t)
		nft(t, "delete table ip "+rules.TableName+"\n"+r.String(), "-f", "-")
		if byText := listTable(t); byNetlink != byText {
			t.Fatalf("%s: by netlink:\n%s\nby text:\n%s", path, byNetlink, byText)
		}
	}
	must(t, Cleanup())
	must(t, Cleanup())
	if intact, err := table.Intact(); intact || err != nil {
		t.Errorf("after Cleanup: intact %v, %v", intact, err)
	}
}

func rulesetOf(t *testing.T, path string) *rules.Ruleset {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	m := rules.NewModel()
	http := netpolicy.Port{Name: "http", Protocol: "TCP"}
	for addr, app := range map[string]string{"10.244.0.2": "web", "10.244.0.3": "db"} {
		m.SetPod(ip(t, addr), &rules.Pod{Namespace: "shop", Labels: map[string]string{"app": app}, Ports: map[netpolicy.Port]uint16{http: 8080}})
	}
	m.SetPod(ip(t, "10.244.0.4"), &rules.Pod{Namespace: "other", Labels: map[string]string{"app": "client"}})
	for part := range strings.SplitSeq(string(data), "\n---\n") {
		p := &networkingv1.NetworkPolicy{}
		must(t, yaml.UnmarshalStrict([]byte(part), p))
		m.SetPolicy(p.Namespace, p.Name, p)
		for key, group := range netpolicy.Of(p) {
			e := rules.Element{Addr: ip(t, "10.244.0.2")}
			if group.Port != (netpolicy.Port{}) {
				e.Protocol, e.First = 6, 8080
			}
			m.SetPeers(key, "a", []rules.Element{e})
		}
	}
	return m.Ruleset()
}

// TestIntact: a table of which something was flushed is noticed, and made anew whole.
func TestIntact(t *testing.T) {
	testenv.NetNS(t)
	needsNFT(t)
	table := &Table{}
	r := rulesetOf(t, "rules/testdata/stacked.yaml")
	must(t, table.Update(r))
	whole := listTable(t)
	for _, command := range []string{"flush ruleset", "flush table ip " + rules.TableName, "delete table ip " + rules.TableName, "flush chain ip " + rules.TableName + " ingress"} {
		if intact, err := table.Intact(); !intact || err != nil {
			t.Fatalf("before %q: %v, %v", command, intact, err)
		}
		nft(t, command, "-f", "-")
		if intact, err := table.Intact(); intact || err != nil {
			t.Fatalf("after %q: %v, %v", command, intact, err)
		}
		must(t, table.Replace(r))
		if got := listTable(t); got != whole {
			t.Fatalf("after %q and Replace:\n%s", command, got)
		}
	}
}
