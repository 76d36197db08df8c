package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"

	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/pki"
)

const (
	nodePrefix = "system:node:"
	// backdate is by how much signers let a certificate begin before it was made.
	backdate = 5 * time.Minute
	// lookAgain bounds the wait for the renewal, so that a clock that was set is noticed.
	lookAgain = 10 * time.Minute
	// A renewal that failed is tried again after firstRetry, doubled each time up to lastRetry.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// patience is how long one request for a certificate is waited for.
	patience = 15 * time.Minute
)

// ErrNone is that of Open where there is no kubeconfig.
var ErrNone = errors.New("this machine has not joined a cluster")

// ErrExpired is that of Open where the certificate has run out.
var ErrExpired = errors.New("the node's certificate has expired")

// Identity is the node's, as a kubeconfig holds it. It is safe for concurrent use.
type Identity struct {
	path, user string
	base       *rest.Config
	log        *slog.Logger
	cert       atomic.Pointer[tls.Certificate]
	conns      *connrotation.ConnectionTracker
	unsaved    *pki.Pair // Run's alone: what the kubeconfig does not have yet

	mu      sync.Mutex
	renewed chan struct{}
}

// Open reads a kubeconfig. One whose certificate and key are not embedded, or that has none, is used as it is and never renewed. A server's URL
// that is not empty takes the place of the kubeconfig's.
func Open(path, server string, log *slog.Logger) (*Identity, error) {
	config, err := client.Config{Kubeconfig: path, Component: "agent"}.REST()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", ErrNone, path)
	}
	if err != nil {
		return nil, err
	}
	raw, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	if server != "" {
		config.Host = server
	}
	i := &Identity{path: path, base: config, log: log.With("component", "identity"), conns: connrotation.NewConnectionTracker(), renewed: make(chan struct{})}
	if c := raw.Contexts[raw.CurrentContext]; c != nil {
		i.user = c.AuthInfo
	}
	if len(config.CertData) == 0 || len(config.KeyData) == 0 {
		return i, nil
	}
	cert, err := load(config.CertData, config.KeyData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	i.cert.Store(cert)
	if now := time.Now(); now.After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("%w: %s was valid until %s, and this machine's clock says %s; unless the clock is wrong, make a token on the server with `coracle token create` and start the agent with it",
			ErrExpired, path, cert.Leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return i, nil
}

func load(cert, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// NodeName is the name of the node that the certificate is for; empty where it is not a node's.
func (i *Identity) NodeName() string {
	cert := i.cert.Load()
	if cert == nil {
		return ""
	}
	name, ok := strings.CutPrefix(cert.Leaf.Subject.CommonName, nodePrefix)
	if !ok {
		return ""
	}
	return name
}

// Trusts tells whether the token is of the cluster whose node this is.
func (i *Identity) Trusts(t Token) bool {
	certs, err := parseCerts(i.base.CAData)
	return err == nil && slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return pin(c) == t.CA })
}

// Server is the API server's URL.
func (i *Identity) Server() string { return i.base.Host }

// TLS is a configuration that shows the newest certificate at every handshake.
func (i *Identity) TLS() (*tls.Config, error) {
	config, err := rest.TLSConfigFor(i.base)
	if err != nil || i.cert.Load() == nil {
		return config, err
	}
	config.Certificates = nil
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.cert.Load(), nil }
	return config, nil
}

// REST is a client configuration whose connections are made anew when the certificate was renewed.
func (i *Identity) REST() (*rest.Config, error) {
	config := rest.CopyConfig(i.base)
	if i.cert.Load() == nil {
		return config, nil
	}
	t, err := i.TLS()
	if err != nil {
		return nil, err
	}
	dialer := connrotation.NewDialerWithTracker((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext, i.conns)
	config.Transport = utilnet.SetTransportDefaults(&http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: t, MaxIdleConnsPerHost: 25, DialContext: dialer.DialContext,
	})
	config.TLSClientConfig = rest.TLSClientConfig{}
	return config, nil
}

// Renewed is closed when the certificate has been renewed; the next call gives a channel for the next time.
func (i *Identity) Renewed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.renewed
}

// Run renews the certificate until ctx ends: when between 70 and 90 percent of its life have passed, as the kubelet does.
func (i *Identity) Run(ctx context.Context) error {
	if i.NodeName() == "" {
		<-ctx.Done()
		return nil
	}
	config, err := i.REST()
	if err != nil {
		return err
	}
	kube, err := client.Config{RestConfig: config, Component: "identity"}.Clientset()
	if err != nil {
		return err
	}
	share, pause := 0.7+0.2*rand.Float64(), firstRetry
	for {
		i.save()
		if left := time.Until(due(i.cert.Load().Leaf, share)); left > 0 {
			if !sleep(ctx, i.wait(left)) {
				return nil
			}
			continue
		}
		if err := i.renew(ctx, kube); err != nil {
			i.complain(ctx, err)
			if !sleep(ctx, pause/2+rand.N(pause)) {
				return nil
			}
			pause = min(2*pause, lastRetry)
			continue
		}
		share, pause = 0.7+0.2*rand.Float64(), firstRetry
		if !sleep(ctx, firstRetry) { // whatever the signer gives, it is not asked without a pause
			return nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// due is when that share of the certificate's life has passed. What it was backdated by does not count.
func due(c *x509.Certificate, share float64) time.Time {
	from := c.NotBefore
	if made := from.Add(backdate); made.Before(c.NotAfter) {
		from = made
	}
	return from.Add(time.Duration(share * float64(c.NotAfter.Sub(from))))
}

func (i *Identity) complain(ctx context.Context, err error) {
	end := i.cert.Load().Leaf.NotAfter
	switch {
	case ctx.Err() != nil:
	case time.Now().After(end):
		i.log.Error("the node's certificate has expired and the server takes no more of it: make a token with `coracle token create` and start the agent anew with it", "expired", end, "error", err)
	default:
		i.log.Warn("the node's certificate is not renewed yet", "expires", end, "error", err)
	}
}

// renew gets a certificate for a new key, keeps it, and has it used from now on.
func (i *Identity) renew(ctx context.Context, kube kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pair, err := request(ctx, kube, i.NodeName(), false)
	if err != nil {
		return err
	}
	cert, err := load(pair.Cert, pair.Key)
	if err != nil {
		return err
	}
	i.cert.Store(cert)
	i.unsaved = &pair
	i.save()
	i.mu.Lock()
	close(i.renewed)
	i.renewed = make(chan struct{})
	i.mu.Unlock()
	i.conns.CloseAll()
	i.log.Info("the node's certificate is renewed", "expires", cert.Leaf.NotAfter)
	return nil
}

// wait is how long to do nothing before the certificate is due in left.
func (i *Identity) wait(left time.Duration) time.Duration {
	if i.unsaved != nil {
		return min(left, lastRetry)
	}
	return min(left, lookAgain)
}

// save writes a renewed certificate and its key into the kubeconfig, if that is not done. Where the disk is full the node lives on, and it is tried again.
func (i *Identity) save() {
	if i.unsaved == nil {
		return
	}
	err := i.write(*i.unsaved)
	if err != nil {
		i.log.Error("the node's renewed certificate is not on disk yet", "error", err)
		return
	}
	i.unsaved = nil
}

// write changes the user's certificate and key in the kubeconfig, and nothing else.
func (i *Identity) write(pair pki.Pair) error {
	config, err := clientcmd.LoadFromFile(i.path)
	if err != nil {
		return err
	}
	user := config.AuthInfos[i.user]
	if user == nil {
		return fmt.Errorf("%s: the user %q is gone", i.path, i.user)
	}
	user.ClientCertificateData, user.ClientKeyData = pair.Cert, pair.Key
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return pki.WriteFile(i.path, raw, 0o600)
}
