package nft

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/internal/testenv"
	"github.com/coracle-dev/coracle/proxy/ruleset"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestGolden: what `nft list table` shows of the objects in each testdata/NAME.yaml is in NAME.nft: the table whole in empty.nft, of the others only
// what is there besides.
func TestGolden(t *testing.T) {
	if version, err := exec.Command("nft", "--version").Output(); err != nil || !strings.Contains(string(version), "v1.0.") {
		t.Skipf("skipped: needs nft 1.0, for others write some rules in another way: %s, %v", version, err)
	}
	testenv.NetNS(t)
	files, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	newKernel(t, testConfig, nil)
	empty := listing(t)
	for _, file := range append([]string{"testdata/empty.yaml"}, files...) {
		golden := strings.TrimSuffix(file, ".yaml") + ".nft"
		must(t, Delete())
		state := ruleset.NewState()
		state.Update(compileFile(t, file)...)
		table := New(testConfig)
		if _, err := table.Sync(state.All()); err != nil {
			t.Fatal(err)
		}
		must(t, table.Close())
		blocks := listing(t)
		if file != "testdata/empty.yaml" {
			blocks = slices.DeleteFunc(blocks, func(b string) bool { return slices.Contains(empty, b) })
		}
		got := strings.Join(blocks, "\n\n") + "\n"
		if *rewrite {
			must(t, os.WriteFile(golden, []byte(got), 0o644))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if got != string(want) {
			t.Errorf("differs from %s (go test -rewrite writes it anew):\n%s", golden, got)
		}
	}
}

// listing is the table as nft shows it, in blocks; chains and elements in order, for the kernel keeps some of them in that in which they came.
func listing(t testing.TB) []string {
	t.Helper()
	out := nft(t, "list", "table", "ip", TableName)
	_, out, _ = strings.Cut(strings.TrimSuffix(strings.TrimSpace(out), "}"), "\n")
	blocks := strings.Split(strings.Trim(out, "\n"), "\n\n")
	for i, block := range blocks {
		before, elements, ok := strings.Cut(block, "elements = { ")
		if !ok {
			continue
		}
		elements, after, _ := strings.Cut(elements, " }")
		all := strings.Split(elements, ",")
		for i := range all {
			all[i] = strings.TrimSpace(all[i])
		}
		slices.Sort(all)
		blocks[i] = before + "elements = { " + strings.Join(all, ",\n\t\t\t     ") + " }" + after
	}
	sets := slices.IndexFunc(blocks, func(b string) bool { return strings.HasPrefix(b, "\tchain") })
	slices.SortFunc(blocks[sets:], strings.Compare)
	return blocks
}

func compileFile(t *testing.T, file string) []ruleset.Rules {
	t.Helper()
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for _, document := range strings.Split(string(data), "\n---\n") {
		switch {
		case strings.Contains(document, "kind: Service"):
			services = append(services, &corev1.Service{})
			must(t, yaml.UnmarshalStrict([]byte(document), services[len(services)-1]))
		case strings.Contains(document, "kind: EndpointSlice"):
			slices = append(slices, &discoveryv1.EndpointSlice{})
			must(t, yaml.UnmarshalStrict([]byte(document), slices[len(slices)-1]))
		default:
			t.Fatal(fmt.Errorf("%s: neither a Service nor an EndpointSlice:\n%s", file, document))
		}
	}
	var all []ruleset.Rules
	for _, s := range services {
		var own []*discoveryv1.EndpointSlice
		for _, slice := range slices {
			if slice.Labels[discoveryv1.LabelServiceName] == s.Name {
				own = append(own, slice)
			}
		}
		all = append(all, ruleset.Compile(s, own, ruleset.Node{Name: "node-1"}))
	}
	return all
}
