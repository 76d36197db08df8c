package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store/storetest"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
)

// suiteOptions: etcd's shortest lease is two seconds, and it looks for expired ones twice a second.
var suiteOptions = storetest.Options{TTL: 2 * time.Second, ExpiresWithin: 6 * time.Second}

func openEmbedded(t *testing.T) (*Engine, EmbeddedConfig) {
	t.Helper()
	// A socket's path must be short.
	run, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	cfg := EmbeddedConfig{DataDir: t.TempDir(), Socket: filepath.Join(run, "etcd.sock")}
	start := time.Now()
	e, err := OpenEmbedded(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(start))
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(run)
	})
	return e, cfg
}

func openExternal(t *testing.T, cfg ExternalConfig) *Engine {
	t.Helper()
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		e, _ := openEmbedded(t)
		return e
	}, suiteOptions)
}

func TestSocket(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		_, cfg := openEmbedded(t)
		return openExternal(t, ExternalConfig{Endpoints: []string{"unix://" + cfg.Socket}, Prefix: "/some/cluster"})
	}, storetest.Options{})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		dir := t.TempDir()
		pki := newPKI(t, dir)
		server, err := startServer(t.Context(), t.TempDir(), testLog())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Stop)
		socket := serveTLS(t, server, pki)
		return openExternal(t, ExternalConfig{
			Endpoints: []string{"unixs://" + socket},
			CAFile:    pki.ca, CertFile: pki.cert, KeyFile: pki.key,
		})
	}, storetest.Options{})
}

func serveTLS(t *testing.T, server *etcdserver.EtcdServer, p testPKI) string {
	run, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(run, "localhost")
	l, err := listenPrivate(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := v3rpc.Server(server, &tls.Config{
		Certificates: []tls.Certificate{p.pair}, ClientCAs: p.pool,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
	}, nil)
	go s.Serve(l)
	t.Cleanup(func() {
		s.Stop()
		os.RemoveAll(run)
	})
	return socket
}

// testPKI is one self-signed certificate that serves as CA, server and client.
type testPKI struct {
	ca, cert, key string
	pair          tls.Certificate
	pool          *x509.CertPool
}

func newPKI(t *testing.T, dir string) testPKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	p := testPKI{ca: filepath.Join(dir, "ca"), cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key"), pool: x509.NewCertPool()}
	for file, data := range map[string][]byte{p.ca: certPEM, p.cert: certPEM, p.key: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	p.pool.AppendCertsFromPEM(certPEM)
	return p
}

func TestSocketIsPrivate(t *testing.T) {
	_, cfg := openEmbedded(t)
	info, err := os.Stat(cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v", info.Mode())
	}
	if _, err := OpenEmbedded(context.Background(), cfg); err == nil {
		t.Error("the same data opened twice")
	} else {
		t.Log(err)
	}
}
