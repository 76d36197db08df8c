package podspec

import (
	"maps"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestParseEnvFile(t *testing.T) {
	for _, c := range []struct {
		text, fails string
		want        map[string]string
	}{
		{"", "", map[string]string{}},
		{"\n  # A='no'\nA='1'\n\tB = ' # two ' \r\nC=''\nA='3'", "", map[string]string{"A": "3", "B": " # two ", "C": ""}},
		{"A='one\n  two\n'\nB=' \\n'", "", map[string]string{"A": "one\n  two\n", "B": ` \n`}},
		{"A=plain", "line 1 is not", nil},
		{"A='1'\nB", "line 2 is not", nil},
		{"='1'", "line 1 is not", nil},
		{"\nA='open\nmore", "line 2 has no end", nil},
		{"A='x\ny' z", "line 2 goes on", nil},
	} {
		got, err := parseEnvFile(c.text)
		if (c.fails == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.fails) || !maps.Equal(got, c.want) {
			t.Errorf("%q: %v %v", c.text, got, err)
		}
	}
}

func TestFileValue(t *testing.T) {
	src := Sources{Files: map[EnvFile]string{{"v", "a.env"}: "K='value'"}}
	for _, c := range []struct {
		path, key string
		optional  bool
		want      string
	}{
		{"a.env", "K", false, "value true"},
		{"a.env", "L", true, " false"},
		{"none", "K", true, " false"},
		{"none", "K", false, `environment variable key "K" not found in file "none" of volume "v"`},
	} {
		value, ok, err := fileValue(&v1.FileKeySelector{VolumeName: "v", Path: c.path, Key: c.key, Optional: &c.optional}, src)
		got := value + " false"
		if ok {
			got = value + " true"
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s: %s", c.path, c.key, got)
		}
	}
}
