// Package csi is the node's side of the Container Storage Interface (version 1): it finds the drivers that register on this node, announces them in the
// node's CSINode, and has them put volumes in place for pods and take them away again.
//
// Invariant: what a driver was asked to put in place is written down beside it first, so that an agent that starts anew can have it taken away; nothing
// is kept elsewhere. Folders and files have the names that drivers, and their manifests, know from the kubelet.
package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/kubernetes"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/coracle-dev/coracle/internal/keylock"
)

// How long a driver may take to say who it is, to register, and to answer any other call; and when registration is tried again.
const (
	helloLimit    = 3 * time.Second
	registerLimit = 15 * time.Second
	callLimit     = 2 * time.Minute
	retryAfter    = 10 * time.Second
)

// Config is what New needs.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	// Dir is the folder that drivers know as /var/lib/kubelet.
	Dir string
	// Changed is called when what InUse gives may have.
	Changed func()
	Log     *slog.Logger
}

// Drivers are those of this node, and their volumes. It is safe for concurrent use.
type Drivers struct {
	cfg   Config
	stale chan struct{} // a registration is to be tried again
	busy  keylock.Locks // by driver and volume: two calls about one are kept apart

	mu      sync.Mutex
	drivers map[string]*driver // by name
	sockets map[string]string  // registration sockets: the name of the driver behind each, empty while it is not registered
}

// driver is one that has registered.
type driver struct {
	name, endpoint, socket string
	conn                   *grpc.ClientConn
	node                   spec.NodeClient
	stages, mountsGroup    bool
	singleWriter           bool
	info                   *spec.NodeGetInfoResponse
}

// New makes Drivers; Run finds them.
func New(cfg Config) *Drivers {
	return &Drivers{cfg: cfg, stale: make(chan struct{}, 1), drivers: map[string]*driver{}, sockets: map[string]string{}}
}

func (d *Drivers) registry() string { return filepath.Join(d.cfg.Dir, "plugins_registry") }

// Run registers the drivers whose sockets lie in the registry's folder, and those that come, until ctx ends.
func (d *Drivers) Run(ctx context.Context) error {
	for _, dir := range []string{d.registry(), filepath.Join(d.cfg.Dir, "plugins"), filepath.Join(d.cfg.Dir, "pods")} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(d.registry()); err != nil {
		return err
	}
	defer d.close()
	for {
		d.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
		case err := <-watcher.Errors:
			d.cfg.Log.Warn("the folder of registrations cannot be watched", "err", err)
		case <-d.stale:
		}
	}
}

// look registers every socket that is not registered yet, and forgets those that are gone.
func (d *Drivers) look(ctx context.Context) {
	found := map[string]bool{}
	err := filepath.WalkDir(d.registry(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type() == fs.ModeSocket && !strings.HasPrefix(e.Name(), ".") {
			found[path] = true
		}
		return nil
	})
	if err != nil {
		d.cfg.Log.Warn("the folder of registrations cannot be read", "err", err)
		return
	}
	d.mu.Lock()
	known := make(map[string]string, len(d.sockets))
	for socket, name := range d.sockets {
		known[socket] = name
	}
	d.mu.Unlock()
	for socket := range found {
		if known[socket] == "" {
			d.add(ctx, socket)
		}
	}
	for socket, name := range known {
		if !found[socket] {
			d.remove(ctx, socket, name)
		}
	}
}

// add registers what answers on a socket; what fails is tried again later.
func (d *Drivers) add(ctx context.Context, socket string) {
	name, err := d.register(ctx, socket)
	d.mu.Lock()
	d.sockets[socket] = name
	d.mu.Unlock()
	if err != nil {
		d.cfg.Log.Warn("a volume driver is not registered", "socket", filepath.Base(socket), "err", err)
		time.AfterFunc(retryAfter, func() {
			select {
			case d.stale <- struct{}{}:
			default:
			}
		})
		return
	}
	d.cfg.Log.Info("volume driver registered", "driver", name)
}

// register follows the protocol of plug-in registration: who are you, what is this node to you, and whether that went well.
func (d *Drivers) register(ctx context.Context, socket string) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, registerLimit)
	defer cancel()
	conn, err := dial(socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	plugin := registration.NewRegistrationClient(conn)
	info, err := hello(ctx, plugin)
	if err != nil {
		return "", err
	}
	err = d.accept(ctx, info, socket)
	status := &registration.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	if _, told := plugin.NotifyRegistrationStatus(ctx, status); told != nil {
		err = errors.Join(err, told)
	}
	if err != nil {
		d.forget(info.Name, socket)
		return "", err
	}
	return info.Name, nil
}

// hello asks who has come. A socket is seen a moment before anybody listens on it.
func hello(ctx context.Context, plugin registration.RegistrationClient) (*registration.PluginInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, helloLimit)
	defer cancel()
	return plugin.GetInfo(ctx, &registration.InfoRequest{}, grpc.WaitForReady(true))
}

func (d *Drivers) accept(ctx context.Context, info *registration.PluginInfo, socket string) error {
	if info.Type != registration.CSIPlugin {
		return fmt.Errorf("plug-ins of type %q are not supported on this node", info.Type)
	}
	if !slices.ContainsFunc(info.SupportedVersions, func(v string) bool { return strings.HasPrefix(strings.TrimPrefix(v, "v"), "1.") }) {
		return fmt.Errorf("driver %s supports the versions %v, and none of 1.x", info.Name, info.SupportedVersions)
	}
	drv := &driver{name: info.Name, endpoint: info.Endpoint, socket: socket}
	if drv.endpoint == "" {
		drv.endpoint = socket
	}
	conn, err := dial(drv.endpoint)
	if err != nil {
		return err
	}
	drv.conn, drv.node = conn, spec.NewNodeClient(conn)
	if err := drv.ask(ctx); err != nil {
		conn.Close()
		return err
	}
	if err := d.announce(ctx, drv); err != nil {
		conn.Close()
		return err
	}
	d.mu.Lock()
	old := d.drivers[drv.name]
	d.drivers[drv.name] = drv
	d.mu.Unlock()
	if old != nil {
		old.conn.Close()
	}
	return nil
}

// ask learns what the driver can do, and what this node is to it.
func (drv *driver) ask(ctx context.Context) (err error) {
	if drv.info, err = drv.node.NodeGetInfo(ctx, &spec.NodeGetInfoRequest{}); err != nil {
		return fmt.Errorf("NodeGetInfo: %w", err)
	}
	if drv.info.NodeId == "" {
		return fmt.Errorf("driver %s gives this node no name", drv.name)
	}
	answer, err := drv.node.NodeGetCapabilities(ctx, &spec.NodeGetCapabilitiesRequest{})
	if err != nil {
		return fmt.Errorf("NodeGetCapabilities: %w", err)
	}
	for _, c := range answer.Capabilities {
		switch c.GetRpc().GetType() {
		case spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME:
			drv.stages = true
		case spec.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP:
			drv.mountsGroup = true
		case spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER:
			drv.singleWriter = true
		}
	}
	return nil
}

// remove takes a driver whose registration is gone out of the CSINode.
func (d *Drivers) remove(ctx context.Context, socket, name string) {
	d.mu.Lock()
	delete(d.sockets, socket)
	current := d.drivers[name] != nil && d.drivers[name].socket == socket
	d.mu.Unlock()
	if name == "" || !current {
		return // another registration has taken its place
	}
	d.forget(name, socket)
	if err := d.withdraw(ctx, name); err != nil {
		d.cfg.Log.Warn("a volume driver that is gone stays announced", "driver", name, "err", err)
	}
}

func (d *Drivers) forget(name, socket string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if drv := d.drivers[name]; drv != nil && drv.socket == socket {
		drv.conn.Close()
		delete(d.drivers, name)
	}
}

func (d *Drivers) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, drv := range d.drivers {
		drv.conn.Close()
	}
}

// driver finds a registered one.
func (d *Drivers) driver(name string) (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if drv := d.drivers[name]; drv != nil {
		return drv, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+strings.TrimPrefix(socket, "unix://"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, MaxDelay: 5 * time.Second}, MinConnectTimeout: time.Second}))
}
