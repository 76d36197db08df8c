// Package pki keeps the cluster's keys and certificates on disk: the cluster CA, the API server's serving
// certificate, the key that signs service account tokens, and client certificates inside kubeconfigs.
// Its invariant: a private key is never readable by others (0600 in 0700), and every file is replaced
// whole, so that a crash at any point leaves either the old or the new one. A leaf's certificate and key
// share one file, so that they can never be torn apart.
package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// renewBefore is how long before its expiry a leaf is reissued.
	renewBefore = 30 * 24 * time.Hour
	// backdate makes certificates valid on machines whose clock is a little behind.
	backdate = 5 * time.Minute

	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"
	serverFile = "server.pem"
	saKeyFile  = "sa.key"
	saPubFile  = "sa.pub"
)

// Options say whom the API server's certificate names.
type Options struct {
	// Dir holds the files (paths.Layout.PKI()).
	Dir string
	// ServiceIP is the first address of the service range, the cluster's own name for its API server.
	ServiceIP netip.Addr
	// ClusterDomain is the domain services live in ("cluster.local").
	ClusterDomain string
	// Extra are further host names and IP addresses the API server is reached by.
	Extra []string
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

// PKI is the opened set. It is safe for concurrent use.
type PKI struct {
	dir string
	now func() time.Time
	ca  *authority
	// frontCA signs the front proxy's certificates: see frontproxy.go.
	frontCA *authority
	sans    sans
	server  atomic.Pointer[tls.Certificate]
	saKey   *ecdsa.PrivateKey

	mu          sync.Mutex
	kubeconfigs map[string]kubeconfig // by path: those that Renew keeps current
}

// Open loads the files of Options.Dir, makes those that are missing, and reissues the serving certificate
// where it is damaged, near its expiry, of another CA, or for other names.
func Open(opts Options) (*PKI, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	if err := os.Chmod(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	ca, err := openAuthority(opts.Dir, opts.Now)
	if err != nil {
		return nil, err
	}
	p := &PKI{dir: opts.Dir, now: opts.Now, ca: ca, sans: serverSANs(opts), kubeconfigs: map[string]kubeconfig{}}
	if p.saKey, err = loadOrMakeKey(filepath.Join(opts.Dir, saKeyFile)); err != nil {
		return nil, err
	}
	if err := p.writePublicKey(); err != nil {
		return nil, err
	}
	if err := p.openFrontProxy(); err != nil {
		return nil, err
	}
	if err := p.Renew(); err != nil {
		return nil, err
	}
	return p, nil
}

// CAPEM is the cluster CA's certificate.
func (p *PKI) CAPEM() []byte { return slices.Clone(p.ca.pem) }

// CAPool holds the cluster CA alone.
func (p *PKI) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.cert)
	return pool
}

// ServiceAccountKey signs service account tokens.
func (p *PKI) ServiceAccountKey() *ecdsa.PrivateKey { return p.saKey }

// Renew reissues the serving certificate, and those in kubeconfigs, where they are due. It is cheap if not.
func (p *PKI) Renew() error {
	return errors.Join(p.renewServer(), p.renewKubeconfigs())
}

func (p *PKI) renewServer() error {
	if cur := p.server.Load(); cur != nil && p.current(cur.Leaf, p.sans) {
		return nil
	}
	path := filepath.Join(p.dir, serverFile)
	leaf, err := readLeaf(path)
	if err != nil || !p.current(leaf.Leaf, p.sans) {
		if leaf, err = p.issueServer(path); err != nil {
			return err
		}
	}
	p.server.Store(leaf)
	return nil
}

// Run renews certificates when they are due, until ctx ends.
func (p *PKI) Run(ctx context.Context) error {
	log := slog.With("component", "pki")
	tick := time.NewTicker(6 * time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := p.Renew(); err != nil {
				log.Error("A certificate could not be renewed", "err", err)
			}
		}
	}
}

// ServerTLS is the API server's configuration: it serves the newest certificate at every handshake and asks
// clients for theirs. It does not verify them: whoever authenticates the request does, so that a bad
// certificate gets a 401 in place of a broken connection.
func (p *PKI) ServerTLS() *tls.Config {
	cas := p.CAPool() // clients choose their certificate by these
	cas.AddCert(p.frontCA.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequestClientCert,
		ClientCAs:  cas,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.server.Load(), nil
		},
	}
}

// current tells whether leaf is of this CA, for exactly these names, and not near its end.
func (p *PKI) current(leaf *x509.Certificate, want sans) bool {
	now := p.now()
	if leaf == nil || now.Before(leaf.NotBefore) || now.Add(renewBefore).After(leaf.NotAfter) {
		return false
	}
	return leaf.CheckSignatureFrom(p.ca.cert) == nil && want.equal(leaf)
}

func (p *PKI) issueServer(path string) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     subject("kube-apiserver", nil),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    p.sans.names,
		IPAddresses: p.sans.ips,
	}
	pair, err := p.ca.issue(template, p.now())
	if err != nil {
		return nil, fmt.Errorf("pki: issuing the serving certificate: %w", err)
	}
	if err := WriteFile(path, slices.Concat(pair.Cert, pair.Key), 0o600); err != nil {
		return nil, err
	}
	return readLeaf(path)
}

func (p *PKI) writePublicKey() error {
	pub, err := encodePublicKey(&p.saKey.PublicKey)
	if err != nil {
		return err
	}
	path := filepath.Join(p.dir, saPubFile)
	if have, err := os.ReadFile(path); err == nil && slices.Equal(have, pub) {
		return nil
	}
	return WriteFile(path, pub, 0o644)
}

// readLeaf loads a file that holds a certificate and its key.
func readLeaf(path string) (*tls.Certificate, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", path, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("pki: %s: %w", path, err)
		}
	}
	return &pair, nil
}

// sans are the names and addresses of a serving certificate, sorted.
type sans struct {
	names []string
	ips   []net.IP
}

func serverSANs(opts Options) sans {
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	if opts.ClusterDomain != "" {
		names = append(names, "kubernetes.default.svc."+opts.ClusterDomain)
	}
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	if opts.ServiceIP.IsValid() {
		addrs = append(addrs, opts.ServiceIP)
	}
	for _, extra := range opts.Extra {
		if addr, err := netip.ParseAddr(extra); err == nil {
			addrs = append(addrs, addr.WithZone("").Unmap())
		} else if extra != "" {
			names = append(names, extra)
		}
	}
	slices.Sort(names)
	slices.SortFunc(addrs, netip.Addr.Compare)
	s := sans{names: slices.Compact(names)}
	for _, a := range slices.Compact(addrs) {
		s.ips = append(s.ips, net.IP(a.AsSlice()))
	}
	return s
}

func (s sans) equal(leaf *x509.Certificate) bool {
	return slices.Equal(s.names, leaf.DNSNames) && slices.EqualFunc(s.ips, leaf.IPAddresses, net.IP.Equal)
}

// HostAddresses lists this machine's host name and global unicast addresses, for Options.Extra.
func HostAddresses() []string {
	var out []string
	if name, err := os.Hostname(); err == nil {
		out = append(out, name)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// exists tells whether a file is there; any other trouble is an error.
func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
