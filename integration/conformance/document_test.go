package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocument holds docs/conformance.md true: every test it names is there, and each behaviour has one.
func TestDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	source := sources(t, ".", "..", "../network")
	rows := 0
	for line := range strings.SplitSeq(string(document), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| behaviour |") {
			continue
		}
		rows++
		names := regexp.MustCompile("`(Test[^`]+)`").FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("no test in %q", line)
		}
		for _, name := range names {
			if !exists(source, name[1]) {
				t.Errorf("there is no %s", name[1])
			}
		}
	}
	if rows < 80 {
		t.Errorf("only %d rows", rows)
	}
}

// exists looks for TestX, TestConformance/area/name, or TestX/group/name of which the last is a key of a table.
func exists(source, name string) bool {
	test, sub, _ := strings.Cut(name, "/")
	if !strings.Contains(source, "\nfunc "+test+"(t *testing.T)") {
		return false
	}
	group, last, _ := strings.Cut(sub, "/")
	if test == "TestConformance" {
		_, ok := areas()[group][last]
		return ok
	}
	return sub == "" || strings.Contains(source, `t.Run("`+group+`"`) && strings.Contains(source, `"`+last+`": `)
}

// sources are the tests of some folders.
func sources(t *testing.T, folders ...string) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(folder, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}
