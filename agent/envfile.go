package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	v1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/agent/podspec"
)

// maxEnvFile is how much of a file for variables is read, in bytes: what is larger is no such file.
const maxEnvFile = 1 << 20

// envFiles reads the files in the pod's volumes that a container's variables come from. Containers write them, so that
// nothing in them leads out of the volume.
func (w *worker) envFiles(pod *v1.Pod, c *v1.Container) (map[podspec.EnvFile]string, error) {
	files := map[podspec.EnvFile]string{}
	for _, ref := range podspec.EnvFileRefs(c) {
		text, err := readInside(w.a.volumes.EmptyDirPath(pod.UID, ref.Volume), ref.Path)
		switch {
		case err == nil:
			files[ref] = text
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("couldn't read env file %q of volume %q: %w", ref.Path, ref.Volume, err)
		}
	}
	return files, nil
}

func readInside(dir, path string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would hold us up
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxEnvFile {
		return "", fmt.Errorf("not a regular file of at most %d bytes", maxEnvFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxEnvFile))
	return string(data), err
}
