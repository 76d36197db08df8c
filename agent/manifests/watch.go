package manifests

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
)

// settle is how long the folder has to be quiet before it is read: files are written in several steps.
const settle = 100 * time.Millisecond

// Watch gives deliver the pods of all files in the folder, at once and whenever one is added, changed or removed, until ctx
// ends. Files that begin with a dot are none; of a file that cannot be understood the log tells, and the pod that it was before is kept.
func Watch(ctx context.Context, dir, node string, log *slog.Logger, deliver func([]*v1.Pod)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("static pods: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("static pods: %w", err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("static pods: %s: %w", dir, err)
	}
	f := &folder{dir: dir, node: node, log: log, known: map[string]*v1.Pod{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			timer.Reset(settle)
		case err := <-w.Errors:
			log.Warn("folder of static pods not watched", "folder", dir, "error", err)
			timer.Reset(settle) // events were lost
		case <-timer.C:
			if pods, err := f.read(); err != nil {
				log.Warn("folder of static pods not read", "folder", dir, "error", err)
			} else {
				deliver(pods)
			}
		}
	}
}

// folder remembers the pod of each file, for the time in which it cannot be understood.
type folder struct {
	dir, node string
	log       *slog.Logger
	known     map[string]*v1.Pod
}

func (f *folder) read() ([]*v1.Pod, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	now := map[string]*v1.Pod{}
	names := map[string]string{}
	var out []*v1.Pod
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		pod, err := f.pod(e.Name())
		if err != nil {
			f.log.Error("file of a static pod not understood", "file", filepath.Join(f.dir, e.Name()), "error", err)
			pod = f.known[e.Name()]
		}
		if pod == nil {
			continue
		}
		now[e.Name()] = pod
		key := pod.Namespace + "/" + pod.Name
		if other, taken := names[key]; taken {
			f.log.Error("two files name one static pod", "pod", key, "file", e.Name(), "other", other)
			continue
		}
		names[key] = e.Name()
		out = append(out, pod)
	}
	f.known = now
	return out, nil
}

// pod reads a file; nil without an error is what is no file, as a folder.
func (f *folder) pod(name string) (*v1.Pod, error) {
	path := filepath.Join(f.dir, name)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(data, f.node)
}
