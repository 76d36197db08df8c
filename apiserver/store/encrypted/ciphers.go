package encrypted

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
)

var errShort = errors.New("the stored data was shorter than the required size")

// gcm is AES-GCM. Values are bound to their key in the store.
type gcm struct{ aead cipher.AEAD }

func newGCM(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return gcm{aead}, err
}

func (g gcm) seal(value []byte, where string) ([]byte, error) {
	nonce := make([]byte, g.aead.NonceSize(), g.aead.NonceSize()+len(value)+g.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return g.aead.Seal(nonce, nonce, value, []byte(where)), nil
}

func (g gcm) open(sealed []byte, where string) ([]byte, error) {
	n := g.aead.NonceSize()
	if len(sealed) < n {
		return nil, errShort
	}
	return g.aead.Open(nil, sealed[:n], sealed[n:], []byte(where))
}

// cbc is AES-CBC with PKCS #7 padding: upstream's format, which does not notice changes.
type cbc struct{ block cipher.Block }

func newCBC(key []byte) (sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("expected key size 32 for aes-cbc, got %d", len(key))
	}
	block, err := aes.NewCipher(key)
	return cbc{block}, err
}

func (c cbc) seal(value []byte, _ string) ([]byte, error) {
	pad := aes.BlockSize - len(value)%aes.BlockSize
	out := make([]byte, aes.BlockSize+len(value)+pad)
	iv, body := out[:aes.BlockSize], out[aes.BlockSize:]
	_, _ = rand.Read(iv)
	for i := copy(body, value); i < len(body); i++ {
		body[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(body, body)
	return out, nil
}

func (c cbc) open(sealed []byte, _ string) ([]byte, error) {
	if len(sealed) < 2*aes.BlockSize {
		return nil, errShort
	}
	iv, body := sealed[:aes.BlockSize], sealed[aes.BlockSize:]
	if len(body)%aes.BlockSize != 0 {
		return nil, errors.New("the stored data is not a multiple of the block size")
	}
	out := make([]byte, len(body))
	cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(out, body)
	pad := int(out[len(out)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, errors.New("invalid padding on input")
	}
	for _, b := range out[len(out)-pad:] {
		if int(b) != pad {
			return nil, errors.New("invalid padding on input")
		}
	}
	return out[:len(out)-pad], nil
}

// box is XSalsa20 with Poly1305.
type box struct{ key [32]byte }

func newBox(key []byte) (sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("secretbox key must be 32 bytes, got %d", len(key))
	}
	return box{[32]byte(key)}, nil
}

func (b box) seal(value []byte, _ string) ([]byte, error) {
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	return secretbox.Seal(nonce[:], value, &nonce, &b.key), nil
}

func (b box) open(sealed []byte, _ string) ([]byte, error) {
	if len(sealed) < 24+secretbox.Overhead {
		return nil, errShort
	}
	nonce := [24]byte(sealed[:24])
	out, ok := secretbox.Open(nil, sealed[24:], &nonce, &b.key)
	if !ok {
		return nil, errors.New("the value cannot be decrypted by this key")
	}
	return out, nil
}
