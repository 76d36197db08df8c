// Package run holds the shapes in which functions run side by side: every component's main loop, and a number of like writes.
package run

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// All runs every function until the first fails or ctx ends, then waits for all of them. A function
// returns nil at ctx's end; any error ends the others.
func All(ctx context.Context, fns ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, fn := range fns {
		g.Go(func() error { return fn(ctx) })
	}
	return g.Wait()
}

// Each calls f for 0 to n-1, up to parallel of them side by side, all of them whatever fails, and gives the first error.
func Each(n, parallel int, f func(int) error) error {
	var g errgroup.Group
	g.SetLimit(parallel)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

// Batches is Each in batches of 1, 2, 4, ..., and stops after the first batch in which a call failed: what is refused every time costs one request, not
// hundreds.
func Batches(n, parallel int, f func(int) error) error {
	for first, size := 0, 1; first < n; first, size = first+size, 2*size {
		if err := Each(min(size, n-first), parallel, func(i int) error { return f(first + i) }); err != nil {
			return err
		}
	}
	return nil
}
