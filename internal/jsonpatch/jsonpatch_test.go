package jsonpatch

import (
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

func TestApply(t *testing.T) {
	for text, want := range map[string]string{
		`[{"op":"add","path":"/b","value":2}]`: `{"a":1,"b":2}`,
		`[{"op":"test","path":""}]`:            "", // a panic of the library
		"[" + strings.Repeat(`{"op":"copy","from":"","path":"/b"},`, 40) + `{"op":"test","path":"/a","value":1}]`: "", // 2^40 bytes
		`[{"op":"remove","path":"/c"}]`: "",
	} {
		patch, err := jsonpatch.DecodePatch([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Apply(patch, []byte(`{"a":1}`))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}
