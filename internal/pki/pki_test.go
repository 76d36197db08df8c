package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func options(dir string) Options {
	return Options{Dir: dir, ServiceIP: netip.MustParseAddr("10.96.0.1"), ClusterDomain: "cluster.local", Extra: []string{"box", "192.0.2.7"}}
}

func mustOpen(t *testing.T, opts Options) *PKI {
	t.Helper()
	p, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func serial(p *PKI) string { return p.server.Load().Leaf.SerialNumber.String() }

func TestServingCertificateNamesEveryWayIn(t *testing.T) {
	p := mustOpen(t, options(t.TempDir()))
	leaf := p.server.Load().Leaf
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "box", "192.0.2.7", "10.96.0.1", "kubernetes",
		"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"} {
		_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: p.CAPool()})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "elsewhere", Roots: p.CAPool()}); err == nil {
		t.Error("a name that was not asked for is in the certificate")
	}
}

func TestFilesAreSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p := mustOpen(t, options(dir))
	kubeconfig := filepath.Join(dir, "admin")
	if err := p.EnsureKubeconfig(kubeconfig, "https://127.0.0.1:6443", Admin); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, "ca.key": 0o600, "ca.crt": 0o644, "server.pem": 0o600, "sa.key": 0o600, "sa.pub": 0o644, "admin": 0o600,
		"front-proxy": 0o700, "front-proxy/ca.key": 0o600, "front-proxy/ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 7 {
		t.Errorf("%d files, want 7: %v (%v)", len(entries), entries, err)
	}
}

func TestReopenKeepsAndRenews(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	opts := options(dir)
	opts.Now = func() time.Time { return now }
	first := mustOpen(t, opts)
	if again := mustOpen(t, opts); serial(again) != serial(first) || string(again.CAPEM()) != string(first.CAPEM()) || !again.saKey.Equal(first.saKey) {
		t.Fatal("a second start did not keep the files")
	}
	changed := opts
	changed.Extra = []string{"box2"}
	if p := mustOpen(t, changed); serial(p) == serial(first) {
		t.Error("changed names did not reissue")
	}
	p := mustOpen(t, opts)
	before := serial(p)
	now = now.Add(leafLifetime - renewBefore + time.Minute)
	if err := p.Renew(); err != nil || serial(p) == before {
		t.Errorf("near its end the certificate was not renewed: %v", err)
	}
	if string(mustOpen(t, opts).CAPEM()) != string(first.CAPEM()) {
		t.Error("the CA changed")
	}
	now = now.Add(caLifetime)
	if _, err := Open(opts); err == nil {
		t.Error("an expired CA was accepted")
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	first := mustOpen(t, options(dir))
	if err := os.WriteFile(filepath.Join(dir, "server.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := mustOpen(t, options(dir)); serial(p) == serial(first) {
		t.Error("a damaged serving certificate was kept")
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, options(dir)) // first start cut short
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(options(dir)); err == nil {
		t.Error("a CA without its key was replaced silently")
	}
}

func TestHandshakeServesRenewedCertificate(t *testing.T) {
	now := time.Now()
	opts := options(t.TempDir())
	opts.Now = func() time.Time { return now }
	p := mustOpen(t, opts)
	cfg := p.ServerTLS()
	first := handshake(t, p, cfg)
	now = now.Add(leafLifetime - renewBefore + time.Hour)
	if err := p.Renew(); err != nil {
		t.Fatal(err)
	}
	if second := handshake(t, p, cfg); second == first {
		t.Error("the renewed certificate is not served")
	}
}

// handshake returns the serial number the server showed.
func handshake(t *testing.T, p *PKI, cfg *tls.Config) string {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		srv := tls.Server(b, cfg)
		_ = srv.Handshake()
		_, _ = io.Copy(io.Discard, srv)
	}()
	c := tls.Client(a, &tls.Config{ServerName: "localhost", RootCAs: p.CAPool(), Time: p.now})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestKubeconfigsAreRenewed(t *testing.T) {
	now := time.Now()
	opts := options(t.TempDir())
	opts.Now = func() time.Time { return now }
	p := mustOpen(t, opts)
	dir := t.TempDir()
	kept, removed := filepath.Join(dir, "kept"), filepath.Join(dir, "removed")
	for _, path := range []string{kept, removed} {
		if err := p.EnsureKubeconfig(path, "https://127.0.0.1:6443", Admin); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(removed); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(kept)
	now = now.Add(leafLifetime - renewBefore + time.Hour)
	if err := p.Renew(); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(kept); string(after) == string(before) {
		t.Error("not renewed")
	}
	if _, err := os.Stat(removed); err == nil {
		t.Error("a removed kubeconfig came back")
	}
}

func TestKubeconfig(t *testing.T) {
	p := mustOpen(t, options(t.TempDir()))
	path := filepath.Join(t.TempDir(), "sub", "admin.kubeconfig")
	ensure := func(server string, id Identity) string {
		t.Helper()
		if err := p.EnsureKubeconfig(path, server, id); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	first := ensure("https://127.0.0.1:6443", Admin)
	if ensure("https://127.0.0.1:6443", Admin) != first {
		t.Error("a current kubeconfig was rewritten")
	}
	if ensure("https://127.0.0.1:7443", Admin) == first {
		t.Error("a changed server was not written")
	}
	ensure("https://127.0.0.1:6443", Node("n1"))
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := parseCert(cfg.CertData)
	if err != nil || leaf.Subject.CommonName != "system:node:n1" || leaf.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject %v, %v", leaf.Subject, err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: p.CAPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

func TestFrontProxy(t *testing.T) {
	dir := t.TempDir()
	p, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	get := p.FrontProxyClient("front-proxy-client")
	cert, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := get(nil); again != cert {
		t.Error("a new certificate for every connection")
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: p.FrontProxyCAPool(), KeyUsages: usages}); err != nil || cert.Leaf.Subject.CommonName != "front-proxy-client" {
		t.Error(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: p.CAPool(), KeyUsages: usages}); err == nil {
		t.Error("the cluster's CA vouches for the front proxy")
	}
	q, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.FrontProxyCAPEM(), q.FrontProxyCAPEM()) || bytes.Equal(p.FrontProxyCAPEM(), p.CAPEM()) {
		t.Error("the front proxy's CA is not kept, or is the cluster's")
	}
}
