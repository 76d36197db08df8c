package nodeapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/coracle-dev/coracle/agent/runtime"
)

// stdio is what a client gave a process; what it did not ask for is nil.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	tty      bool
	resize   <-chan runtime.TerminalSize
}

// streams is a process to be run, and how the library serves it.
type streams struct {
	doing string // what has failed, before an error's text
	run   func(ctx context.Context, s stdio) error
	serve func(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run func(context.Context, stdio) error)
}

// exitError is how an exit code other than zero reaches the client.
func exitError(code int) error {
	return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
}

// process adapts run to the library's interfaces.
type process func(context.Context, stdio) error

func (p process) call(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := stdio{in: in, tty: tty}
	// A nil pointer in an interface is not a nil interface; only streams that are there are set.
	if out != nil {
		s.out = out
	}
	if errOut != nil {
		s.err = errOut
	}
	if resize != nil {
		sizes := make(chan runtime.TerminalSize, 1)
		s.resize = sizes
		go func() {
			defer close(sizes)
			for {
				select {
				case size, ok := <-resize:
					if !ok {
						return
					}
					select {
					case sizes <- runtime.TerminalSize{Width: size.Width, Height: size.Height}:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return p(ctx, s)
}

// ExecInContainer implements remotecommand.Executor.
func (p process) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return p.call(ctx, in, out, errOut, tty, resize)
}

// AttachContainer implements remotecommand.Attacher.
func (p process) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return p.call(ctx, in, out, errOut, tty, resize)
}

func remotecommandExec(container string, command []string) func(http.ResponseWriter, *http.Request, *remotecommand.Options, func(context.Context, stdio) error) {
	return func(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run func(context.Context, stdio) error) {
		remotecommand.ServeExec(w, r, process(run), r.PathValue("pod"), "", container, command, opts,
			IdleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	}
}

func remotecommandAttach(container string) func(http.ResponseWriter, *http.Request, *remotecommand.Options, func(context.Context, stdio) error) {
	return func(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run func(context.Context, stdio) error) {
		remotecommand.ServeAttach(w, r, process(run), r.PathValue("pod"), "", container, opts,
			IdleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	}
}
