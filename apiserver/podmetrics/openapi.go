package podmetrics

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"k8s.io/kube-openapi/pkg/spec3"
)

//go:embed openapi.json
var document []byte

// OpenAPI is the document of the group, by the path that it is served at.
func OpenAPI() (map[string]*spec3.OpenAPI, error) {
	doc := new(spec3.OpenAPI)
	if err := json.Unmarshal(document, doc); err != nil {
		return nil, fmt.Errorf("the document of %s: %w", GroupVersion, err)
	}
	return map[string]*spec3.OpenAPI{"apis/" + GroupVersion.String(): doc}, nil
}
