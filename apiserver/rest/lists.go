package rest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// listKind is the kind of a list in an output.
func (r *resource) listKind(out output) schema.GroupVersionKind {
	if out.meta() {
		return schema.GroupVersionKind{Group: metav1.GroupName, Version: out.metaVersion, Kind: "PartialObjectMetadataList"}
	}
	return r.list
}

// metaCodec knows the heads of PartialObjectMetadata.
func metaCodec(version string) codec {
	gvk := schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: "PartialObjectMetadata"}
	return codec{gvk: gvk, jsonHead: jsonHead(gvk), envelopeHead: envelopeHead(gvk)}
}

// jsonListBody is a JSON list to be: its parts are joined without encoding any item again.
type jsonListBody struct {
	list  schema.GroupVersionKind
	head  *codec
	meta  metav1.ListMeta
	items [][]byte
	whole bool // items keep their kind and apiVersion
}

var (
	comma     = []byte(",")
	openBrace = []byte("{")
	commaOpen = []byte(",{")
	listEnd   = []byte("]}\n")
)

func (l jsonListBody) segments() ([][]byte, error) {
	m, err := json.Marshal(l.meta)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, 0, 2*len(l.items)+2)
	out = append(out, fmt.Appendf(nil, `%s"metadata":%s,"items":[`, jsonHead(l.list), m))
	for i, b := range l.items {
		separator := comma
		if !l.whole {
			b, separator = l.head.itemJSON(b), commaOpen
		}
		switch {
		case i > 0:
			out = append(out, separator)
		case !l.whole:
			out = append(out, openBrace)
		}
		out = append(out, b)
	}
	return append(out, listEnd), nil
}

// protobufList frames a list message around its items' messages. Every list has its metadata in field 1 and
// its items in field 2.
func protobufList(list schema.GroupVersionKind, item *codec, m metav1.ListMeta, items [][]byte) ([][]byte, error) {
	metaBytes, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	size := sizeTagged(len(metaBytes))
	heads := make([]byte, 0, 6*len(items))
	out := make([][]byte, 1, 2*len(items)+2)
	for _, envelope := range items {
		raw := item.rawOf(envelope)
		size += sizeTagged(len(raw))
		start := len(heads)
		heads = appendTag(heads, 2, len(raw))
		out = append(out, heads[start:len(heads):len(heads)], raw)
	}
	out[0] = appendBytes(appendTag(envelopeHead(list), 2, size), 1, metaBytes)
	return append(out, envelopeTail), nil
}

// continueToken is upstream's: clients may hold one across a change of server.
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

func encodeContinue(startKey string, revision int64) string {
	b, _ := json.Marshal(continueToken{continueVersion, revision, startKey})
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeContinue(text string) (continueToken, error) {
	var t continueToken
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return t, fmt.Errorf("continue key is not valid: %w", err)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("continue key is not valid: %w", err)
	}
	switch {
	case t.APIVersion != continueVersion:
		return t, fmt.Errorf("continue key is not valid: server does not recognize this encoded version %v", t.APIVersion)
	case t.ResourceVersion == 0:
		return t, errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case t.StartKey == "":
		return t, errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	case path.Clean("/"+t.StartKey) != "/"+t.StartKey:
		return t, fmt.Errorf("continue key is not valid: %s", t.StartKey)
	}
	return t, nil
}

// expiredContinue offers to go on at the newest state instead.
func expiredContinue(startKey string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list.")
	err.ErrStatus.Continue = encodeContinue(startKey, -1)
	return err
}
