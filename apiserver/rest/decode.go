package rest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxBody is the largest request body taken, in bytes; upstream's limit.
const maxBody = 3 << 20

// readBody reads a request's body up to maxBody; beyond it is a 413.
func readBody(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	if req.ContentLength > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	var buf bytes.Buffer
	if n := req.ContentLength; n > 0 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(req.Body, maxBody+1)); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read request body: %v", err))
	}
	if buf.Len() > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return buf.Bytes(), nil
}

// decoding says how to read a body into an object of one kind.
type decoding struct {
	mediaType string
	strict    bool
	scheme    *runtime.Scheme // to tell unknown kinds from misplaced ones
	// coerce brings objects without Go type into the shape of their schema; nil for others.
	coerce func(obj runtime.Object, track bool) (unknown []string, err error)
}

// decoding says how the call's resource is read.
func (c *call) decoding(mediaType string) decoding {
	d := decoding{mediaType: mediaType, strict: c.fieldValidation != metav1.FieldValidationIgnore, scheme: c.Scheme}
	if c.r != nil && c.r.Dynamic != nil {
		d.coerce = c.r.Dynamic.Coerce
	}
	return d
}

// typeError is a failure to decode that names the kind met in the body, if that was readable.
type typeError struct {
	met   schema.GroupVersionKind
	cause error
}

func (e *typeError) Error() string { return e.cause.Error() }
func (e *typeError) Unwrap() error { return e.cause }

// decodeInto reads body into obj, whose kind is want. Strict findings (unknown and duplicate fields) come
// back beside err and leave obj filled.
func (d decoding) decodeInto(body []byte, want schema.GroupVersionKind, obj runtime.Object) (strict []error, err error) {
	u, dynamic := obj.(*unstructured.Unstructured)
	if d.mediaType == typeProtobuf {
		if dynamic {
			return nil, &typeError{cause: unsupportedMediaType(servedDynamic)}
		}
		return nil, d.decodeProtobuf(body, want, obj)
	}
	original := body
	if d.mediaType == typeYAML {
		if body, err = yaml.YAMLToJSON(original); err != nil {
			return nil, &typeError{cause: err}
		}
	}
	if dynamic {
		return d.decodeUnstructured(original, body, want, u)
	}
	if d.strict {
		strict, err = unmarshalStrict(d.mediaType, original, body, obj)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(body, obj)
	}
	met := withDefaults(obj.GetObjectKind().GroupVersionKind(), want)
	if err != nil || met != want {
		return nil, d.explain(body, want, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return strict, nil
}

// decodeUnstructured reads an object that has no Go type. Here the body must say what it is.
func (d decoding) decodeUnstructured(original, body []byte, want schema.GroupVersionKind, u *unstructured.Unstructured) (strict []error, err error) {
	content := map[string]any{}
	if d.strict {
		strict, err = unmarshalStrict(d.mediaType, original, body, &content)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(body, &content)
	}
	if err != nil {
		return nil, &typeError{cause: err}
	}
	u.Object = content
	met := u.GroupVersionKind()
	switch {
	case met.Kind == "":
		return nil, &typeError{cause: runtime.NewMissingKindErr(string(original))}
	case met.Version == "":
		return nil, &typeError{cause: runtime.NewMissingVersionErr(string(original))}
	case met != want:
		return nil, &typeError{met: met, cause: otherKind(met, want)}
	}
	if d.coerce == nil {
		return strict, nil
	}
	unknown, err := d.coerce(u, d.strict)
	if err != nil {
		return nil, &typeError{met: met, cause: err}
	}
	for _, path := range unknown {
		strict = append(strict, fmt.Errorf("unknown field %q", path))
	}
	return strict, nil
}

// otherKind refuses an object of another kind than the path's.
func otherKind(met, want schema.GroupVersionKind) error {
	if met.Group == want.Group && met.Kind == want.Kind {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			met.GroupVersion(), want.GroupVersion()))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the kind in the data (%s) does not match the expected kind (%s)", met, want))
}

// explain finds out why a body is not of the wanted kind, or did not decode with err. That the body is of another
// kind says more than that a field does not fit.
func (d decoding) explain(body []byte, want schema.GroupVersionKind, err error) error {
	met, terr := interpretType(body)
	if terr != nil {
		return &typeError{cause: terr}
	}
	met = withDefaults(met, want)
	if kerr := d.checkKind(met, want); kerr != nil {
		return &typeError{met: met, cause: kerr}
	}
	if err == nil {
		err = fmt.Errorf("kind and apiVersion are not spelled as they should be")
	}
	return &typeError{met: met, cause: err}
}

func unmarshalStrict(mediaType string, original, body []byte, obj any) ([]error, error) {
	var strict []error
	if mediaType == typeYAML {
		if _, err := yaml.YAMLToJSONStrict(original); err != nil {
			strict = append(strict, err)
		}
	}
	found, err := kjson.UnmarshalStrict(body, obj)
	return append(strict, found...), err
}

// typeHead is found in every object's JSON.
type typeHead struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func interpretType(body []byte) (schema.GroupVersionKind, error) {
	var head typeHead
	if err := json.Unmarshal(body, &head); err != nil {
		return schema.GroupVersionKind{}, fmt.Errorf("couldn't get version/kind; json parse error: %v", err)
	}
	gv, err := schema.ParseGroupVersion(head.APIVersion)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return gv.WithKind(head.Kind), nil
}

// withDefaults fills in what a body need not repeat.
func withDefaults(met, want schema.GroupVersionKind) schema.GroupVersionKind {
	if met.Kind == "" {
		met.Kind = want.Kind
	}
	if met.Version == "" && met.Group == "" {
		met.Group, met.Version = want.Group, want.Version
	}
	if met.Version == "" && met.Group == want.Group {
		met.Version = want.Version
	}
	return met
}

// checkKind refuses a body of another kind in upstream's words.
func (d decoding) checkKind(met, want schema.GroupVersionKind) error {
	switch {
	case met == want:
		return nil
	case d.scheme != nil && !d.scheme.Recognizes(met):
		return fmt.Errorf("no kind %q is registered for version %q", met.Kind, met.GroupVersion())
	case met.Kind == want.Kind:
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			met.GroupVersion(), want.GroupVersion()))
	}
	group := want.Group
	if group == "" {
		group = "core"
	}
	group, _, _ = strings.Cut(group, ".")
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", met.Version, met.Kind, group, want.Kind)
}

func (d decoding) decodeProtobuf(body []byte, want schema.GroupVersionKind, obj runtime.Object) error {
	if !bytes.HasPrefix(body, magic) {
		return &typeError{cause: fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", magic)}
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(body[len(magic):]); err != nil {
		return &typeError{cause: err}
	}
	met := withDefaults(unknown.GroupVersionKind(), want)
	if err := d.checkKind(met, want); err != nil {
		return &typeError{met: met, cause: err}
	}
	m, ok := obj.(message)
	if !ok {
		return &typeError{met: met, cause: fmt.Errorf("object %T does not implement the protobuf marshalling interface and cannot be decoded", obj)}
	}
	if err := m.Unmarshal(unknown.Raw); err != nil {
		return &typeError{met: met, cause: err}
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return nil
}

// badBody words a failure to decode as the API does.
func badBody(err error, want schema.GroupVersionKind, body []byte) error {
	var te *typeError
	if errors.As(err, &te) {
		var api apierrors.APIStatus
		if errors.As(te.cause, &api) {
			return te.cause
		}
		if te.met.Kind != "" {
			return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v",
				te.met.Kind, te.met.Version, want.Kind, te.cause))
		}
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)",
		want.Kind, err, summarize(body)))
}

func summarize(body []byte) string {
	const limit = 30
	switch {
	case len(body) == 0:
		return "<empty>"
	case body[0] == '{' && len(body) > limit:
		return string(body[:limit]) + " ..."
	case body[0] == '{':
		return string(body)
	case len(body) > limit:
		return hex.EncodeToString(body[:limit]) + " ..."
	}
	return hex.EncodeToString(body)
}

// decodeObject reads a request's object, applying its fieldValidation.
func (c *call) decodeObject(body []byte, want schema.GroupVersionKind, obj runtime.Object) error {
	mediaType, err := inputType(c.req)
	if err != nil {
		return err
	}
	strict, err := c.decoding(mediaType).decodeInto(body, want, obj)
	if err != nil {
		return badBody(err, want, body)
	}
	if err := c.reportStrict(strict); err != nil {
		return badBody(&typeError{met: want, cause: err}, want, body)
	}
	return nil
}

// reportStrict turns strict findings into warnings, or into an error where Strict was asked for.
func (c *call) reportStrict(found []error) error {
	switch {
	case len(found) == 0:
		return nil
	case c.fieldValidation == metav1.FieldValidationStrict:
		return runtime.NewStrictDecodingError(found)
	}
	for _, err := range found {
		for _, text := range strictWarnings(err) {
			c.warn(text)
		}
	}
	return nil
}

// strictWarnings splits the one error that the YAML parser gives for several lines.
func strictWarnings(err error) []string {
	text := err.Error()
	_, lines, found := strings.Cut(text, "yaml: unmarshal errors:\n")
	if !found {
		return []string{text}
	}
	var out []string
	for line := range strings.SplitSeq(lines, "\n") {
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

// bodyKind looks at the kind a body claims to be of.
func bodyKind(mediaType string, body []byte) (schema.GroupVersionKind, error) {
	switch mediaType {
	case typeProtobuf:
		var unknown runtime.Unknown
		if !bytes.HasPrefix(body, magic) {
			return schema.GroupVersionKind{}, errors.New("no protobuf envelope")
		}
		if err := unknown.Unmarshal(body[len(magic):]); err != nil {
			return schema.GroupVersionKind{}, err
		}
		return unknown.GroupVersionKind(), nil
	case typeYAML:
		converted, err := yaml.YAMLToJSON(body)
		if err != nil {
			return schema.GroupVersionKind{}, err
		}
		body = converted
	}
	return interpretType(body)
}
