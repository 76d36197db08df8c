// Package thread runs code on an operating system thread of its own, for calls that change the thread's namespaces.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn on a thread that ends with it, so that whatever fn changes of the thread is seen by nothing else. That is
// never the process's main thread, which cannot end: it would keep the namespaces that it was moved to alive, and
// show them as the process's.
func Do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the main thread, the next one gets another.
			result <- Do(fn)
			runtime.UnlockOSThread()
			return
		}
		result <- fn() // stays locked: the thread ends with the goroutine
	}()
	return <-result
}
