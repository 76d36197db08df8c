package rest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"github.com/coracle-dev/coracle/apiserver/kinds"
)

// magic starts every value and body in the protobuf envelope.
var magic = []byte{0x6b, 0x38, 0x73, 0x00}

// message is what generated protobuf types offer.
type message interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// codec encodes and decodes one kind. JSON and protobuf results are byte for byte what upstream's serializers give.
type codec struct {
	gvk   schema.GroupVersionKind
	empty func() runtime.Object
	// jsonHead is how every object's JSON begins, envelopeHead how its protobuf envelope does: constant per
	// kind, so that list items are cut from memoised bytes instead of being encoded again.
	jsonHead     []byte
	envelopeHead []byte
	protobuf     bool
}

func newCodec(k *kinds.Kind, _ *runtime.Scheme) codec {
	_, proto := k.New().(message)
	return codec{
		gvk:          k.GVK,
		empty:        k.New,
		jsonHead:     jsonHead(k.GVK),
		envelopeHead: envelopeHead(k.GVK),
		protobuf:     proto,
	}
}

func jsonHead(gvk schema.GroupVersionKind) []byte {
	return fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, gvk.Kind, gvk.GroupVersion().String())
}

// envelopeHead is the magic and the first field, TypeMeta, of runtime.Unknown.
func envelopeHead(gvk schema.GroupVersionKind) []byte {
	tm := appendBytes(nil, 1, []byte(gvk.GroupVersion().String()))
	tm = appendBytes(tm, 2, []byte(gvk.Kind))
	return appendBytes(bytes.Clone(magic), 1, tm)
}

// appendTag, appendBytes and sizeBytes write length-delimited protobuf fields.
func appendTag(b []byte, field int, length int) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|2)
	return binary.AppendUvarint(b, uint64(length))
}

func appendBytes(b []byte, field int, value []byte) []byte {
	return append(appendTag(b, field, len(value)), value...)
}

func sizeVarint(n int) int {
	s := 1
	for n >= 0x80 {
		n >>= 7
		s++
	}
	return s
}

// sizeTagged is the size of a field of a number below 16 with length bytes.
func sizeTagged(length int) int { return 1 + sizeVarint(length) + length }

// envelopeTail is what upstream writes behind the raw bytes: empty content encoding and type.
var envelopeTail = []byte{0x1a, 0x00, 0x22, 0x00}

// encodeEnvelope gives an object in the protobuf envelope.
func encodeEnvelope(head []byte, obj runtime.Object) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	size := m.Size()
	b := make([]byte, 0, len(head)+sizeTagged(size)+len(envelopeTail))
	b = appendTag(append(b, head...), 2, size)
	body := b[len(b) : len(b)+size]
	if n, err := m.MarshalToSizedBuffer(body); err != nil || n != size {
		return nil, fmt.Errorf("encode %T: %d of %d bytes: %w", obj, n, size, err)
	}
	return append(b[:len(b)+size], envelopeTail...), nil
}

// rawOf cuts the message out of bytes that encodeEnvelope made with this codec's head.
func (c *codec) rawOf(envelope []byte) []byte {
	b := envelope[len(c.envelopeHead)+1:]
	n, w := binary.Uvarint(b)
	return b[w : w+int(n)]
}

// itemJSON turns an object's JSON into the form it has inside a list, where built-in kinds repeat no kind.
// The caller writes '{' and then the result.
func (c *codec) itemJSON(b []byte) []byte { return b[len(c.jsonHead):] }

// encodeStored gives the value to store. The caller has cleared resourceVersion.
func (c *codec) encodeStored(obj runtime.Object) ([]byte, error) {
	if !c.protobuf {
		return encodeJSON(obj)
	}
	return encodeEnvelope(c.envelopeHead, obj)
}

// encodeJSON is compact and without the trailing newline.
func encodeJSON(obj runtime.Object) ([]byte, error) {
	return json.Marshal(obj)
}

// decode reads a stored value: the protobuf envelope or JSON.
func (c *codec) decode(value []byte) (runtime.Object, error) {
	obj := c.empty()
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u.Object = map[string]any{}
		return u, kjson.UnmarshalCaseSensitivePreserveInts(value, &u.Object)
	}
	if !bytes.HasPrefix(value, magic) {
		return obj, json.Unmarshal(value, obj)
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(value[len(magic):]); err != nil {
		return nil, err
	}
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	return obj, m.Unmarshal(unknown.Raw)
}

func formatRevision(r int64) string { return strconv.FormatInt(r, 10) }
