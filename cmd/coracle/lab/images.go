package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/coracle-dev/coracle/internal/assets"
)

// Import gives the images of an archive to every node that is on, and to those that come later, and returns their names. One node reads it;
// the others share what that has.
func (l *Lab) Import(ctx context.Context, open func() (io.ReadCloser, error)) ([]string, error) {
	nodes, err := l.nodesOn()
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("no node of the lab %s is on: start one with `coracle lab start%s`", l.Name, nameFlag(l.Name))
	}
	names, err := l.importOne(ctx, nodes[0], open)
	if err != nil {
		return nil, err
	}
	if err := l.remember(names); err != nil {
		return nil, err
	}
	err = each(nodes[1:], func(node string) error {
		err := l.share(ctx, nodes[0], node, names)
		if errors.Is(err, errUnshared) {
			_, err = l.importOne(ctx, node, open)
		}
		return err
	})
	return names, err
}

func (l *Lab) nodesOn() ([]string, error) {
	on, err := l.running()
	return slices.DeleteFunc(on, func(m string) bool { return m == Server }), err
}

// remember notes images that all nodes shall have.
func (l *Lab) remember(names []string) error {
	unlock, err := lock(l.Root)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := Open(l.Root, l.Name) // another may have noted some meanwhile
	if err != nil {
		return err
	}
	l.Settings = now.Settings
	for _, name := range names {
		if !slices.Contains(l.Images, name) {
			l.Images = append(l.Images, name)
		}
	}
	return l.save()
}

// importOne has one node import an archive by itself.
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
		return nil, fmt.Errorf("%s: %s", node, strings.TrimPrefix(strings.TrimSpace(problem.String()), "coracle: "))
	}
	var names []string
	for line := range strings.Lines(out.String()) {
		names = append(names, strings.TrimSpace(strings.TrimPrefix(line, "imported ")))
	}
	return names, nil
}

// share gives images of one node to another.
func (l *Lab) share(ctx context.Context, from, to string, names []string) error {
	donor, err := l.dial(from)
	if err != nil {
		return err
	}
	defer donor.Close()
	taker, err := l.dial(to)
	if err != nil {
		return err
	}
	defer taker.Close()
	for _, name := range names {
		if err := donor.give(ctx, taker, name); err != nil {
			return fmt.Errorf("%s: give %s to %s: %w", from, name, to, err)
		}
	}
	return nil
}

// supply gives nodes that have just started the images that all shall have, from any node that has them.
func (l *Lab) supply(ctx context.Context, nodes []string) error {
	on, err := l.nodesOn()
	if err != nil || len(l.Images) == 0 {
		return err
	}
	// Those that have been there longer come first.
	donors := slices.DeleteFunc(slices.Clone(on), func(m string) bool { return slices.Contains(nodes, m) })
	return each(nodes, func(node string) error {
		var missing []string
		for _, name := range l.Images {
			if err := l.supplyOne(ctx, append(slices.Clone(donors), nodes...), node, name); errors.Is(err, errUnshared) || errdefs.IsNotFound(err) {
				missing = append(missing, name)
			} else if err != nil {
				return err
			}
		}
		if slices.ContainsFunc(missing, isDemo) {
			_, err := l.importOne(ctx, node, assets.Demo)
			return err
		}
		return nil
	})
}

// supplyOne gives one image; not found where no node has it.
func (l *Lab) supplyOne(ctx context.Context, donors []string, node, name string) error {
	taker, err := l.dial(node)
	if err != nil {
		return err
	}
	defer taker.Close()
	if _, err := taker.ImageService().Get(ctx, name); err == nil {
		return nil
	}
	err = fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	for _, donor := range donors {
		if donor == node {
			continue
		}
		if err = l.share(ctx, donor, node, []string{name}); !errdefs.IsNotFound(err) {
			return err
		}
	}
	return err
}

func isDemo(name string) bool { return strings.HasPrefix(name, "docker.io/coracle/demo:") }

// importDemo gives the images that the program carries to the first nodes.
func (l *Lab) importDemo(ctx context.Context) error {
	_, err := l.Import(ctx, assets.Demo)
	return err
}
