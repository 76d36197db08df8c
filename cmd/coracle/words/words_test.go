package words

import "testing"

func TestOnlyKubectlReadsTranslations(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{"/usr/bin/kubectl", "get"}, true},
		{[]string{"coracle", "kubectl", "get"}, true},
		{[]string{"coracle", "up"}, false},
		{[]string{"coracle"}, false},
		{nil, false},
	} {
		if got := isKubectl(c.args); got != c.want {
			t.Errorf("isKubectl(%q) = %t, want %t", c.args, got, c.want)
		}
	}
}

func TestEnglishNeedsNoTranslations(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, true},
		{map[string]string{"LANG": "C"}, true},
		{map[string]string{"LANG": "C.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.UTF-8"}, false},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_MESSAGES": "ja_JP.UTF-8"}, false},
	} {
		if got := english(func(key string) string { return c.env[key] }); got != c.want {
			t.Errorf("english(%v) = %t, want %t", c.env, got, c.want)
		}
	}
}
