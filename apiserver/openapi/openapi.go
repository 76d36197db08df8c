// Package openapi serves the OpenAPI documents, version 2 and 3, in JSON and protobuf. The documents are generated from
// the table of kinds when the source changes and are kept compressed: serving costs no memory, and most clients
// take the compressed bytes as they are. Documents of kinds that are known only at run time are merged with them, and
// kept compressed as well.
package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/munnerz/goautoneg"
)

//go:generate go tool openapi-gen --go-header-file /dev/null --output-dir gen/definitions --output-pkg github.com/coracle-dev/coracle/apiserver/openapi/gen/definitions --output-file zz_generated.openapi.go --report-filename /dev/null k8s.io/api/core/v1 k8s.io/api/apps/v1 k8s.io/api/autoscaling/v1 k8s.io/api/autoscaling/v2 k8s.io/api/batch/v1 k8s.io/api/certificates/v1 k8s.io/api/coordination/v1 k8s.io/api/discovery/v1 k8s.io/api/events/v1 k8s.io/api/networking/v1 k8s.io/api/node/v1 k8s.io/api/policy/v1 k8s.io/api/rbac/v1 k8s.io/api/scheduling/v1 k8s.io/api/scheduling/v1alpha3 k8s.io/api/storage/v1 k8s.io/api/admissionregistration/v1 k8s.io/api/authentication/v1 k8s.io/api/authorization/v1 k8s.io/api/flowcontrol/v1 k8s.io/api/resource/v1 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 k8s.io/kube-aggregator/pkg/apis/apiregistration/v1 k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/util/intstr k8s.io/apimachinery/pkg/api/resource
//go:generate go run -tags openapigen ./gen -out data
//go:generate rm -rf gen/definitions

//go:embed data
var data embed.FS

// The media types, the current ones first.
const (
	jsonType = "application/json"
	v2Proto  = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	v2Old    = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	v3Proto  = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	v3Old    = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// document is one document in its encodings, by media type.
type document struct {
	// etag is of the content, the same for all encodings.
	etag      string
	encodings []encoding
}

type encoding struct {
	accept string // the media type asked for
	answer string // the one that is named in the answer
	// open gives the document compressed by gzip.
	open func() (io.ReadSeeker, error)
}

// Handler serves /openapi/v2 and everything under /openapi/v3.
type Handler struct {
	// own are the embedded documents.
	own map[string]document
	now atomic.Pointer[documents]

	mu     sync.Mutex // guards what documents are merged from
	custom map[string]source
}

// documents are all that is served at one moment. They are never changed.
type documents struct {
	v2    func() (document, error)
	v3    map[string]document // by "api/v1"
	index []byte
	etag  string
}

// New reads the list of the documents and computes their hashes.
func New() (*Handler, error) {
	h := &Handler{own: map[string]document{}, custom: map[string]source{}}
	v2, err := load("data/v2", v2Proto, v2Old)
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(data, "data/v3", func(path string, d fs.DirEntry, err error) error {
		name, ok := strings.CutSuffix(path, ".json.gz")
		if err != nil || d.IsDir() || !ok {
			return err
		}
		h.own[strings.TrimPrefix(name, "data/v3/")], err = load(name, v3Proto, v3Old)
		return err
	})
	if err != nil {
		return nil, err
	}
	first, err := newDocuments(h.own, func() (document, error) { return v2, nil })
	h.now.Store(first)
	return h, err
}

func load(name, proto, old string) (document, error) {
	raw, err := data.ReadFile(name + ".json.gz")
	if err != nil {
		return document{}, fmt.Errorf("openapi: %w", err)
	}
	file := func(ext string) func() (io.ReadSeeker, error) {
		return func() (io.ReadSeeker, error) {
			f, err := data.Open(name + ext)
			if err != nil {
				return nil, err
			}
			return f.(io.ReadSeeker), nil // as package embed promises
		}
	}
	return document{etag: hash(raw), encodings: encodings(proto, old, file(".json.gz"), file(".pb.gz"))}, nil
}

func encodings(proto, old string, asJSON, asProto func() (io.ReadSeeker, error)) []encoding {
	return []encoding{{jsonType, jsonType, asJSON}, {proto, proto, asProto}, {old, proto, asProto}}
}

func hash(content []byte) string { return fmt.Sprintf("%X", sha512.Sum512(content)) }

// newDocuments makes the list at /openapi/v3. Its URLs name the content, so that clients may keep what they got for ever.
func newDocuments(v3 map[string]document, v2 func() (document, error)) (*documents, error) {
	type location struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]location{}
	for key, doc := range v3 {
		paths[key] = location{documentURL(key, doc.etag)}
	}
	index, err := json.Marshal(map[string]any{"paths": paths})
	return &documents{v2: v2, v3: v3, index: index, etag: hash(index)}, err
}

func documentURL(key, etag string) string {
	return (&url.URL{Path: "/openapi/v3/" + key, RawQuery: url.Values{"hash": {etag}}.Encode()}).String()
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 method not allowed", http.StatusMethodNotAllowed)
		return
	}
	now := h.now.Load()
	switch path := strings.TrimSuffix(r.URL.Path, "/"); {
	case path == "/openapi/v2":
		doc, err := now.v2()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		serve(w, r, doc)
	case path == "/openapi/v3":
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Etag", strconv.Quote(now.etag))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(now.index))
	default:
		now.serveV3(w, r, strings.TrimPrefix(path, "/openapi/v3/"))
	}
}

func (d *documents) serveV3(w http.ResponseWriter, r *http.Request, key string) {
	doc, ok := d.v3[key]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != doc.etag {
			http.Redirect(w, r, documentURL(key, doc.etag), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	serve(w, r, doc)
}

// serve writes a document in the encoding the client likes best.
func serve(w http.ResponseWriter, r *http.Request, doc document) {
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	enc, ok := negotiate(r.Header.Get("Accept"), doc.encodings)
	if !ok {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	zipped, err := enc.open()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", enc.answer)
	w.Header().Set("Etag", strconv.Quote(doc.etag))
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		w.Header().Set("Content-Encoding", "gzip")
		http.ServeContent(w, r, "", time.Time{}, zipped)
		return
	}
	if match := r.Header.Get("If-None-Match"); match != "" && strings.Contains(match, doc.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	unzip(w, zipped)
}

// unzip streams: the document is never whole in memory.
func unzip(w http.ResponseWriter, zipped io.Reader) {
	zip, err := gzip.NewReader(zipped)
	if err == nil {
		_, err = io.Copy(w, zip)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone, or will see that the answer is cut
	}
}

func negotiate(accept string, offers []encoding) (encoding, bool) {
	if accept == "" {
		return offers[0], true
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		for _, offer := range offers {
			mainType, subType, _ := strings.Cut(offer.accept, "/")
			if (clause.Type == mainType || clause.Type == "*") && (clause.SubType == subType || clause.SubType == "*") {
				return offer, true
			}
		}
	}
	return encoding{}, false
}

func acceptsGzip(header string) bool {
	for _, part := range strings.Split(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			return strings.ReplaceAll(params, " ", "") != "q=0"
		}
	}
	return false
}
