package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/coracle-dev/coracle/apiserver/auth"
	"github.com/coracle-dev/coracle/controllers/serviceaccounttoken"
)

// limitAnonymous applies --anonymous-auth.
func (o *options) limitAnonymous(a authenticator.Request) authenticator.Request {
	switch o.anonymous {
	case "health":
		return auth.LimitAnonymous(a, auth.HealthPaths...)
	case "none":
		return auth.LimitAnonymous(a)
	}
	return a
}

func (o *options) checkAnonymous() error {
	switch o.anonymous {
	case "", "all", "health", "none":
		return nil
	}
	return usage("--anonymous-auth %q: want all, health or none", o.anonymous)
}

// signToken signs with the API server's key where this machine has it: controllers that run elsewhere sign nothing.
func (o *options) signToken() (serviceaccounttoken.Sign, error) {
	raw, err := os.ReadFile(filepath.Join(o.layout.PKI(), "sa.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(raw)
	if err != nil {
		return nil, usage("the service accounts' key in %s: %w", o.layout.PKI(), err)
	}
	tokens, err := auth.NewTokens(auth.TokenConfig{Issuer: "kubernetes/serviceaccount", Signer: key})
	if err != nil {
		return nil, err
	}
	return tokens.Legacy, nil
}

func parseKey(raw []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if ec, ok := key.(*ecdsa.PrivateKey); ok {
			return ec, nil
		}
		return nil, errors.New("not an ECDSA key")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}
