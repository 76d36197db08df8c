package rest

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The media types served.
const (
	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
)

// served lists media types in order of preference.
var served = []string{typeJSON, typeYAML, typeProtobuf}

// servedDynamic are those of objects without Go type.
var servedDynamic = []string{typeJSON, typeYAML}

// servedStreams are the media types of watches; YAML has no frames.
var servedStreams = []string{typeJSON + ";stream=watch", typeProtobuf + ";stream=watch"}

// transform is what a client asks the server to turn objects into.
type transform uint8

const (
	noTransform transform = iota
	asTable
	asMetadata
	asMetadataList
)

// output is the outcome of negotiation: how to write the response.
type output struct {
	mediaType string
	pretty    bool
	transform transform
	// metaVersion is v1 or v1beta1: the version of meta.k8s.io a transform is asked in.
	metaVersion string
}

func (o output) table() bool { return o.transform == asTable }

// meta tells whether objects go out as PartialObjectMetadata.
func (o output) meta() bool { return o.transform == asMetadata || o.transform == asMetadataList }

// clause is one alternative of an Accept header.
type clause struct {
	mediaType string
	params    map[string]string
	q         float64
}

func parseAccept(header string) []clause {
	var clauses []clause
	for part := range strings.SplitSeq(header, ",") {
		pieces := strings.Split(part, ";")
		c := clause{mediaType: strings.TrimSpace(pieces[0]), q: 1}
		if c.mediaType == "" {
			continue
		}
		for _, p := range pieces[1:] {
			name, value, _ := strings.Cut(p, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if name == "q" {
				c.q, _ = strconv.ParseFloat(value, 64)
				continue
			}
			if c.params == nil {
				c.params = map[string]string{}
			}
			c.params[name] = value
		}
		clauses = append(clauses, c)
	}
	slices.SortStableFunc(clauses, func(a, b clause) int {
		switch {
		case a.q > b.q:
			return -1
		case a.q < b.q:
			return 1
		}
		return 0
	})
	return clauses
}

// matches tells whether a media range of an Accept header covers mediaType.
func matches(mediaRange, mediaType string) bool {
	if mediaRange == mediaType || mediaRange == "*/*" || mediaRange == "*" {
		return true
	}
	main, isRange := strings.CutSuffix(mediaRange, "/*")
	return isRange && strings.HasPrefix(mediaType, main+"/")
}

// accept tells whether a clause can be answered in mediaType, and how.
func (c clause) accept(mediaType string) (output, bool) {
	o := output{mediaType: mediaType, pretty: c.params["pretty"] == "1"}
	if s := c.params["stream"]; s != "" && s != "watch" {
		return o, false
	}
	if sv := c.params["sv"]; sv != "" && sv != "v1" {
		return o, false
	}
	kind, group, version := c.params["as"], c.params["g"], c.params["v"]
	if kind == "" && group == "" && version == "" {
		return o, true
	}
	if group != metav1.GroupName || (version != "v1" && version != "v1beta1") {
		return o, false
	}
	o.metaVersion = version
	switch kind {
	case "Table":
		o.transform = asTable
		return o, mediaType != typeProtobuf
	case "PartialObjectMetadata":
		o.transform = asMetadata
	case "PartialObjectMetadataList":
		o.transform = asMetadataList
	default:
		return o, false
	}
	return o, true
}

// negotiate picks the response's form from the Accept header, or fails with 406.
func negotiate(req *http.Request) (output, error) {
	return negotiateAmong(req, false)
}

// negotiate picks the form of a response about the resource: objects without Go type have no protobuf form, but their
// metadata has.
func (r *resource) negotiate(req *http.Request) (output, error) {
	return negotiateAmong(req, r.Dynamic != nil)
}

func negotiateAmong(req *http.Request, dynamic bool) (output, error) {
	o, ok := output{mediaType: typeJSON}, true
	switch header := req.Header.Get("Accept"); header {
	case "", typeJSON, "*/*":
	case typeProtobuf, typeProtobuf + ", */*", typeProtobuf + ",application/json", typeProtobuf + ";stream=watch":
		o.mediaType = typeProtobuf
		if dynamic {
			o, ok = negotiateHeader(header, true)
		}
	default:
		o, ok = negotiateHeader(header, dynamic)
	}
	if !ok && dynamic {
		return o, notAcceptable(servedDynamic)
	}
	if !ok {
		return o, notAcceptable(served)
	}
	if !o.pretty {
		o.pretty = wantsPretty(req)
	}
	return o, nil
}

func negotiateHeader(header string, dynamic bool) (output, bool) {
	for _, c := range parseAccept(header) {
		for _, mediaType := range served {
			if !matches(c.mediaType, mediaType) {
				continue
			}
			if o, ok := c.accept(mediaType); ok && (!dynamic || mediaType != typeProtobuf || o.meta()) {
				return o, true
			}
		}
	}
	return output{}, false
}

// wantsPretty follows ?pretty, and otherwise indents for tools that people read from.
func wantsPretty(req *http.Request) bool {
	if strings.Contains(req.URL.RawQuery, "pretty") {
		if v := req.URL.Query().Get("pretty"); v != "" {
			pretty, _ := strconv.ParseBool(v)
			return pretty
		}
	}
	agent := req.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// inputType is the media type of a request's body, or a 415.
func inputType(req *http.Request) (string, error) {
	header := req.Header.Get("Content-Type")
	switch header {
	case "", typeJSON:
		return typeJSON, nil
	case typeProtobuf:
		return typeProtobuf, nil
	}
	if mediaType, _, err := mime.ParseMediaType(header); err == nil && slices.Contains(served, mediaType) {
		return mediaType, nil
	}
	return "", unsupportedMediaType(served)
}
