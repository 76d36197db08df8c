// Package server is the containerd child process: containerd's server with only the plugins that a node needs. Only
// cmd/containerd imports it, a small binary of its own that is carried inside coracle: the child would
// otherwise pay 50 MB and a tenth of a second for code that it never runs.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	ctrd "github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/coracle-dev/coracle/internal/footprint"
	"github.com/coracle-dev/coracle/internal/paths"
)

// Config of the child process.
type Config struct {
	// Layout says where containerd's root, state and socket are, and the folder of the shim.
	Layout paths.Layout
	// Debug makes containerd and its shims log every step.
	Debug bool
}

// Main runs containerd until ctx ends or SIGTERM arrives. It is what the child process does.
func Main(ctx context.Context, cfg Config) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	debug.SetGCPercent(50)
	// As the last to be killed for memory, where the machine allows it; shims and runc start from here.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
	level := log.WarnLevel
	if cfg.Debug {
		level = log.DebugLevel
	}
	if err := log.SetLevel(level.String()); err != nil {
		return err
	}
	state := cfg.Layout.ContainerdState()
	if err := os.MkdirAll(state, 0o711); err != nil {
		return err
	}
	lock, err := lockState(state)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := removeHidden(state, cfg.Layout.Containerd()); err != nil {
		return err
	}
	// runc and the shim are found by PATH: the unpacked helpers come before the machine's.
	path := cfg.Layout.Bin() + ":" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	conf := serverConfig(cfg)
	if err := ctrd.CreateTopLevelDirectories(conf); err != nil {
		return err
	}
	server, err := ctrd.New(ctx, conf)
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer server.Stop()
	if err := server.Start(ctx); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	socket := cfg.Layout.ContainerdSocket()
	if err := errors.Join(os.Chmod(socket, 0o600), os.Chmod(ttrpcSocket(cfg.Layout), 0o600)); err != nil {
		return err
	}
	slog.Debug("containerd serves", "component", "containerd", "version", version.Version, "socket", socket)
	return footprint.Keep(ctx, 5*time.Second)
}

// removeHidden does the rest of what a containerd that was killed had begun: it removes a bundle by giving it a hidden name first, and one that
// starts anew passes over those. Nothing is mounted in them any more.
func removeHidden(roots ...string) error {
	for _, root := range roots {
		found, err := filepath.Glob(filepath.Join(root, "io.containerd.runtime.v2.task", "*", ".*"))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockState takes the state folder's lock, which the kernel releases when the process ends.
func lockState(state string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(state, "containerd.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another containerd uses %s: %w", state, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func ttrpcSocket(l paths.Layout) string { return l.ContainerdSocket() + ".ttrpc" }

// serverConfig is what a configuration file would say.
func serverConfig(cfg Config) *srvconfig.Config {
	l := cfg.Layout
	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    l.Containerd(),
		State:   l.ContainerdState(),
		TempDir: filepath.Join(l.Containerd(), "tmp"),
		DisabledPlugins: []string{
			"io.containerd.server.v1.grpc-tcp",
			"io.containerd.metrics.v1.grpc-prometheus",
			"io.containerd.metrics.v1.grpc-otel",
		},
		RequiredPlugins: []string{
			"io.containerd.content.v1.content", "io.containerd.metadata.v1.bolt", "io.containerd.runtime.v2.task",
			"io.containerd.grpc.v1.tasks", "io.containerd.snapshotter.v1.native", "io.containerd.server.v1.grpc",
		},
		Plugins: map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": l.ContainerdSocket(), "uid": 0, "gid": 0},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": ttrpcSocket(l), "uid": 0, "gid": 0},
			"io.containerd.shim.v1.manager": map[string]any{"socket_dir": l.ShimSockets()},
			"io.containerd.gc.v1.scheduler": map[string]any{"startup_delay": "10s", "schedule_delay": "1s"},
		},
	}
}
