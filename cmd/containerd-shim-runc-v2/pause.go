//go:build linux

package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// pause is process 1 of a shared PID namespace: it reaps whatever is orphaned there and ends by SIGKILL from
// outside, or by SIGTERM. It also ends if whoever started it dies before it has told, by a byte, that it will find it again.
func pause() {
	if n, _ := os.Stdin.Read(make([]byte, 1)); n == 0 {
		os.Exit(0)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for sig := range signals {
		if sig != unix.SIGCHLD {
			os.Exit(0)
		}
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
}
