package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/coracle-dev/coracle/internal/keylock"
	"github.com/coracle-dev/coracle/internal/paths"
)

// Namespace is the containerd namespace of a cluster's containers unless Config says otherwise.
const Namespace = "coracle"

// Images is where a container's root file system comes from.
type Images interface {
	// Rootfs finds an unpacked image by ID or name.
	Rootfs(ctx context.Context, image string) (Rootfs, error)
}

// Config of a Runtime.
type Config struct {
	Layout paths.Layout
	// Namespace is containerd's; it must be the one that Client was dialled with.
	Namespace string
	// Client is a connection made by Dial.
	Client *client.Client
	// Images knows the images that containers are created from.
	Images Images
	// Address is containerd's socket, by default the layout's: the shims' sockets are named after it.
	Address string
	// Shim is the path of the shim binary, by default in the layout's Bin.
	Shim string
	// OCIRuntime is the name or path of the OCI runtime; empty is runc.
	OCIRuntime string
	// Handlers are further OCI runtimes, by the names that RuntimeClasses have for them: names or paths, as OCIRuntime.
	Handlers map[string]string
	// Snapshotter holds the images' file systems; by default overlayfs.
	Snapshotter string
	// PodIDs are for pods with user namespaces, 65536 for each; by default DefaultPodIDs.
	PodIDs IDRange
	// LogSize is the size in bytes at which a container's log is rotated (default 10 MiB); LogFiles is how many
	// files are kept (default 5).
	LogSize  int64
	LogFiles int
	Log      *slog.Logger
}

// Runtime runs containers. It is safe for concurrent use; calls for one pod are put in order where they must be.
type Runtime struct {
	cfg    Config
	log    *slog.Logger
	client *client.Client
	tasks  tasks.TasksClient
	oomMin int // the lowest oom_score_adj that may be asked for here
	// pods serialises, by UID, what may not overlap within a pod: a shim must not be told to end while a container is being started in it.
	pods keylock.Locks

	mu         sync.Mutex
	containers map[string]*container // by ID
	ids        map[string]uint32     // by pod UID, the first of its user IDs; nil until one is asked for
	listeners  map[*listener]struct{}
}

// Dial connects to containerd. The connection is made anew by itself after containerd restarted.
func Dial(address, namespace string) (*client.Client, error) {
	retry := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	return client.New(address, client.WithDefaultNamespace(namespace), client.WithDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer.ContextDialer),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
	}))
}

// New makes a Runtime; Run must be running for exits to be seen.
func New(cfg Config) (*Runtime, error) {
	if cfg.Client == nil || cfg.Images == nil {
		return nil, errors.New("runtime: Client and Images are needed")
	}
	if cfg.Namespace == "" {
		cfg.Namespace = Namespace
	}
	if cfg.Address == "" {
		cfg.Address = cfg.Layout.ContainerdSocket()
	}
	if cfg.OCIRuntime == "" {
		cfg.OCIRuntime = DefaultHandler
	}
	if cfg.Shim == "" {
		cfg.Shim = filepath.Join(cfg.Layout.Bin(), "containerd-shim-runc-v2")
	}
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "overlayfs"
	}
	if cfg.PodIDs.Count == 0 {
		cfg.PodIDs = DefaultPodIDs()
	}
	if cfg.LogSize == 0 {
		cfg.LogSize = 10 << 20
	}
	if cfg.LogFiles == 0 {
		cfg.LogFiles = 5
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if _, err := os.Stat(cfg.Shim); err != nil {
		return nil, fmt.Errorf("the container shim is missing: %w", err)
	}
	return &Runtime{
		cfg: cfg, log: cfg.Log.With("component", "runtime"), client: cfg.Client, tasks: cfg.Client.TaskService(), oomMin: lowestOOMScore(),
		containers: map[string]*container{}, listeners: map[*listener]struct{}{},
	}, nil
}

// The files of a sandbox below the layout's Sandboxes.
// NetNS is the path of a pod's network namespace, where the pod has one of its own.
func (r *Runtime) NetNS(uid string) string { return filepath.Join(r.sandboxDir(uid), "net") }

func (r *Runtime) sandboxDir(uid string) string { return filepath.Join(r.cfg.Layout.Sandboxes(), uid) }

func (r *Runtime) ioPath(uid, id, stream string) string {
	return filepath.Join(r.sandboxDir(uid), "io", id[:24]+"."+stream)
}
