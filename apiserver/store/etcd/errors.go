package etcd

import (
	"context"
	"errors"
	"fmt"

	"github.com/coracle-dev/coracle/apiserver/store"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// mapError turns etcd's errors into the store's; the end of the caller's context stays what it is.
func mapError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrFutureRev):
		return store.ErrFuture
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return store.ErrTooLarge
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
