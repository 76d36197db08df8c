package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// mountDevice mounts the file system of a block device in the pod's folder, and makes one first where the device is empty.
// The kernel keeps one instance of it however many pods mount it.
func mountDevice(ctx context.Context, r *request, device string) (Volume, error) {
	v := Volume{Path: r.dir}
	if mountPoint(r.dir) {
		return v, nil
	}
	fsType := "ext4"
	if t := r.pv.Spec.Local.FSType; t != nil && *t != "" {
		fsType = *t
	}
	have, err := probe(ctx, device)
	switch {
	case err != nil:
		return v, err
	case have == "" && r.readOnly:
		return v, fmt.Errorf("failed to mount unformatted volume %s as read only", device)
	case have == "":
		if err := format(ctx, device, fsType); err != nil {
			return v, err
		}
	case have != fsType:
		return v, fmt.Errorf("failed to mount the volume as %q, it already contains %s", fsType, have)
	}
	options := r.pv.Spec.MountOptions
	if r.readOnly {
		options = append([]string{"ro"}, options...)
	}
	if err := mountCommand(ctx, fsType, device, r.dir, options); err != nil {
		return v, err
	}
	if r.first && !r.readOnly {
		return v, takeGroup(r.dir, r.Pod.Pod)
	}
	return v, nil
}

// probe tells what a device holds: a file system's name, "unknown data, probably partitions", or nothing.
func probe(ctx context.Context, device string) (string, error) {
	blkid, err := exec.LookPath("blkid")
	if err != nil {
		return "", errors.New("the node has no blkid to look into block devices with: install util-linux")
	}
	out, err := exec.CommandContext(ctx, blkid, "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 2: // nothing that it knows
		return "", nil
	case err != nil:
		return "", fmt.Errorf("blkid %s: %w: %s", device, err, stderrOf(err))
	}
	for line := range strings.Lines(string(out)) {
		if t, ok := strings.CutPrefix(strings.TrimSpace(line), "TYPE="); ok {
			return t, nil
		}
	}
	if bytes.Contains(out, []byte("PTTYPE=")) {
		return "unknown data, probably partitions", nil
	}
	return "", nil
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return strings.TrimSpace(string(exit.Stderr))
	}
	return ""
}

// format makes a file system, without blocks reserved for root.
func format(ctx context.Context, device, fsType string) error {
	args := []string{device}
	if strings.HasPrefix(fsType, "ext") {
		args = []string{"-F", "-m0", device}
	}
	mkfs, err := exec.LookPath("mkfs." + fsType)
	if err != nil {
		return fmt.Errorf("the node cannot make a file system of type %s: it has no mkfs.%s", fsType, fsType)
	}
	if out, err := exec.CommandContext(ctx, mkfs, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format of disk %q failed: type:(%q) %w: %s", device, fsType, err, bytes.TrimSpace(out))
	}
	return nil
}

// mountCommand has mount(8) mount it, which knows every file system's options and helpers. What it leaves half done is removed.
func mountCommand(ctx context.Context, fsType, source, dir string, options []string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	args := []string{"-t", fsType}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	if out, err := exec.CommandContext(ctx, "mount", append(args, source, dir)...).CombinedOutput(); err != nil {
		err = fmt.Errorf("mount failed: %w\nMounting arguments: -t %s -o %s %s %s\nOutput: %s", err, fsType, strings.Join(options, ","), source, dir, bytes.TrimSpace(out))
		return errors.Join(err, unmount(dir), os.Remove(dir))
	}
	return nil
}

// nfs are the folders of a file server, where the node has the mount helper for it.
type nfs struct{ mountsOnly }

func (nfs) setUp(ctx context.Context, r *request) (Volume, error) {
	source := r.volume.NFS
	var options []string
	if r.pv != nil {
		source, options = r.pv.Spec.NFS, r.pv.Spec.MountOptions
	}
	v := Volume{Path: r.dir, ReadOnly: source.ReadOnly}
	if mountPoint(r.dir) {
		return v, nil
	}
	if _, err := exec.LookPath("mount.nfs"); err != nil {
		return v, errors.New("the node has no mount.nfs, which volumes of type nfs need: install nfs-common or nfs-utils")
	}
	if source.ReadOnly || r.readOnly {
		options = append([]string{"ro"}, options...)
	}
	return v, mountCommand(ctx, "nfs", nfsSource(source), r.dir, options)
}

// nfsSource is SERVER:PATH, an IPv6 address in brackets.
func nfsSource(s *v1.NFSVolumeSource) string {
	server := s.Server
	if strings.Contains(server, ":") && !strings.HasPrefix(server, "[") {
		server = "[" + server + "]"
	}
	return server + ":" + s.Path
}
