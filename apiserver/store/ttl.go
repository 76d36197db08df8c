package store

import (
	"context"
	"time"
)

type ttlKey struct{}

// WithTTL makes the Update that is called with the context give its key a new time to live, as CreateOptions.TTL does.
// It is in the context so that it passes through whatever wraps an engine.
func WithTTL(ctx context.Context, ttl time.Duration) context.Context {
	return context.WithValue(ctx, ttlKey{}, ttl)
}

// TTLOf is what WithTTL put in; zero lets a key keep the expiry it has.
func TTLOf(ctx context.Context) time.Duration {
	ttl, _ := ctx.Value(ttlKey{}).(time.Duration)
	return ttl
}
