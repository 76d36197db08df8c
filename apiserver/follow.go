package apiserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/coracle-dev/coracle/apiserver/cache"
)

// follow hands over the events of a resource until ctx ends: those of its state first, and from the state again where the
// cache's history went on without it. begin is called before each state.
func (s *Server) follow(ctx context.Context, resource string, begin func(), handle func([]cache.Event)) error {
	for {
		begin()
		err := s.followOnce(ctx, resource, handle)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, cache.ErrTooOld):
			return fmt.Errorf("follow %s: %w", resource, err)
		}
	}
}

func (s *Server) followOnce(ctx context.Context, resource string, handle func([]cache.Event)) error {
	w, err := s.cache.Watch(ctx, resource, cache.WatchOptions{SendInitial: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		handle(events)
	}
}
