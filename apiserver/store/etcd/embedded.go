package etcd

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// What an embedded member is called in its cluster of one; a restored snapshot must bear the same. Nothing
// listens on the peer URL.
const (
	MemberName   = "coracle"
	PeerURL      = "http://127.0.0.1:2380"
	ClusterToken = "coracle"
)

// EmbeddedConfig tells where an embedded etcd lives.
type EmbeddedConfig struct {
	// DataDir holds its files; it is made, with mode 0700, where missing.
	DataDir string
	// Socket is a unix socket on which it takes clients (etcdctl), with mode 0600. Empty: none.
	Socket string
}

// startTimeout bounds how long OpenEmbedded waits; a large log takes time to replay.
const startTimeout = 2 * time.Minute

// quietAfterStart is how long etcd takes to settle its versions, with errors until it has.
const quietAfterStart = 10 * time.Second

// OpenEmbedded starts an etcd of one member inside this process and waits until it serves. It listens on no
// network address. Another process that has the data open is an error.
func OpenEmbedded(ctx context.Context, cfg EmbeddedConfig) (*Engine, error) {
	log := slog.With("component", "etcd")
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	server, err := startServer(ctx, cfg.DataDir, log)
	if err != nil {
		lock.Close()
		return nil, err
	}
	e := newEngine(log, v3client.New(server))
	// With a single member, what is applied is all there is: reading it is linearizable, and costs no
	// round through raft.
	e.read = []clientv3.OpOption{clientv3.WithSerializable()}
	e.revision = func(context.Context) (int64, error) { return server.KV().Rev(), nil }
	e.watch = e.watchEmbedded(server.Watchable())
	e.defragment = func() error { return defragment(server, log) }
	cancel := e.close
	closeSocket := func() {}
	e.close = func() error {
		closeSocket()
		cancel()
		server.Stop()
		return lock.Close()
	}
	if cfg.Socket != "" {
		if closeSocket, err = serveSocket(cfg.Socket, server, log); err != nil {
			closeSocket = func() {}
			e.Close()
			return nil, err
		}
	}
	return e, nil
}

// lockDir makes the directory and takes it for this process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("etcd data in %s is in use by another process", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// startServer starts the member and waits until it leads and has applied its log.
func startServer(ctx context.Context, dir string, log *slog.Logger) (*etcdserver.EtcdServer, error) {
	// What etcd reports while it starts is the normal course for a new database; what keeps it from starting
	// is returned, or fatal.
	level := zap.NewAtomicLevelAt(zapcore.DPanicLevel)
	sc, err := serverConfig(dir, newLogger(log, level))
	if err != nil {
		return nil, err
	}
	server, err := etcdserver.NewServer(sc)
	if err != nil {
		return nil, fmt.Errorf("start etcd on %s: %w", dir, err)
	}
	if err := releasePages(dir); err != nil {
		log.Debug("database pages not released", "error", err)
	}
	server.Start()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := elect(ctx, server); err != nil {
		server.HardStop()
		return nil, fmt.Errorf("start etcd on %s: %w", dir, err)
	}
	time.AfterFunc(quietAfterStart, func() { level.SetLevel(zapcore.WarnLevel) })
	return server, nil
}

// elect makes the only member leader at once, by the message with which a leader hands over, instead of
// after an election timeout. Raft must have marked its whole log as applied before: it looks through what is not, and
// panics where the server, which is ahead of raft in this, has compacted that already.
func elect(ctx context.Context, server *etcdserver.EtcdServer) error {
	id := uint64(server.MemberID())
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-server.ReadyNotify():
			return nil
		case <-server.StopNotify():
			return errors.New("stopped")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if server.Lead() != 0 || len(server.Cluster().Members()) != 1 || !raftSettled(id) {
			continue
		}
		m := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: &id, To: &id}
		if err := server.Process(ctx, m); err != nil {
			return err
		}
	}
}

// raftSettled tells whether raft itself counts all that is committed as applied. Its state is published as a
// variable of the process; where that is another member's, the election timeout must do.
func raftSettled(id uint64) bool {
	published, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return false
	}
	status, ok := published.Value().(raft.Status)
	return ok && status.ID == id && status.Applied > 0 && status.Applied == status.GetCommit()
}

// serverConfig is tuned for one member that shares a small machine: few wake-ups, little memory. Writes are
// synced to disk before they are acknowledged, as always.
func serverConfig(dir string, log *zap.Logger) (config.ServerConfig, error) {
	peers, err := types.NewURLs([]string{PeerURL})
	if err != nil {
		return config.ServerConfig{}, err
	}
	return config.ServerConfig{
		Name:                MemberName,
		DataDir:             dir,
		PeerURLs:            peers,
		ClientURLs:          types.URLs([]url.URL{}),
		InitialPeerURLsMap:  types.URLsMap{MemberName: peers},
		InitialClusterToken: ClusterToken,
		NewCluster:          true,
		Logger:              log,
		ServerFeatureGate:   features.NewDefaultServerFeatureGate(MemberName, log),
		BcryptCost:          10,
		MaxLearners:         1,

		// Ticks only matter to followers, of which there are none; the shortest lease is 1.5 elections.
		TickMs:        500,
		ElectionTicks: 3,

		MaxRequestBytes:             maxRequest,
		MaxTxnOps:                   128,
		MaxConcurrentStreams:        math.MaxUint32,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: 2 * time.Second,
		WatchProgressNotifyInterval: 10 * time.Minute,
		Metrics:                     "basic",

		// What a restart has to replay, and how much of the log is kept in memory, for followers. It must be
		// more than can be replayed: raft looks back at all of that when it elects.
		SnapshotCount:          2500,
		SnapshotCatchUpEntries: 5000,
		MaxSnapFiles:           2,
		MaxWALFiles:            2,

		// Commits of the database file are what the log makes durable anyway.
		BackendBatchInterval:    500 * time.Millisecond,
		QuotaBackendBytes:       8 << 30,
		BackendFreelistType:     bolt.FreelistMapType,
		CompactionBatchLimit:    1000,
		CompactionSleepInterval: 10 * time.Millisecond,
		BootstrapTimeout:        time.Second,
	}, nil
}

// defragment rewrites the database file when much of it is unused. Reads and writes wait meanwhile.
func defragment(server *etcdserver.EtcdServer, log *slog.Logger) error {
	b := server.Backend()
	size, used := b.Size(), b.SizeInUse()
	if size <= defragSize || used*2 > size {
		return nil
	}
	start := time.Now()
	if err := b.Defrag(); err != nil {
		return err
	}
	debug.FreeOSMemory()
	log.Info("database defragmented", "before", size, "after", b.Size(), "took", time.Since(start))
	return nil
}
