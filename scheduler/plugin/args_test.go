package plugin

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
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

const head = "apiVersion: coracle.dev/v1alpha1\nkind: GRPCPluginArgs\n"

func TestParseArgs(t *testing.T) {
	got, err := ParseArgs([]byte(head + "address: unix:///run/p.sock\n"))
	want := Config{Address: "unix:///run/p.sock", Deadline: 200 * time.Millisecond, WhenDown: Reject, Encoding: Protobuf}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = ParseArgs([]byte(`{"apiVersion":"coracle.dev/v1alpha1","kind":"GRPCPluginArgs","address":"p.example:443","deadline":"1s","whenDown":"Ignore",
		"encoding":"json","caFile":"/ca","certFile":"/c","keyFile":"/k","serverName":"p"}`))
	want = Config{Address: "p.example:443", Deadline: time.Second, WhenDown: Ignore, Encoding: JSON, TLS: TLS{CAFile: "/ca", CertFile: "/c", KeyFile: "/k", ServerName: "p"}}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestParseArgsErrors(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", `apiVersion: Unsupported value: "": supported values: "coracle.dev/v1alpha1"`},
		{"", `address: Required value`},
		{head + "address: unix://p\n", `address: Invalid value: "unix://p": must be unix:/// and an absolute path`},
		{head + "address: p\n", `address: Invalid value: "p": must be unix:///path or host:port`},
		{head + "address: p:1\n", `caFile: Required value: a plug-in on another machine is spoken to with TLS`},
		{head + "address: 127.0.0.1:1\nserverName: x\n", `caFile: Required value`},
		{head + "address: 127.0.0.1:1\ncaFile: /x\ncertFile: /x\n", `keyFile: Required value: certFile and keyFile go together`},
		{head + "address: unix:///p\ncaFile: /x\n", `caFile: Forbidden: a unix socket is spoken to without TLS`},
		{head + "address: unix:///p\ndeadline: 5m\n", `deadline: Invalid value: "5m": must be a duration from 1ms to 10s`},
		{head + "address: unix:///p\ndeadline: 5\n", `deadline`},
		{head + "address: unix:///p\nwhenDown: Perhaps\n", `whenDown: Unsupported value: "Perhaps": supported values: "Ignore", "Reject"`},
		{head + "address: unix:///p\nencoding: xml\n", `encoding: Unsupported value: "xml": supported values: "json", "protobuf"`},
		{head + "address: unix:///p\nwhendown: Ignore\n", `unknown field "whendown"`},
		{head + "address: unix:///p\naddress: unix:///q\n", `"address" already set`},
	} {
		if _, err := ParseArgs([]byte(test.args)); err == nil || !strings.HasPrefix(err.Error(), "GRPCPluginArgs: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: error %v, want %s", test.args, err, test.want)
		}
	}
}

func TestAddressesThatNewRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{Address: "unix:p"}, {Address: "p"}, {Address: "10.0.0.1:1"},
		{Address: "p:1", TLS: TLS{CAFile: "/nowhere"}}, {Address: "p:1", TLS: TLS{CAFile: os.DevNull}},
		{Address: "p:1", TLS: TLS{CertFile: "/nowhere", KeyFile: "/nowhere"}},
	} {
		if c, err := New(cfg); err == nil {
			c.Close()
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// TestTLS: both sides show certificates, and a stranger's is refused by name of the fault.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca := issue(t, dir, "ca", nil)
	issue(t, dir, "plugin", ca)
	issue(t, dir, "scheduler", ca)
	issue(t, dir, "stranger", nil)
	file := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(file("plugin.crt"), file("plugin.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})))
	scheduling.RegisterSchedulerPluginServer(g, &server{about: both(), judge: each(func(*server, string) *scheduling.NodeVerdict { return points(9) })})
	go func() { _ = g.Serve(listener) }()
	defer g.Stop()
	ask := func(files TLS) error {
		c, err := New(Config{Address: listener.Addr().String(), Deadline: 20 * time.Second, TLS: files})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Evaluate(context.Background(), pod("p"), nodes("n1"))
		return err
	}
	good := TLS{CAFile: file("ca.crt"), CertFile: file("scheduler.crt"), KeyFile: file("scheduler.key"), ServerName: "plugin"}
	if err := ask(good); err != nil {
		t.Error(err)
	}
	bad := good
	bad.CAFile = file("stranger.crt")
	if err := ask(bad); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown CA: %v", err)
	}
	bad = good
	bad.ServerName = "other"
	if err := ask(bad); err == nil || !strings.Contains(err.Error(), "plugin") {
		t.Errorf("another's name: %v", err)
	}
	bad = good
	bad.CertFile, bad.KeyFile = "", ""
	if err := ask(bad); err == nil {
		t.Error("it serves whoever comes")
	}
}

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue writes name.crt and name.key, signed by itself without a CA.
func issue(t *testing.T, dir, name string, by *issuer) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: by == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if by == nil {
		by = &issuer{template, key}
		template.KeyUsage = x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, path), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}
