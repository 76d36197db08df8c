package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap/zapcore"
)

// ExternalConfig tells how to reach an etcd cluster.
type ExternalConfig struct {
	// Endpoints as "https://10.0.0.1:2379" or "unix:///run/etcd.sock".
	Endpoints []string
	// CAFile verifies the servers; CertFile and KeyFile authenticate us. PEM files, read again on every
	// handshake. All empty: no TLS.
	CAFile, CertFile, KeyFile string
	// Prefix goes before every key, so that several clusters can share one etcd.
	Prefix string
}

// connectTimeout bounds how long Open waits for an answer.
const connectTimeout = 10 * time.Second

// Open connects to an etcd cluster and waits for its first answer.
func Open(ctx context.Context, cfg ExternalConfig) (*Engine, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no etcd endpoint given")
	}
	log := slog.With("component", "etcd-client")
	clientConfig := clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          connectTimeout,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		MaxCallSendMsgSize:   2 * maxRequest,
		// The client warns of every refused request before it returns its error.
		Logger: newLogger(log, zapcore.ErrorLevel),
	}
	if cfg.CAFile != "" || cfg.CertFile != "" || cfg.KeyFile != "" {
		info := transport.TLSInfo{TrustedCAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile}
		tls, err := info.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("TLS files for etcd: %w", err)
		}
		clientConfig.TLS = tls
	}
	client, err := clientv3.New(clientConfig)
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	e := newEngine(log, client)
	e.prefix = strings.TrimSuffix(cfg.Prefix, "/")
	e.watch = e.watchRemote(client)
	stop := e.close
	e.close = func() error {
		return errors.Join(stop(), client.Close())
	}
	if err := e.probe(ctx); err != nil {
		e.Close()
		return nil, fmt.Errorf("etcd at %s does not answer: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return e, nil
}

func newEngine(log *slog.Logger, client *clientv3.Client) *Engine {
	ctx, cancel := context.WithCancel(context.Background())
	return &Engine{
		kv:          client.KV,
		maintenance: client.Maintenance,
		leases:      newLeasePool(client.Lease),
		log:         log,
		ctx:         ctx,
		close:       func() error { cancel(); return nil },
	}
}

func (e *Engine) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, err := e.kv.Get(ctx, compactKey, clientv3.WithCountOnly())
	return err
}
