package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/klauspost/compress/s2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coracle-dev/coracle/apiserver/cache"
)

// bigList is from how many objects on a list is sent while it is put together: to hold all of it, once for each who asks,
// would take more memory than the objects do. Objects whose JSON nobody holds yet keep it compressed then.
const bigList = 10_000

// streams tells whether a page is sent that way. Objects that are converted first are not: that may fail half way.
func (c *call) streams(p page) bool {
	return len(p.objects) > bigList && c.r.FromStorage == nil && c.r.Dynamic == nil && !c.out.meta() &&
		(c.out.mediaType == typeProtobuf || c.out.mediaType == typeJSON && !c.out.pretty)
}

// respondBig answers with a list that streams.
func (c *call) respondBig(p page) error {
	f, kind := c.r.form(c.out), c.r.listKind(c.out)
	if f.protobuf {
		return c.respondBigProtobuf(p, f)
	}
	m, err := json.Marshal(p.meta)
	if err != nil {
		return err
	}
	w := c.beginBody(typeJSON)
	fmt.Fprintf(w, `%s"metadata":%s,"items":[`, jsonHead(kind), m)
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	separator := openBrace
	for _, o := range p.objects {
		b, err := c.r.lend(o, f, scratch)
		if err == nil {
			_, err = w.Write(separator)
		}
		if err == nil {
			_, err = w.Write(c.r.codec.itemJSON(b))
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client has gone, or has half a list that nothing can complete
		}
		separator = commaOpen
	}
	_, _ = w.Write(listEnd)
	return w.Close()
}

// respondBigProtobuf needs the size of everything first.
func (c *call) respondBigProtobuf(p page, f form) error {
	m, err := p.meta.Marshal()
	if err != nil {
		return err
	}
	size := sizeTagged(len(m))
	for _, o := range p.objects {
		b, err := c.r.encoded(o, f)
		if err != nil {
			return err
		}
		size += sizeTagged(len(c.r.codec.rawOf(b)))
	}
	w := c.beginBody(typeProtobuf)
	_, _ = w.Write(appendBytes(appendTag(envelopeHead(c.r.listKind(c.out)), 2, size), 1, m))
	var head []byte
	for _, o := range p.objects {
		b, err := c.r.encoded(o, f)
		if err == nil {
			raw := c.r.codec.rawOf(b)
			head = appendTag(head[:0], 2, len(raw))
			_, _ = w.Write(head)
			_, err = w.Write(raw)
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	_, _ = w.Write(envelopeTail)
	return w.Close()
}

// scratches hold what is decompressed of one object.
var scratches = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// lend gives a cached object's JSON until scratch is used again.
func (r *resource) lend(o *cache.Object, f form, scratch *[]byte) ([]byte, error) {
	if o.Holds(f.name) {
		return r.encoded(o, f)
	}
	packed, err := o.Encoded(f.name+"/s2", func(obj runtime.Object) ([]byte, error) { return pack(obj) })
	if err != nil {
		return nil, err
	}
	b, err := s2.Decode((*scratch)[:cap(*scratch)], packed)
	if cap(b) > cap(*scratch) {
		*scratch = b
	}
	return b, err
}

var packers = sync.Pool{New: func() any { return new(packer) }}

// packer holds an object's JSON before and after its compression.
type packer struct {
	plain  bytes.Buffer
	packed []byte
}

// pack gives an object's JSON compressed.
func pack(obj runtime.Object) ([]byte, error) {
	p := packers.Get().(*packer)
	defer packers.Put(p)
	p.plain.Reset()
	if err := json.NewEncoder(&p.plain).Encode(obj); err != nil {
		return nil, err
	}
	p.packed = s2.Encode(p.packed[:cap(p.packed)], bytes.TrimSuffix(p.plain.Bytes(), newline))
	return bytes.Clone(p.packed), nil
}

// beginBody starts a body of unknown length, compressed where the client asks for that.
func (c *call) beginBody(mediaType string) io.WriteCloser {
	h := c.w.Header()
	h.Set("Content-Type", mediaType)
	if wantsGzip(c.req) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		c.w.WriteHeader(http.StatusOK)
		return newGzip(c.w)
	}
	c.w.WriteHeader(http.StatusOK)
	return newFramer(c.w)
}
