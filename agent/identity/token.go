// Package identity is by whom the API server knows a node: it joins with a token, and from then on keeps the node's client certificate valid.
//
// Invariants: nothing but public information is sent to a server before its CA was found to be the token's; a private key
// leaves the process only into a file of mode 0600, together with its certificate, replaced whole; the certificate is renewed long before its
// end, with a new key, and every new connection uses the newest.
package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
)

// Token lets a machine join: it says which cluster's CA to trust, and makes the machine known there until it has a certificate.
// As text it is K10<CA>::<ID>.<Secret>, where CA is in hexadecimal.
type Token struct {
	// CA is the SHA-256 of the CA's public key (its SubjectPublicKeyInfo in DER, as RFC 7469 pins keys and kubeadm does).
	CA [sha256.Size]byte
	// ID names the token's Secret, kube-system/bootstrap-token-<ID>; Secret proves it.
	ID, Secret string
}

var (
	tokenText  = regexp.MustCompile(`\AK10([0-9a-f]{64})::([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	tokenShort = regexp.MustCompile(`\A[a-z0-9]{6}\.[a-z0-9]{16}\z`)
)

// ParseToken reads a token as String writes it. Its errors do not repeat the text, which is secret.
func ParseToken(text string) (Token, error) {
	m := tokenText.FindStringSubmatch(text)
	if m == nil && tokenShort.MatchString(text) {
		return Token{}, errors.New("the token does not say which CA to trust: take all of what `coracle token create` prints, K10...::ID.SECRET")
	}
	if m == nil {
		return Token{}, errors.New("that is no token: it should look like K10<64 hexadecimal digits>::<6 characters>.<16 characters>")
	}
	t := Token{ID: m[2], Secret: m[3]}
	if _, err := hex.Decode(t.CA[:], []byte(m[1])); err != nil {
		return Token{}, err
	}
	return t, nil
}

// NewToken is the token of that ID and secret for the cluster whose CA is the first certificate of a PEM bundle.
func NewToken(ca []byte, id, secret string) (Token, error) {
	certs, err := parseCerts(ca)
	if err != nil {
		return Token{}, err
	}
	return Token{CA: pin(certs[0]), ID: id, Secret: secret}, nil
}

func (t Token) String() string { return fmt.Sprintf("K10%x::%s", t.CA, t.bearer()) }

// bearer is the part that the API server knows.
func (t Token) bearer() string { return t.ID + "." + t.Secret }

func pin(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// parseCerts reads a PEM bundle of at least one certificate.
func parseCerts(bundle []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM certificate in it")
	}
	return out, nil
}
