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
	e.revision = e.readRevision
	e.watch = e.watchRemote(client)
	cancel := e.close
	e.close = func() error {
		cancel()
		return client.Close()
	}
	if err := e.probe(ctx); err != nil {
		e.Close()
		return nil, fmt.Errorf("etcd at %s does not answer: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return e, nil
}

func newEngine(log *slog.Logger, client *clientv3.Client) *Engine {
	e := &Engine{kv: client.KV, leases: newLeasePool(client.Lease), log: log}
	var cancel context.CancelFunc
	e.ctx, cancel = context.WithCancel(context.Background())
	e.close = func() error {
		cancel()
		// Calls that begin from now on see the end of ctx; those under way are waited for.
		e.calls.Lock()
		defer e.calls.Unlock()
		e.watches.Wait()
		return nil
	}
	return e
}

func (e *Engine) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, err := e.readRevision(ctx)
	return err
}

// readRevision learns the revision from the smallest of reads.
func (e *Engine) readRevision(ctx context.Context) (int64, error) {
	resp, err := e.kv.Get(ctx, compactKey, clientv3.WithCountOnly())
	if err != nil {
		return 0, mapError(ctx, err)
	}
	return resp.Header.Revision, nil
}
