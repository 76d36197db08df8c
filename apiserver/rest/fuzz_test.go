package rest

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

func FuzzAccept(f *testing.F) {
	for _, s := range []string{"", "*/*", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "a/b;q=x,application/*;q=0.1", ";;;=,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		o, ok := negotiateHeader(header, false)
		if ok && !slices.Contains(served, o.mediaType) {
			t.Errorf("%q is answered as %q", header, o.mediaType)
		}
		if ok && o.table() && o.mediaType == typeProtobuf {
			t.Errorf("%q asks for what there is not", header)
		}
	})
}

// FuzzContinue: a token never leads out of its prefix.
func FuzzContinue(f *testing.F) {
	f.Add(encodeContinue("default/a\x00", 5))
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9zZWNyZXRzIn0")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := decodeContinue(text)
		if err != nil {
			return
		}
		if slices.Contains(strings.Split(token.StartKey, "/"), "..") {
			t.Errorf("start key %q", token.StartKey)
		}
		again, err := decodeContinue(encodeContinue(token.StartKey, token.ResourceVersion))
		if err != nil && strings.ToValidUTF8(token.StartKey, "") == token.StartKey || err == nil && again != token {
			t.Errorf("%+v became %+v, %v", token, again, err)
		}
	})
}

// FuzzBody: what decodes is of the wanted kind; nothing panics, error texts neither.
func FuzzBody(f *testing.F) {
	pod, err := encodeEnvelope(envelopeHead(corev1.SchemeGroupVersion.WithKind("Pod")), samplePod())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}`))
	f.Add(1, []byte("kind: Pod\nmetadata: {name: x}\n"))
	f.Add(2, pod)
	scheme := kinds.Scheme()
	want := corev1.SchemeGroupVersion.WithKind("Pod")
	f.Fuzz(func(t *testing.T, which int, body []byte) {
		d := decoding{mediaType: served[uint(which)%3], strict: which%2 == 0, scheme: scheme}
		obj := &corev1.Pod{}
		if _, err := d.decodeInto(body, want, obj); err != nil {
			_ = badBody(err, want, body)
			return
		}
		if obj.GroupVersionKind() != want {
			t.Errorf("decoded as %v", obj.GroupVersionKind())
		}
	})
}

// TestListsAreUpstreams: lists put together from items are byte for byte what encoding the list as a whole gives.
func TestListsAreUpstreams(t *testing.T) {
	table := kinds.All()
	i := slices.IndexFunc(table, func(k kinds.Kind) bool { return k.Resource == "pods" })
	r := newResource(&table[i], kinds.Scheme(), Hook{})
	for n := range 4 {
		list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "token", RemainingItemCount: ptrTo(int64(3))}, Items: []corev1.Pod{}}
		var jsons, protos [][]byte
		for range n {
			p := samplePod()
			for _, f := range []struct {
				form form
				out  *[][]byte
			}{{form{name: "json"}, &jsons}, {form{name: "protobuf", protobuf: true}, &protos}} {
				b, err := r.encode(f.form, p)
				if err != nil {
					t.Fatal(err)
				}
				*f.out = append(*f.out, b)
			}
			p.TypeMeta = metav1.TypeMeta{}
			list.Items = append(list.Items, *p)
		}
		gvk := r.listKind(output{})
		segments, err := jsonListBody{list: gvk, head: &r.codec, meta: list.ListMeta, items: jsons}.segments()
		if err != nil {
			t.Fatal(err)
		}
		list.SetGroupVersionKind(gvk)
		want, err := encodeFresh(output{mediaType: typeJSON}, gvk, list)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(segments, nil); !bytes.Equal(got, want) {
			t.Errorf("%d items:\n%s\nwant\n%s", n, got, want)
		}
		segments, err = protobufList(gvk, &r.codec, list.ListMeta, protos)
		if err != nil {
			t.Fatal(err)
		}
		want, err = encodeEnvelope(envelopeHead(gvk), list)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(segments, nil); !bytes.Equal(got, want) {
			t.Errorf("%d items:\n%q\nwant\n%q", n, got, want)
		}
		checkUnknown(t, want)
	}
}

// checkUnknown reads an envelope as upstream's type does.
func checkUnknown(t *testing.T, b []byte) {
	t.Helper()
	var u runtime.Unknown
	if err := u.Unmarshal(b[len(magic):]); err != nil {
		t.Fatal(err)
	}
	var list corev1.PodList
	if err := list.Unmarshal(u.Raw); err != nil {
		t.Error(err)
	}
}
