// Package words keeps kubectl's translations from being loaded where nobody reads them: kubectl translates texts while its
// packages are initialised, which every process would pay for with 18 ms and 4 MB. Without translations the texts are
// English, word for word those of kubectl's own catalogue for English.
//
// Its invariant: it is initialised before any package that translates. Go initialises packages in the order of their
// import paths once what they import is ready, and this one imports nothing but i18n.
package words

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/kubectl/pkg/util/i18n"
)

// An init function is the only place early enough; i18n documents it as the way.
func init() {
	if isKubectl(os.Args) && !english(os.Getenv) {
		return
	}
	// The error would say that translations are loaded already, which costs time and nothing else.
	_ = i18n.SetLoadTranslationsFunc(func() error { return nil })
}

// isKubectl tells whether the command line is kubectl's.
func isKubectl(args []string) bool {
	return len(args) > 0 && filepath.Base(args[0]) == "kubectl" || len(args) > 1 && args[1] == "kubectl"
}

// english tells whether the locale, looked up as kubectl does, is one for which kubectl speaks English for certain.
func english(getenv func(string) string) bool {
	locale := cmp.Or(getenv("LC_ALL"), getenv("LC_MESSAGES"), getenv("LANG"))
	language, _, _ := strings.Cut(locale, ".")
	return language == "" || language == "C" || language == "POSIX" || language == "en_US"
}
