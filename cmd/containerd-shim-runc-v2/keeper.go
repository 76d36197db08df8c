//go:build linux

package main

import (
	"context"
	"os"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// keeper sees to it that nothing of a container is lost while the agent or containerd is away, until the
// container is deleted.
//
// It holds a reading end of the output pipes. The shim's own ends close with the container, and with them would go
// what the agent had not read by then. It also lets a container be created while no agent reads.
//
// And it says that a container which has ended has its first process. containerd, when it starts, asks for the
// processes, takes a container without any for one that never began, and forgets its exit code.
type keeper struct {
	mu    sync.Mutex
	files map[string][]*os.File // by container
	pids  map[string]uint32
}

func newKeeper() *keeper { return &keeper{files: map[string][]*os.File{}, pids: map[string]uint32{}} }

// UnaryServerInterceptor sees every call that containerd makes.
func (k *keeper) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		var request any
		resp, err := method(ctx, func(v any) error {
			if err := unmarshal(v); err != nil {
				return err
			}
			request = v
			if req, ok := v.(*taskapi.CreateTaskRequest); ok {
				k.hold(req.ID, req.Stdout, req.Stderr)
			}
			return nil
		})
		if err == nil {
			k.after(request, resp)
		}
		return resp, err
	}
}

// after looks at the answer to a call that succeeded.
func (k *keeper) after(request, response any) {
	switch req := request.(type) {
	case *taskapi.CreateTaskRequest:
		if resp, ok := response.(*taskapi.CreateTaskResponse); ok {
			k.mu.Lock()
			k.pids[req.ID] = resp.Pid
			k.mu.Unlock()
		}
	case *taskapi.PidsRequest:
		k.mu.Lock()
		pid := k.pids[req.ID]
		k.mu.Unlock()
		if resp, ok := response.(*taskapi.PidsResponse); ok && len(resp.Processes) == 0 && pid != 0 {
			resp.Processes = append(resp.Processes, &task.ProcessInfo{Pid: pid})
		}
	case *taskapi.DeleteRequest:
		if req.ExecID == "" {
			k.release(req.ID)
		}
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
	delete(k.pids, id)
}
