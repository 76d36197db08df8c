// Package csitest is a driver for tests of those who call drivers: its volumes are folders, which it binds to where it is asked to.
package csitest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Driver keeps a folder for each volume below Data, and what it was told of each call.
type Driver struct {
	spec.UnimplementedIdentityServer
	spec.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer

	Name, Data string
	// Limit is how many volumes it allows on a node; zero is as many as one likes.
	Limit int64

	endpoint, socket string
	server           *grpc.Server

	mu        sync.Mutex
	calls     []string
	contexts  map[string]map[string]string // by target
	published map[string]map[string]string // by handle: what the attacher said
	answer    *registration.RegistrationStatus
}

// Start serves a driver below dir, which is what drivers know as /var/lib/kubelet, until the test ends.
func Start(t testing.TB, dir, name string) *Driver {
	t.Helper()
	d := &Driver{Name: name, Data: t.TempDir(), endpoint: filepath.Join(dir, "plugins", name, "csi.sock"),
		socket: filepath.Join(dir, "plugins_registry", name+"-reg.sock"), contexts: map[string]map[string]string{}, published: map[string]map[string]string{}}
	d.server = grpc.NewServer()
	spec.RegisterIdentityServer(d.server, d)
	spec.RegisterNodeServer(d.server, d)
	registration.RegisterRegistrationServer(d.server, d)
	for _, path := range []string{d.endpoint, d.socket} { // the registration last: it points to the other
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = d.server.Serve(listener) }()
	}
	t.Cleanup(d.Stop)
	return d
}

// Stop ends the driver; its sockets go.
func (d *Driver) Stop() { d.server.Stop() }

// Calls are the calls so far, as NAME HANDLE.
func (d *Driver) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Told is the volume context that came with the last call that put a volume at a path with this part in it.
func (d *Driver) Told(part string) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for target, told := range d.contexts {
		if strings.Contains(target, part) {
			return told
		}
	}
	return nil
}

// PublishContext is what came with the last call about a volume from its attacher.
func (d *Driver) PublishContext(handle string) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.published[handle]
}

// Registered is what the node has said of the registration; nil is nothing yet.
func (d *Driver) Registered() *registration.RegistrationStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.answer
}

func (d *Driver) called(name, handle string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, name+" "+handle)
}

// GetInfo implements registration.
func (d *Driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: d.Name, Endpoint: d.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus implements registration.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = s
	return &registration.RegistrationStatusResponse{}, nil
}

// NodeGetInfo names the node and its place.
func (d *Driver) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return &spec.NodeGetInfoResponse{NodeId: "id-of-this-node", MaxVolumesPerNode: d.Limit,
		AccessibleTopology: &spec.Topology{Segments: map[string]string{"topology." + d.Name + "/rack": "r1"}}}, nil
}

// NodeGetCapabilities says that volumes are staged.
func (d *Driver) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	rpc := &spec.NodeServiceCapability_RPC{Type: spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME}
	return &spec.NodeGetCapabilitiesResponse{Capabilities: []*spec.NodeServiceCapability{{Type: &spec.NodeServiceCapability_Rpc{Rpc: rpc}}}}, nil
}

// NodeStageVolume binds the volume's folder to the staging path.
func (d *Driver) NodeStageVolume(_ context.Context, r *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	d.called("stage", r.VolumeId)
	d.mu.Lock()
	d.published[r.VolumeId] = r.PublishContext
	d.mu.Unlock()
	return &spec.NodeStageVolumeResponse{}, d.bind(filepath.Join(d.Data, r.VolumeId), r.StagingTargetPath, false)
}

// NodeUnstageVolume takes it away.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *spec.NodeUnstageVolumeRequest) (*spec.NodeUnstageVolumeResponse, error) {
	d.called("unstage", r.VolumeId)
	return &spec.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

// NodePublishVolume binds what is staged, or for a volume that is not, its folder, to the target.
func (d *Driver) NodePublishVolume(_ context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	d.called("publish", r.VolumeId)
	d.mu.Lock()
	d.contexts[r.TargetPath] = r.VolumeContext
	d.mu.Unlock()
	from := r.StagingTargetPath
	if from == "" {
		from = filepath.Join(d.Data, r.VolumeId)
	}
	return &spec.NodePublishVolumeResponse{}, d.bind(from, r.TargetPath, r.Readonly)
}

// NodeUnpublishVolume takes it away.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	d.called("unpublish", r.VolumeId)
	return &spec.NodeUnpublishVolumeResponse{}, unbind(r.TargetPath)
}

func (d *Driver) bind(from, to string, readOnly bool) error {
	for _, dir := range []string{from, to} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	if err := unbind(to); err != nil { // idempotent
		return err
	}
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	err := unix.Mount(from, to, "", unix.MS_BIND, "")
	if err == nil && readOnly {
		err = unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func unbind(path string) error {
	for {
		err := unix.Unmount(path, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}
