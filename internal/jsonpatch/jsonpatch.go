// Package jsonpatch applies JSON patches (RFC 6902) that come from outside.
package jsonpatch

import (
	"fmt"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// maxCopied bounds what the copy operations of a patch may add, in bytes; upstream's value. Each may double the document.
const maxCopied = 3 << 20

var bound = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxCopied })

// Apply gives what a patch makes of a document. The library panics at some patches that lack a member, such as a test of the
// whole document against nothing; here that is an error like others.
func Apply(patch jsonpatch.Patch, document []byte) (patched []byte, err error) {
	bound()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the patch cannot be applied: %v", p)
		}
	}()
	return patch.Apply(document)
}
