package clock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Jumps calls jumped when the machine's clock has been set by at least that much, forwards or backwards, or has gone on
// while the machine slept; it returns when ctx ends. It costs nothing in between. Clocks that are slewed do not jump.
func Jumps(ctx context.Context, least time.Duration, jumped func(by time.Duration)) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clock: timerfd: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "clock")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { _ = timer.Close() })()
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32}} // the timer is of no use but that it is cancelled
	was := time.Now()
	for {
		if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil && ctx.Err() == nil {
			return fmt.Errorf("clock: timerfd: %w", err)
		}
		var expirations [8]byte
		if _, err := timer.Read(expirations[:]); ctx.Err() != nil {
			return nil
		} else if err != nil && !errors.Is(err, unix.ECANCELED) {
			return fmt.Errorf("clock: timerfd: %w", err)
		}
		now := time.Now()
		if by := jump(was, now); by.Abs() >= least {
			jumped(by)
			was = now
		}
	}
}

// jump is by how much the wall clock went on more than time did.
func jump(was, now time.Time) time.Duration {
	return now.Round(0).Sub(was.Round(0)) - now.Sub(was)
}
