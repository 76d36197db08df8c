//go:build linux

package main

import (
	"context"
	"os"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// keeper holds a reading end of every container's output pipes from its creation to its deletion. The shim's own
// ends close with the container; without the keeper, output that the agent had not read by then, because it was
// being restarted, would be lost. It also lets a container be created while no agent reads.
type keeper struct {
	mu    sync.Mutex
	files map[string][]*os.File // by container
}

func newKeeper() *keeper { return &keeper{files: map[string][]*os.File{}} }

// UnaryServerInterceptor sees every call that containerd makes.
func (k *keeper) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		var deleted string
		resp, err := method(ctx, func(v any) error {
			if err := unmarshal(v); err != nil {
				return err
			}
			switch req := v.(type) {
			case *taskapi.CreateTaskRequest:
				k.hold(req.ID, req.Stdout, req.Stderr)
			case *taskapi.DeleteRequest:
				if req.ExecID == "" {
					deleted = req.ID
				}
			}
			return nil
		})
		if deleted != "" && err == nil {
			k.release(deleted)
		}
		return resp, err
	}
}

func (k *keeper) hold(id string, paths ...string) {
	k.release(id) // of an attempt to create that failed
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range paths {
		if st, err := os.Stat(p); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
			continue
		}
		if f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			k.files[id] = append(k.files[id], f)
		}
	}
}

func (k *keeper) release(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.files[id] {
		f.Close()
	}
	delete(k.files, id)
}
