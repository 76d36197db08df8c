package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// hostPaths are files and folders of the node itself.
type hostPaths struct{ mountsOnly }

func (hostPaths) setUp(_ context.Context, r *request) (Volume, error) {
	source := r.volume.HostPath
	if r.pv != nil {
		source = r.pv.Spec.HostPath
	}
	return Volume{Path: source.Path}, checkHostPath(source)
}

// checkHostPath makes sure that the path is what its type says, and makes it where the type says so.
func checkHostPath(h *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if strings.Contains("/"+h.Path+"/", "/../") {
		return fmt.Errorf("hostPath %s must not contain '..'", h.Path)
	}
	info, err := os.Stat(h.Path)
	absent := errors.Is(err, os.ErrNotExist)
	if err != nil && !absent {
		return err
	}
	switch kind {
	case v1.HostPathUnset:
		if absent {
			return os.MkdirAll(h.Path, 0o755)
		}
		return nil
	case v1.HostPathDirectoryOrCreate:
		if absent {
			return os.MkdirAll(h.Path, 0o755)
		}
		return is(info.IsDir(), h.Path, "directory")
	case v1.HostPathFileOrCreate:
		if absent {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return is(info.Mode().IsRegular(), h.Path, "file")
	}
	what, fits := hostPathKind(kind, info, absent)
	if what == "" {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	return is(fits, h.Path, what)
}

func hostPathKind(kind v1.HostPathType, info fs.FileInfo, absent bool) (what string, fits bool) {
	var mode fs.FileMode
	if !absent {
		mode = info.Mode()
	}
	switch kind {
	case v1.HostPathDirectory:
		return "directory", mode.IsDir()
	case v1.HostPathFile:
		return "file", !absent && mode.IsRegular()
	case v1.HostPathSocket:
		return "socket file", mode&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		return "character device", mode&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		return "block device", mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	}
	return "", false
}

func is(ok bool, path, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
}
