package main

import (
	"os"
	"path/filepath"

	"github.com/coracle-dev/coracle/apiserver/kinds"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/encrypted"
)

// encryptedStore is the database with what must not be readable in its files encrypted. With an external etcd, whose other
// users do not have the key in this machine's data folder, that is only what the file of --encryption-provider-config says.
func (s *server) encryptedStore() (store.Store, error) {
	if s.o.encryption == "" {
		if len(s.o.etcd.endpoints) > 0 {
			return s.engine, nil
		}
		cfg, err := encrypted.Default(filepath.Join(s.o.layout.PKI(), "secrets-encryption.key"))
		if err != nil {
			return nil, err
		}
		return encrypted.New(s.engine, cfg), nil
	}
	file, err := os.ReadFile(s.o.encryption)
	if err != nil {
		return nil, neverAgain("--encryption-provider-config: %v", err)
	}
	var known []encrypted.Resource
	for _, k := range kinds.All() {
		if !k.NotStored {
			known = append(known, encrypted.Resource{Group: k.GVK.Group, Name: k.Resource, Prefix: k.Prefix})
		}
	}
	cfg, err := encrypted.Parse(file, known)
	if err != nil {
		return nil, neverAgain("--encryption-provider-config %s: %v", s.o.encryption, err)
	}
	return encrypted.New(s.engine, cfg), nil
}
