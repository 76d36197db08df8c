package lifecycle

import "time"

// The delays between attempts, as the kubelet's.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
	// A container that ran for this long starts over with no delay.
	backoffReset = 2 * maxBackoff
	// clockSlack is by how much the clock may be set back before waits that began by it are called off.
	clockSlack = time.Minute
	// errShown is how long a failed pull shows its error before it shows that it waits.
	errShown = time.Second
)

// crashDelay is how long after its exit the instance is to be replaced.
func crashDelay(c *Container) time.Duration {
	if !c.StartedAt.IsZero() && c.FinishedAt.Sub(c.StartedAt) >= backoffReset {
		return 0
	}
	return c.Backoff
}

// backsOff tells whether the instance prev ended less than delay ago. One whose end seems to be in the future is not waited for:
// the clock was set back, by who knows how much.
func (d *decision) backsOff(prev *Container, delay time.Duration) bool {
	left := prev.FinishedAt.Add(delay).Sub(d.Now)
	return left > 0 && left <= delay+clockSlack
}

// nextBackoff is the delay to record with the instance that follows one that waited for delay.
func nextBackoff(delay time.Duration) time.Duration {
	if delay == 0 {
		return firstBackoff
	}
	return min(2*delay, maxBackoff)
}

// retryAt is when a failed action may be tried again. Pulls and failing starts are spared like crashing
// containers; what depends on the node or on objects that may appear any moment is tried again soon.
func retryAt(k Kind, f Failure) time.Time {
	first, limit := 500*time.Millisecond, 10*time.Second
	switch {
	case k == PullImage && f.Reason == ReasonErrImagePull,
		k == StartContainer && f.Reason == ReasonRunContainer:
		first, limit = firstBackoff, maxBackoff
	case k == StopContainer || k == RemoveContainer || k == Reclaim || k == DeletePod:
		limit = 5 * time.Second
	}
	return f.At.Add(doubled(first, f.Count-1, limit))
}

func doubled(d time.Duration, times int, limit time.Duration) time.Duration {
	for range times {
		if d >= limit {
			break
		}
		d *= 2
	}
	return min(d, limit)
}
