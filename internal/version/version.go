// Package version says what this binary is. The build stamps the variables with -ldflags -X.
package version

import "strings"

// KubernetesVersion is the version of the API that is spoken.
const KubernetesVersion = "v1.37.2"

var (
	// Version is Coracle's own, as git describes it.
	Version = "v0.0.0-dev"
	// Commit is the full hash of the commit it was built from.
	Commit = "unknown"
)

// Git is the version that /version, nodes and kubectl show: Kubernetes' with Coracle's as build metadata, a
// valid semantic version.
func Git() string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '.', r == '-':
			return r
		}
		return '-'
	}, strings.TrimPrefix(Version, "v"))
	return KubernetesVersion + "+coracle." + clean
}
