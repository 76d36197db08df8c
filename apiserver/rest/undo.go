package rest

import (
	"errors"

	"github.com/coracle-dev/coracle/apiserver/store"
)

// takeBack undoes what admission did for a write that did not happen.
func (c *call) takeBack() {
	for _, undo := range c.undo {
		undo(c.ctx())
	}
	c.undo = nil
}

// wrote is told the result of a store's write. Unless that certainly did not happen, there is nothing to take back: what
// was charged for an object that may be there is better charged too long than not at all.
func (c *call) wrote(err error) {
	var exists *store.ExistsError
	var conflict *store.ConflictError
	if errors.As(err, &exists) || errors.As(err, &conflict) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrTooLarge) {
		return
	}
	c.undo = nil
}
