package pki

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CAKey is the key of the cluster CA.
func (p *PKI) CAKey() crypto.Signer { return p.ca.key }

// LoadCAKey is the key of the cluster CA in a directory; nil where there is none.
func LoadCAKey(dir string) (crypto.Signer, error) {
	path := filepath.Join(dir, caKeyFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	key, err := parseKey(raw)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", path, err)
	}
	return key, nil
}
