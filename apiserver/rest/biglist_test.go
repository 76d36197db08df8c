package rest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// TestBigLists: a list that streams is byte for byte the one that is put together first, whatever is held of its objects.
func TestBigLists(t *testing.T) {
	table := kinds.All()
	at := slices.IndexFunc(table, func(k kinds.Kind) bool { return k.Resource == "pods" })
	r := newResource(&table[at], kinds.Scheme(), Hook{})
	for _, mediaType := range []string{typeJSON, typeProtobuf} {
		for _, zipped := range []bool{false, true} {
			answer := func(held bool, respond func(c *call, p page) error) []byte {
				p := page{meta: metav1.ListMeta{ResourceVersion: "7"}}
				for i := range 500 {
					pod := samplePod()
					pod.Name = fmt.Sprint("pod-", i)
					p.objects = append(p.objects, &cache.Object{Key: pod.Name, Object: pod})
				}
				req := httptest.NewRequest("GET", "/", nil)
				if zipped {
					req.Header.Set("Accept-Encoding", "gzip")
					req.RemoteAddr = "192.0.2.1:1"
				}
				w := httptest.NewRecorder()
				c := &call{r: r, req: req, w: w, out: output{mediaType: mediaType}}
				if held {
					if _, err := r.encoded(p.objects[3], r.form(c.out)); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 { // once more, of what is held then
					w.Body.Reset()
					if err := respond(c, p); err != nil {
						t.Fatal(err)
					}
				}
				if w.Header().Get("Content-Encoding") != "gzip" {
					return w.Body.Bytes()
				}
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			want := answer(false, (*call).respondPage)
			for _, held := range []bool{false, true} {
				if got := answer(held, (*call).respondBig); !bytes.Equal(got, want) {
					t.Errorf("%s, zipped %t, held %t: %d bytes differ from %d", mediaType, zipped, held, len(got), len(want))
				}
			}
		}
	}
}
