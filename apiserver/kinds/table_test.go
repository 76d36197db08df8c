package kinds

import "testing"

func TestSchemeKnowsEveryKind(t *testing.T) {
	scheme := Scheme()
	for _, k := range All() {
		if !scheme.Recognizes(k.GVK) {
			t.Errorf("%v is not in the scheme", k.GVK)
		}
	}
}
