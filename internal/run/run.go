// Package run holds the one shape every component's main loop has.
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
