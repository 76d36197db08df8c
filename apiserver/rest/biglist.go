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
// would take more memory than the objects do. What nobody holds yet of an object is kept compressed then.
const bigList = 10_000

// streams tells whether a page is sent that way. Objects that are converted first are not: that may fail half way.
func (c *call) streams(p page) bool {
	return len(p.objects) > bigList && c.r.FromStorage == nil && c.r.Dynamic == nil && !c.out.meta() &&
		(c.out.mediaType == typeProtobuf || c.out.mediaType == typeJSON && !c.out.pretty)
}

// respondBig answers with a list that streams.
func (c *call) respondBig(p page) error {
	f, kind := c.r.form(c.out), c.r.listKind(c.out)
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	if f.protobuf {
		return c.respondBigProtobuf(p, f, scratch)
	}
	m, err := json.Marshal(p.meta)
	if err != nil {
		return err
	}
	w := c.beginBody(typeJSON)
	fmt.Fprintf(w, `%s"metadata":%s,"items":[`, jsonHead(kind), m)
	separator := openBrace
	for _, o := range p.objects {
		b, err := c.r.lend(o, f, scratch)
		if err != nil {
			panic(http.ErrAbortHandler) // the client has half a list that nothing can complete
		}
		_, _ = w.Write(separator)
		if _, err := w.Write(b); err != nil {
			panic(http.ErrAbortHandler) // it has gone
		}
		separator = commaOpen
	}
	_, _ = w.Write(listEnd)
	return w.Close()
}

// respondBigProtobuf needs the size of everything first.
func (c *call) respondBigProtobuf(p page, f form, scratch *[]byte) error {
	m, err := p.meta.Marshal()
	if err != nil {
		return err
	}
	size := sizeTagged(len(m))
	for _, o := range p.objects {
		n, err := c.r.lendSize(o, f)
		if err != nil {
			return err
		}
		size += sizeTagged(n)
	}
	w := c.beginBody(typeProtobuf)
	_, _ = w.Write(appendBytes(appendTag(envelopeHead(c.r.listKind(c.out)), 2, size), 1, m))
	var head []byte
	for _, o := range p.objects {
		b, err := c.r.lend(o, f, scratch)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		head = appendTag(head[:0], 2, len(b))
		_, _ = w.Write(head)
		if _, err := w.Write(b); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	_, _ = w.Write(envelopeTail)
	return w.Close()
}

// scratches hold what is unpacked of one object.
var scratches = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// lend gives the bytes that a cached object has in a list, until scratch is used again.
func (r *resource) lend(o *cache.Object, f form, scratch *[]byte) ([]byte, error) {
	if o.Holds(f.name) {
		return r.itemOf(o, f)
	}
	packed, err := r.packed(o, f)
	if err != nil {
		return nil, err
	}
	b, err := r.packing(f).dict.Decode((*scratch)[:cap(*scratch)], packed)
	if cap(b) > cap(*scratch) {
		*scratch = b
	}
	return b, err
}

// lendSize is the length of what lend gives.
func (r *resource) lendSize(o *cache.Object, f form) (int, error) {
	if o.Holds(f.name) {
		b, err := r.itemOf(o, f)
		return len(b), err
	}
	packed, err := r.packed(o, f)
	if err != nil {
		return 0, err
	}
	return s2.DecodedLen(packed)
}

// itemOf cuts what a list has of an object out of its bytes.
func (r *resource) itemOf(o *cache.Object, f form) ([]byte, error) {
	b, err := r.encoded(o, f)
	if err != nil {
		return nil, err
	}
	if f.protobuf {
		return r.codec.rawOf(b), nil
	}
	return r.codec.itemJSON(b), nil
}

// packing compresses the objects of a resource in one form. They look much like each other, so the first that is packed is
// the dictionary for all.
type packing struct {
	once sync.Once
	dict *s2.Dict
}

func (r *resource) packing(f form) *packing {
	if f.protobuf {
		return &r.packings[1]
	}
	return &r.packings[0]
}

func (r *resource) packed(o *cache.Object, f form) ([]byte, error) {
	p := r.packing(f)
	return o.Encoded(f.name+"/packed", func(obj runtime.Object) ([]byte, error) {
		b := packers.Get().(*packer)
		defer packers.Put(b)
		item, err := b.encode(r, f, obj)
		if err != nil {
			return nil, err
		}
		p.once.Do(func() { p.dict = dictionaryOf(item) })
		b.packed = p.dict.Encode(b.packed[:cap(b.packed)], item)
		return bytes.Clone(b.packed), nil
	})
}

// dictionaryOf makes a dictionary of any item: one that is too short is repeated.
func dictionaryOf(item []byte) *s2.Dict {
	sample := bytes.Clone(item[:min(len(item), s2.MaxDictSize)])
	for len(sample) < s2.MinDictSize {
		sample = append(sample, "{} "...)
	}
	return s2.MakeDict(sample, nil)
}

var packers = sync.Pool{New: func() any { return new(packer) }}

// packer holds an object before and after its compression.
type packer struct {
	plain    bytes.Buffer
	protobuf []byte
	packed   []byte
}

// encode gives what a list has of an object, until the packer is used again.
func (p *packer) encode(r *resource, f form, obj runtime.Object) ([]byte, error) {
	if !f.protobuf {
		p.plain.Reset()
		if err := json.NewEncoder(&p.plain).Encode(obj); err != nil {
			return nil, err
		}
		return r.codec.itemJSON(bytes.TrimSuffix(p.plain.Bytes(), newline)), nil
	}
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	size := m.Size()
	if cap(p.protobuf) < size {
		p.protobuf = make([]byte, 2*size)
	}
	n, err := m.MarshalToSizedBuffer(p.protobuf[:size])
	if err != nil || n != size {
		return nil, fmt.Errorf("encode %T: %d of %d bytes: %w", obj, n, size, err)
	}
	return p.protobuf[:size], nil
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
