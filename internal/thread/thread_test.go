package thread

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNeverOnTheMainThread(t *testing.T) {
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if err := Do(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("on the main thread")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want := errors.New("x")
	if err := Do(func() error { return want }); err != want {
		t.Errorf("got %v", err)
	}
}
