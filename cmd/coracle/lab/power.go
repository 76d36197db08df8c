package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Kill ends machines as a power cut does.
func (l *Lab) Kill(ctx context.Context, machines ...string) error {
	for _, m := range machines {
		if err := l.has(m); err != nil {
			return err
		}
		pid, err := l.first(m)
		if err != nil {
			return err
		}
		if pid == 0 {
			return fmt.Errorf("%s: it is off already", m)
		}
	}
	for _, m := range machines {
		if err := l.kill(ctx, m); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	return nil
}

// Start boots machines that are off, the server first, and waits until they are Ready. Without names it starts all that are off, of which
// there may be none.
func (l *Lab) Start(ctx context.Context, t Tools, machines ...string) error {
	all, err := l.Machinery()
	if err != nil {
		return err
	}
	off := map[string]bool{}
	for _, m := range all {
		off[m.Name] = !m.On
	}
	for _, m := range machines {
		if err := l.has(m); err != nil {
			return err
		}
		if !off[m] {
			return fmt.Errorf("%s: it is on already", m)
		}
	}
	if len(machines) == 0 {
		for _, m := range all {
			if off[m.Name] {
				machines = append(machines, m.Name)
			}
		}
	}
	var nodes []string
	for _, m := range machines {
		if m != Server {
			nodes = append(nodes, m)
		}
	}
	if len(nodes) < len(machines) {
		if err := l.startServer(ctx); err != nil {
			return err
		}
		t.Step("control plane ready at %s", l.Address(Server))
	} else if off[Server] {
		return fmt.Errorf("the control plane is off: start it too, with `coracle lab start%s %s`", nameFlag(l.Name), Server)
	}
	if len(nodes) == 0 {
		return nil
	}
	return l.startNodes(ctx, nodes, t)
}

// Add makes more nodes and waits until they are Ready.
func (l *Lab) Add(ctx context.Context, count int, t Tools) ([]string, error) {
	if count < 1 {
		return nil, fmt.Errorf("--nodes %d: want at least 1", count)
	}
	have, err := l.Machines()
	if err == nil {
		err = checkMachine(0, count, len(have)+count)
	}
	if err != nil {
		return nil, err
	}
	if pid, err := l.first(Server); err != nil || pid == 0 {
		return nil, errors.Join(err, fmt.Errorf("the control plane is off: start it with `coracle lab start%s %s`", nameFlag(l.Name), Server))
	}
	nodes, err := l.newNodes(count)
	if err != nil {
		return nil, err
	}
	return nodes, l.startNodes(ctx, nodes, t)
}

// newNodes takes the next names and makes the folders.
func (l *Lab) newNodes(count int) ([]string, error) {
	unlock, err := lock(l.Root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := l.Machines()
	if err != nil {
		return nil, err
	}
	nodes, err := nextNodes(have, count)
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		if err := l.prepare(node); err != nil {
			return nil, err
		}
	}
	return nodes, l.writeHosts()
}

// bootLocked boots machines side by side, each of which must be off, with the network in place.
func (l *Lab) bootLocked(machines []string, boot func(machine string) error) error {
	unlock, err := lock(l.Root)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.ensureNetwork(); err != nil {
		return err
	}
	return each(machines, func(m string) error {
		if pid, err := l.first(m); err != nil || pid != 0 {
			return errors.Join(err, fmt.Errorf("%s: it is on already", m))
		}
		// What ended by itself has left its cable and its cgroup.
		if err := l.kill(context.Background(), m); err != nil {
			return err
		}
		return boot(m)
	})
}

// each does something for all machines side by side.
func each(machines []string, do func(machine string) error) error {
	errs := make([]error, len(machines))
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() { errs[i] = do(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
