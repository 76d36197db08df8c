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
