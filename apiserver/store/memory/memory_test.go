package memory_test

import (
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/apiserver/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Engine {
		s := memory.New()
		t.Cleanup(func() { s.Close() })
		return s
	}, storetest.Options{TTL: 300 * time.Millisecond, ExpiresWithin: time.Second})
}
