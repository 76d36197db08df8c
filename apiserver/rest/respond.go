package rest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/apiserver/cache"
)

// gzipAbove is the body size in bytes from which responses are compressed for clients that ask; upstream's value.
const gzipAbove = 128 << 10

// WriteError answers with the Status of err, in the form the client negotiated if it can be.
func WriteError(w http.ResponseWriter, req *http.Request, err error) {
	status := statusOf(err)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	out, nerr := negotiate(req)
	if nerr != nil {
		out = output{mediaType: typeJSON, pretty: wantsPretty(req)}
	}
	out.transform = noTransform
	body, eerr := encodeFresh(out, statusGVK, status)
	if eerr != nil {
		http.Error(w, status.Message, int(status.Code))
		return
	}
	writeBody(w, req, out.mediaType, int(status.Code), body)
}

// WriteObject answers with an object that is not in the table, such as discovery documents, in the negotiated
// form. gvk is set on the object.
func WriteObject(w http.ResponseWriter, req *http.Request, code int, gvk schema.GroupVersionKind, obj runtime.Object) {
	out, err := negotiate(req)
	if err != nil {
		WriteError(w, req, err)
		return
	}
	body, err := encodeFresh(out, gvk, obj)
	if err != nil {
		WriteError(w, req, err)
		return
	}
	writeBody(w, req, out.mediaType, code, body)
}

// encodeFresh encodes an object of which no bytes are memoised. A kind without protobuf form goes out as JSON.
func encodeFresh(out output, gvk schema.GroupVersionKind, obj runtime.Object) ([]byte, error) {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if out.mediaType == typeProtobuf {
		return encodeEnvelope(envelopeHead(gvk), obj)
	}
	b, err := encodeJSON(obj)
	if err != nil {
		return nil, err
	}
	return dress(out, b)
}

// dress turns compact JSON into what goes over the wire: with a newline, indented, or as YAML.
func dress(out output, b []byte) ([]byte, error) {
	switch {
	case out.mediaType == typeYAML:
		return yaml.JSONToYAML(b)
	case out.pretty:
		var buf bytes.Buffer
		buf.Grow(2 * len(b))
		if err := json.Indent(&buf, b, "", "  "); err != nil {
			return nil, err
		}
		return buf.Bytes(), nil
	}
	return append(b[:len(b):len(b)], '\n'), nil
}

// writeBody sends a whole body, with its length, compressed where that pays.
func writeBody(w http.ResponseWriter, req *http.Request, mediaType string, code int, body ...[]byte) {
	size := 0
	for _, b := range body {
		size += len(b)
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	if size > gzipAbove && wantsGzip(req) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		writeGzip(w, body)
		return
	}
	h.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(code)
	writeSegments(w, body)
}

// frameSize is the payload of an HTTP/2 frame that fills one TLS record (16 KiB) with its header of nine bytes. A larger
// write would be cut into frames of 16 KiB, each of them a whole record and one of nine bytes, with a system call for both.
const frameSize = 16<<10 - 9

// frameBuffers join small segments into writes of a frame.
var frameBuffers = sync.Pool{New: func() any { b := make([]byte, 0, frameSize); return &b }}

func writeSegments(w io.Writer, segments [][]byte) {
	writeAll(newFramer(w), segments)
}

func writeAll(w io.WriteCloser, segments [][]byte) {
	for _, s := range segments {
		if _, err := w.Write(s); err != nil {
			break
		}
	}
	_ = w.Close()
}

// framer writes whole frames, but for the last.
type framer struct {
	w      io.Writer
	pooled *[]byte
	buf    []byte
	err    error
}

func newFramer(w io.Writer) *framer {
	p := frameBuffers.Get().(*[]byte)
	return &framer{w: w, pooled: p, buf: (*p)[:0]}
}

// Write implements io.Writer.
func (f *framer) Write(s []byte) (int, error) {
	size := len(s)
	for len(s) > 0 && f.err == nil {
		if len(f.buf) == 0 && len(s) >= frameSize {
			_, f.err = f.w.Write(s[:frameSize])
			s = s[frameSize:]
			continue
		}
		n := min(len(s), frameSize-len(f.buf))
		f.buf, s = append(f.buf, s[:n]...), s[n:]
		if len(f.buf) == frameSize {
			_, f.err = f.w.Write(f.buf)
			f.buf = f.buf[:0]
		}
	}
	if f.err != nil {
		return 0, f.err
	}
	return size, nil
}

// Close writes what is left. The framer must not be used again.
func (f *framer) Close() error {
	if f.err == nil && len(f.buf) > 0 {
		_, f.err = f.w.Write(f.buf)
	}
	frameBuffers.Put(f.pooled)
	return f.err
}

var gzips = sync.Pool{New: func() any { z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return z }}

func writeGzip(w io.Writer, segments [][]byte) { writeAll(newGzip(w), segments) }

// gzipped is a writer that goes back to where it came from.
type gzipped struct{ *gzip.Writer }

func newGzip(w io.Writer) gzipped {
	z := gzips.Get().(*gzip.Writer)
	z.Reset(w)
	return gzipped{z}
}

// Close implements io.Closer. The writer must not be used again.
func (z gzipped) Close() error {
	err := z.Writer.Close()
	z.Reset(nil) // keeps nothing of this response
	gzips.Put(z.Writer)
	return err
}

// wantsGzip is false for clients on this machine: to them a copy is cheaper than compression.
func wantsGzip(req *http.Request) bool {
	if !strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") || req.RemoteAddr == "" {
		return false
	}
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	return err == nil && !net.ParseIP(host).IsLoopback()
}

// form is how one object is encoded on its own; its name keys the memoised bytes.
type form struct {
	name     string
	protobuf bool
	meta     string // the version of PartialObjectMetadata, or empty
}

// form picks the memoised form below an output. YAML and indented JSON are made from compact JSON.
func (r *resource) form(out output) form {
	f := form{name: "json", protobuf: out.mediaType == typeProtobuf}
	if f.protobuf {
		f.name = "protobuf"
	}
	switch {
	case out.meta():
		f.meta = out.metaVersion
		f.name += "/meta/" + f.meta
	case r.Dynamic != nil:
		f.name += "/" + r.GVK.GroupVersion().String() + "/" + r.Dynamic.Schema
	case r.FromStorage != nil:
		f.name += "/" + r.GVK.GroupVersion().String()
	}
	return f
}

// encode encodes an object of the stored version in this form.
func (r *resource) encode(f form, stored runtime.Object) ([]byte, error) {
	if f.meta != "" {
		return encodeForm(f, metaHead(f.meta), partial(stored, f.meta))
	}
	obj, err := r.convert(stored)
	if err != nil {
		return nil, err
	}
	return encodeForm(f, r.codec.envelopeHead, obj)
}

func encodeForm(f form, head []byte, obj runtime.Object) ([]byte, error) {
	if f.protobuf {
		return encodeEnvelope(head, obj)
	}
	return encodeJSON(obj)
}

func metaHead(version string) []byte {
	return envelopeHead(schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: "PartialObjectMetadata"})
}

// partial is an object's metadata alone. It shares the maps of the object.
func partial(obj runtime.Object, version string) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(accessor(obj))
	p.TypeMeta = metav1.TypeMeta{APIVersion: metav1.GroupName + "/" + version, Kind: "PartialObjectMetadata"}
	return p
}

// encoded gives a cached object's bytes in a form, made once for all who want it.
func (r *resource) encoded(o *cache.Object, f form) ([]byte, error) {
	return o.Encoded(f.name, func(obj runtime.Object) ([]byte, error) { return r.encode(f, obj) })
}

// respondCached answers with an object of the cache.
func (c *call) respondCached(code int, o *cache.Object) error {
	switch c.out.transform {
	case asTable:
		return c.respondTable(code, []runtime.Object{o.Object}, metav1.ListMeta{ResourceVersion: formatRevision(o.Revision)})
	case asMetadataList:
		return notAcceptableList(o.Object, true)
	}
	f := c.r.form(c.out)
	b, err := c.r.encoded(o, f)
	if err != nil {
		return err
	}
	return c.respondBytes(code, f, b)
}

// respondStored answers with an object in the stored version that is private to this request, mostly one just written.
func (c *call) respondStored(code int, obj runtime.Object) error {
	switch c.out.transform {
	case asTable:
		return c.respondTable(code, []runtime.Object{obj}, metav1.ListMeta{ResourceVersion: accessor(obj).GetResourceVersion()})
	case asMetadataList:
		return notAcceptableList(obj, true)
	}
	f := c.r.form(c.out)
	b, err := c.r.encode(f, obj)
	if err != nil {
		return err
	}
	return c.respondBytes(code, f, b)
}

func notAcceptableList(obj runtime.Object, wantedList bool) error {
	if wantedList {
		return notAcceptableText(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (%T)", obj))
	}
	return notAcceptableText(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (%T)", obj))
}

func notAcceptableText(text string) error {
	return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, text)
}

func (c *call) respondBytes(code int, f form, b []byte) error {
	if f.protobuf {
		writeBody(c.w, c.req, typeProtobuf, code, b)
		return nil
	}
	if c.out.mediaType == typeJSON && !c.out.pretty {
		writeBody(c.w, c.req, typeJSON, code, b, newline)
		return nil
	}
	b, err := dress(c.out, b)
	if err != nil {
		return err
	}
	writeBody(c.w, c.req, c.out.mediaType, code, b)
	return nil
}

var newline = []byte("\n")

// respondStatus answers with a Status that is a success.
func (c *call) respondStatus(code int, details *metav1.StatusDetails) error {
	return c.respondFresh(code, statusGVK, &metav1.Status{
		Status: metav1.StatusSuccess, Code: int32(code), Details: details,
	})
}

var statusGVK = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// respondFresh answers with an object that is not of the table's stored kinds (Scale, Status, TokenRequest).
func (c *call) respondFresh(code int, gvk schema.GroupVersionKind, obj runtime.Object) error {
	b, err := encodeFresh(c.out, gvk, obj)
	if err != nil {
		return err
	}
	writeBody(c.w, c.req, c.out.mediaType, code, b)
	return nil
}
