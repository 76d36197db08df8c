package conformance

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"net/http"
	"path"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry serves one image with these files in the cluster's network until the test ends, and gives its name.
func (e *env) registry(files map[string]string) string {
	e.Helper()
	blobs := map[string][]byte{}
	keep := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		blobs[d.Digest.String()] = data
		return d
	}
	form := func(v any) []byte {
		data, err := json.Marshal(v)
		e.must(err)
		return data
	}
	layer := keep(ocispec.MediaTypeImageLayer, e.archive(files))
	config := keep(ocispec.MediaTypeImageConfig, form(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}}))
	m := keep(ocispec.MediaTypeImageManifest, form(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{layer}}))
	l, err := e.cluster.Listen("tcp", "127.0.0.1:0")
	e.must(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := path.Base(r.URL.Path)
		if key == "v1" {
			key = m.Digest.String()
		}
		data, ok := blobs[key]
		switch {
		case r.URL.Path == "/v2/":
		case !ok:
			http.NotFound(w, r)
		default:
			if key == m.Digest.String() {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			}
			w.Header().Set("Docker-Content-Digest", key)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}
	})}
	go func() { _ = server.Serve(l) }()
	e.Cleanup(func() { _ = server.Close() })
	return l.Addr().String() + "/files:v1"
}

// archive is a layer with the files.
func (e *env) archive(files map[string]string) []byte {
	e.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		e.must(w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path.Dir(name) + "/", Mode: 0o755}))
		e.must(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		e.must(err)
	}
	e.must(w.Close())
	return b.Bytes()
}
