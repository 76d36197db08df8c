package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/coracle-dev/coracle/internal/version"
	"github.com/coracle-dev/coracle/proto/scheduling"
)

const (
	maxAnswerBytes = 4 << 20
	maxHeaderBytes = 16 << 10
	maxCauseBytes  = 256
)

// link is one connection, until the breaker opens.
type link struct {
	conn *grpc.ClientConn
	stub scheduling.SchedulerPluginClient
	// about is what the plug-in said of itself; nil before.
	about atomic.Pointer[scheduling.DescribeResponse]
}

// connect gives the connection, a new one after the last failed. It does not wait.
func (c *Client) connect() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return nil, errClosed
	}
	if c.link == nil {
		l, err := c.dial()
		if err != nil {
			return nil, err
		}
		c.link = l
	}
	return c.link, nil
}

func (c *Client) connecting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.conn.GetState() == connectivity.Connecting
}

func (c *Client) hangUp() {
	c.mu.Lock()
	l := c.link
	c.link = nil
	c.mu.Unlock()
	if l != nil {
		l.conn.Close()
	}
}

// describe asks the plug-in what it is, once a connection; talking must be held.
func (c *Client) describe(ctx context.Context, l *link) (*scheduling.DescribeResponse, error) {
	if about := l.about.Load(); about != nil {
		return about, nil
	}
	about, err := l.stub.Describe(ctx, &scheduling.DescribeRequest{Scheduler: "coracle " + version.Version})
	switch {
	case err != nil:
		return nil, err
	case !about.Filter && !about.Score:
		return nil, fmt.Errorf("%w: it says that it neither filters nor scores", ErrInvalid)
	case c.cfg.Filter && !c.cfg.Score && !about.Filter, c.cfg.Score && !c.cfg.Filter && !about.Score:
		return nil, fmt.Errorf("%w: it does not do what it is enabled for", ErrInvalid)
	case scheduling.ObjectFormat_name[int32(about.Objects)] == "":
		return nil, fmt.Errorf("%w: it wants objects in unknown format %d", ErrInvalid, about.Objects)
	}
	l.about.Store(about)
	return about, nil
}

// dialer checks what cannot change and gives what makes connections.
func dialer(cfg Config) (func() (*link, error), error) {
	target, creds, err := transport(cfg)
	if err != nil {
		return nil, err
	}
	call := []grpc.CallOption{grpc.MaxCallRecvMsgSize(maxAnswerBytes)}
	if cfg.Encoding == JSON {
		call = append(call, grpc.ForceCodecV2(jsonCodec{}))
	}
	return func() (*link, error) {
		conn, err := grpc.NewClient(target,
			grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(call...), grpc.WithMaxHeaderListSize(maxHeaderBytes),
			grpc.WithDisableServiceConfig(), grpc.WithNoProxy(), grpc.WithUserAgent("coracle-scheduler"))
		if err != nil {
			return nil, err
		}
		return &link{conn: conn, stub: scheduling.NewSchedulerPluginClient(conn)}, nil
	}, nil
}

func transport(cfg Config) (target string, creds credentials.TransportCredentials, err error) {
	if strings.HasPrefix(cfg.Address, "unix:///") {
		return cfg.Address, insecure.NewCredentials(), nil
	}
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return "", nil, fmt.Errorf("address %q is neither unix:///path nor host:port", cfg.Address)
	}
	if cfg.TLS == (TLS{}) {
		if !loopback(host) {
			return "", nil, fmt.Errorf("address %q is another machine's: that takes TLS, name the plug-in's CA", cfg.Address)
		}
		return "passthrough:///" + cfg.Address, insecure.NewCredentials(), nil
	}
	config, err := cfg.TLS.config(host)
	return "dns:///" + cfg.Address, credentials.NewTLS(config), err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// config reads the CA once and the certificate at each handshake, so that it can be renewed.
func (t TLS) config(host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		config.ServerName = t.ServerName
	}
	if t.CAFile != "" {
		data, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s has no certificate", t.CAFile)
		}
	}
	if t.CertFile == "" {
		return config, nil
	}
	load := func() (*tls.Certificate, error) {
		certificate, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		return &certificate, err
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return config, nil
}

// object is a pod or a node.
type object interface {
	*corev1.Pod | *corev1.Node
	Marshal() ([]byte, error)
}

func encode[T object](o T, format scheduling.ObjectFormat) ([]byte, error) {
	if format == scheduling.ObjectFormat_PROTOBUF {
		return o.Marshal()
	}
	return json.Marshal(o)
}

// plain puts an error into words for a pod's condition.
func plain(err error, deadline time.Duration) error {
	switch code := status.Code(err); {
	case errors.Is(err, ErrInvalid), errors.Is(err, errClosed):
		return err
	case errors.Is(err, ErrDeadline), errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded:
		return fmt.Errorf("%w: %v", ErrDeadline, deadline)
	case code == codes.Unimplemented:
		return fmt.Errorf("%w: it does not serve %s", ErrInvalid, scheduling.SchedulerPlugin_ServiceDesc.ServiceName)
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	// gRPC wraps what the kernel said of the connection several times over.
	if _, dial, found := strings.Cut(text, "while dialing: "); found {
		text = strings.TrimSuffix(dial, `"`)
	}
	return errors.New(strings.ToValidUTF8(text[:min(len(text), maxCauseBytes)], ""))
}

// jsonCodec is protobuf's JSON form, for plug-ins without generated code.
type jsonCodec struct{}

// Name makes the content type application/grpc+json.
func (jsonCodec) Name() string { return "json" }

// Marshal implements grpc's CodecV2.
func (jsonCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	data, err := protojson.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(data)}, err
}

// Unmarshal implements grpc's CodecV2.
func (jsonCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	return protojson.Unmarshal(data.Materialize(), m)
}
