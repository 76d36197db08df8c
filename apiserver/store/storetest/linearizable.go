package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/coracle-dev/coracle/apiserver/store"
)

// call is an operation on one key, and outcome what came back: the revision the key was found or left at,
// zero where it did not exist.
type call struct {
	op       string
	key      int
	expected int64 // of update and delete
}

type outcome struct {
	done     bool // the write happened
	revision int64
}

// testLinearizable has several clients read and write a few keys at once: there must be an order of their
// calls that a single client could have made, and that agrees with real time.
func testLinearizable(t *testing.T, s suite) {
	const clients, calls, keys = 6, 120, 3
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	start := time.Now()
	for client := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(client), 1))
			known := [keys]int64{}
			for range calls {
				c := call{key: r.IntN(keys), op: []string{"get", "get", "create", "update", "update", "delete"}[r.IntN(6)]}
				c.expected = known[c.key]
				begin := time.Since(start)
				out, err := s.perform(t, c)
				end := time.Since(start)
				if err != nil {
					t.Error(err)
					return
				}
				known[c.key] = out.revision
				mu.Lock()
				history = append(history, porcupine.Operation{
					ClientId: client, Input: c, Call: int64(begin), Output: out, Return: int64(end),
				})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if r := porcupine.CheckOperationsTimeout(register, history, 10*time.Second); r != porcupine.Ok {
		t.Fatalf("the history of %d calls is not linearizable: %v", len(history), r)
	}
}

// perform makes the call. The revision of a key just deleted is zero.
func (s suite) perform(t *testing.T, c call) (outcome, error) {
	key := keyOf(t, strconv.Itoa(c.key))
	var revision int64
	var err error
	switch c.op {
	case "get":
		var e store.Entry
		e, err = s.Get(t.Context(), key, 0)
		revision = e.Revision
	case "create":
		revision, err = s.Create(t.Context(), key, []byte("x"), store.CreateOptions{})
	case "update":
		revision, err = s.Update(t.Context(), key, []byte("x"), c.expected)
	case "delete":
		_, err = s.Delete(t.Context(), key, c.expected)
	}
	var exists *store.ExistsError
	var conflict *store.ConflictError
	switch {
	case err == nil:
		return outcome{c.op != "get", revision}, nil
	case errors.Is(err, store.ErrNotFound):
		return outcome{}, nil
	case errors.As(err, &exists):
		return outcome{revision: exists.Current.Revision}, nil
	case errors.As(err, &conflict):
		return outcome{revision: conflict.Current.Revision}, nil
	}
	return outcome{}, fmt.Errorf("%s: %w", c.op, err)
}

// register is the model of one key: its state is its revision, zero where it does not exist.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(call).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		now, c, out := state.(int64), input.(call), output.(outcome)
		if !out.done {
			// Nothing happened: the call found what is there, and had reason not to write.
			refused := true
			switch c.op {
			case "create":
				refused = now != 0
			case "update", "delete":
				refused = now == 0 || now != c.expected
			}
			return out.revision == now && refused, now
		}
		switch c.op {
		case "create":
			return now == 0 && out.revision > 0, out.revision
		case "update":
			return now != 0 && now == c.expected && out.revision > now, out.revision
		default:
			return now != 0 && now == c.expected, int64(0)
		}
	},
}
