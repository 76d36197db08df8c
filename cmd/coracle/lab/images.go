package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/coracle-dev/coracle/internal/assets"
)

// Import gives the images of an archive to every node that is on, and returns their names.
func (l *Lab) Import(ctx context.Context, open func() (io.ReadCloser, error)) ([]string, error) {
	machines, err := l.running()
	if err != nil {
		return nil, err
	}
	nodes := machines[:0]
	for _, m := range machines {
		if m != Server {
			nodes = append(nodes, m)
		}
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("no node of the lab %s is on", l.Name)
	}
	return l.importInto(ctx, nodes, open)
}

func (l *Lab) importInto(ctx context.Context, nodes []string, open func() (io.ReadCloser, error)) ([]string, error) {
	var names []string
	err := each(nodes, func(node string) error {
		got, err := l.importOne(ctx, node, open)
		if node == nodes[0] {
			names = got
		}
		return err
	})
	return names, err
}

func (l *Lab) importOne(_ context.Context, node string, open func() (io.ReadCloser, error)) ([]string, error) {
	in, err := open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var out, problem bytes.Buffer
	cmd := exec.Command(nodeSelf, "image", "import", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &problem
	if err := l.startIn(node, cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", node, err, strings.TrimSpace(problem.String()))
	}
	var names []string
	for line := range strings.Lines(out.String()) {
		names = append(names, strings.TrimSpace(strings.TrimPrefix(line, "imported ")))
	}
	return names, nil
}

// importDemo gives the images that the program carries to nodes.
func (l *Lab) importDemo(ctx context.Context, nodes []string) error {
	_, err := l.importInto(ctx, nodes, assets.Demo)
	return err
}
