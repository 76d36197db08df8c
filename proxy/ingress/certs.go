package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// certificates are what handshakes choose from. They are immutable.
type certificates struct {
	names  names
	loaded map[types.NamespacedName]*tls.Certificate
}

// choose gives a host's certificate; nil: there is none that can be used.
func (c *certificates) choose(host string) *tls.Certificate {
	if c == nil {
		return nil
	}
	secret, ok := c.names.find(strings.ToLower(strings.TrimSuffix(host, ".")))
	if !ok {
		return nil
	}
	return c.loaded[secret]
}

// fallback makes the certificate for hosts that have none. Clients do not trust it, and see from its name why.
func fallback() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Coracle Ingress: no certificate for this host", Organization: []string{"coracle"}},
		DNSNames: []string{"ingress.local"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// secretStore watches single Secrets by their names, as nodes may: those of certificates alone.
type secretStore struct {
	client  kubernetes.Interface
	changed func() // called, from any goroutine, when what load gives is another

	mu      sync.Mutex
	entries map[types.NamespacedName]*secretEntry
}

type secretEntry struct {
	stop   context.CancelFunc
	synced func() bool
	cert   *tls.Certificate
	err    error // why there is no certificate; nil while nothing is known
}

// keep watches exactly these Secrets.
func (s *secretStore) keep(ctx context.Context, want map[types.NamespacedName]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range s.entries {
		if !want[key] {
			e.stop()
			delete(s.entries, key)
		}
	}
	for key := range want {
		if s.entries[key] == nil {
			s.entries[key] = s.watch(ctx, key)
		}
	}
}

func (s *secretStore) watch(ctx context.Context, key types.NamespacedName) *secretEntry {
	ctx, cancel := context.WithCancel(ctx)
	e := &secretEntry{stop: cancel, err: errNoSecret}
	narrow := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.AndSelectors(fields.OneTermEqualSelector("metadata.name", key.Name), fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS))).String()
	}
	secrets := s.client.CoreV1().Secrets(key.Namespace)
	take := func(obj any) {
		if secret, ok := obj.(*corev1.Secret); ok {
			s.take(e, secret)
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (list runtime.Object, err error) {
				narrow(&o)
				return secrets.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				narrow(&o)
				return secrets.Watch(ctx, o)
			},
		}, s.client),
		ObjectType: &corev1.Secret{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: take, UpdateFunc: func(_, obj any) { take(obj) }, DeleteFunc: func(any) { s.take(e, nil) },
		},
	})
	e.synced = controller.HasSynced
	go func() {
		go func() { // tells when there is no such Secret, which is no event
			select {
			case <-controller.HasSyncedChecker().Done():
				s.changed()
			case <-ctx.Done():
			}
		}()
		controller.RunWithContext(ctx)
	}()
	return e
}

var errNoSecret = fmt.Errorf("there is no such Secret of type %s", corev1.SecretTypeTLS)

func (s *secretStore) take(e *secretEntry, secret *corev1.Secret) {
	var cert *tls.Certificate
	err := errNoSecret
	if secret != nil {
		cert, err = parse(secret)
	}
	s.mu.Lock()
	e.cert, e.err = cert, err
	s.mu.Unlock()
	s.changed()
}

func parse(secret *corev1.Secret) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err
	}
	return &cert, nil
}

// load gives the certificates that can be used, why others cannot, and whether all that are watched have been asked for once.
func (s *secretStore) load() (certs map[types.NamespacedName]*tls.Certificate, failed map[types.NamespacedName]error, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	certs, failed, complete = map[types.NamespacedName]*tls.Certificate{}, map[types.NamespacedName]error{}, true
	for key, e := range s.entries {
		switch {
		case e.cert != nil:
			certs[key] = e.cert
		case !e.synced():
			complete = false
		default:
			failed[key] = e.err
		}
	}
	return certs, failed, complete
}
