package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// source is what one caller of SetCustom set last.
type source struct {
	v3 map[string]document
	v2 [][]byte // JSON, compressed
}

// SetCustom puts documents in the place of those that the source set before. v3 is by key, as "apis/group/version";
// where several sources, or the server itself, have one key, the document holds what they all have. The documents of version 2
// are merged when the first client asks. None of what is handed over is kept or changed.
func (h *Handler) SetCustom(name string, v3 map[string]*spec3.OpenAPI, v2 []*spec.Swagger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next, err := newSource(v3, v2)
	if err == nil {
		h.custom[name] = next
		err = h.rebuild()
	}
	if err != nil {
		slog.Error("OpenAPI documents cannot be published", "component", "openapi", "source", name, "error", err)
	}
}

func newSource(v3 map[string]*spec3.OpenAPI, v2 []*spec.Swagger) (source, error) {
	s := source{v3: map[string]document{}}
	for key, doc := range v3 {
		d, err := newV3(doc)
		if err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
		s.v3[key] = d
	}
	for _, doc := range v2 {
		zipped, err := zipJSON(doc)
		if err != nil {
			return s, err
		}
		s.v2 = append(s.v2, zipped)
	}
	return s, nil
}

// rebuild makes what is served of all sources. The caller holds the lock.
func (h *Handler) rebuild() error {
	v3 := maps.Clone(h.own)
	var v2 [][]byte
	for _, name := range slices.Sorted(maps.Keys(h.custom)) {
		s := h.custom[name]
		v2 = append(v2, s.v2...)
		for key, doc := range s.v3 {
			if known, ok := v3[key]; ok {
				var err error
				if doc, err = joinV3(known, doc); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
			}
			v3[key] = doc
		}
	}
	next, err := newDocuments(v3, sync.OnceValues(func() (document, error) { return mergeV2(v2) }))
	if err == nil {
		h.now.Store(next)
	}
	return err
}

// mergeV2 joins documents with the embedded one, which is large for a moment.
func mergeV2(custom [][]byte) (document, error) {
	if len(custom) == 0 {
		return load("data/v2", v2Proto, v2Old)
	}
	defer debug.FreeOSMemory()
	merged := new(spec.Swagger)
	own, err := data.ReadFile("data/v2.json.gz")
	if err == nil {
		err = unzipJSON(bytes.NewReader(own), merged)
	}
	if err != nil {
		return document{}, err
	}
	for _, zipped := range custom {
		doc := new(spec.Swagger)
		if err := unzipJSON(bytes.NewReader(zipped), doc); err != nil {
			return document{}, err
		}
		if doc.Paths == nil { // nothing leads to its definitions
			continue
		}
		if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(merged, doc); err != nil {
			return document{}, err
		}
	}
	zipped, err := zipJSON(merged)
	return stored(zipped, v2Proto, v2Old, func(raw []byte) (proto.Message, error) { return openapiv2.ParseDocument(raw) }), err
}

func newV3(doc *spec3.OpenAPI) (document, error) {
	zipped, err := zipJSON(doc)
	return stored(zipped, v3Proto, v3Old, func(raw []byte) (proto.Message, error) { return openapiv3.ParseDocument(raw) }), err
}

// joinV3 adds the paths and schemas of a document to those of another, which wins.
func joinV3(first, second document) (document, error) {
	var a, b spec3.OpenAPI
	for doc, into := range map[*document]*spec3.OpenAPI{&first: &a, &second: &b} {
		zipped, err := doc.encodings[0].open()
		if err == nil {
			err = unzipJSON(zipped, into)
		}
		if err != nil {
			return document{}, err
		}
	}
	if a.Paths == nil {
		a.Paths = &spec3.Paths{}
	}
	if b.Paths != nil {
		a.Paths.Paths = union(a.Paths.Paths, b.Paths.Paths)
	}
	if a.Components == nil {
		a.Components = &spec3.Components{}
	}
	if b.Components != nil {
		a.Components.Schemas = union(a.Components.Schemas, b.Components.Schemas)
	}
	return newV3(&a)
}

func union[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(b)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, a)
	return all
}

// stored is a document that is kept compressed as JSON. Its protobuf form is made when it is asked for first.
func stored(zipped []byte, media, old string, parse func([]byte) (proto.Message, error)) document {
	asJSON := func() (io.ReadSeeker, error) { return bytes.NewReader(zipped), nil }
	encoded := sync.OnceValues(func() ([]byte, error) {
		zip, err := gzip.NewReader(bytes.NewReader(zipped))
		if err != nil {
			return nil, err
		}
		raw, err := io.ReadAll(zip)
		if err != nil {
			return nil, err
		}
		message, err := parse(raw)
		if err != nil {
			return nil, err
		}
		if raw, err = (proto.MarshalOptions{Deterministic: true}).Marshal(message); err != nil {
			return nil, err
		}
		return compress(raw)
	})
	asProto := func() (io.ReadSeeker, error) {
		raw, err := encoded()
		return bytes.NewReader(raw), err
	}
	return document{etag: hash(zipped), encodings: encodings(media, old, asJSON, asProto)}
}

func zipJSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return compress(raw)
}

func compress(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	_, err := zip.Write(raw)
	if err == nil {
		err = zip.Close()
	}
	return bytes.Clone(out.Bytes()), err
}

func unzipJSON(zipped io.Reader, into any) error {
	zip, err := gzip.NewReader(zipped)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(zip)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
