// Package leader lets one of several processes work at a time, by a Lease as client-go's leader election keeps it.
//
// Invariants: a write is begun only while the lease is surely held, by this process's own clock, however long the process was
// stopped in between; the lease is given up only after the work has ended, so that the next leader starts from all that was written.
package leader

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// ErrLost says that the lease went to another process, or may have.
var ErrLost = errors.New("lost the lease")

// Config says which lease to wait for.
type Config struct {
	// RestConfig leads to the API server. Required.
	RestConfig *rest.Config
	// Name is the Lease's, in kube-system. Required.
	Name string
	// Duration is how long the lease holds without being renewed; 15 s when zero. Work ends when it could not be renewed for two
	// thirds of that.
	Duration time.Duration
}

// Run waits for the lease, then calls work with a configuration that refuses writes once the lease may have been lost. It gives work's
// error, nil when ctx ends before there was any, and ErrLost when the lease was lost while ctx lives.
func Run(ctx context.Context, cfg Config, work func(context.Context, *rest.Config) error) error {
	if cfg.Duration == 0 {
		cfg.Duration = 15 * time.Second
	}
	lock, err := newLock(cfg)
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	started := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: cfg.Name, LeaseDuration: cfg.Duration, RenewDeadline: renewDeadline(cfg.Duration), RetryPeriod: cfg.Duration * 2 / 15,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(started) },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); elector.Run(electing) }()
	select {
	case <-started:
	case <-ctx.Done():
		stop()
		<-ended
		lock.release()
		return nil
	}
	return lead(ctx, ended, stop, lock, func(ctx context.Context) error { return work(ctx, lock.fenced(cfg.RestConfig)) })
}

// lead works until the work or the election has ended, and gives the lease up after both have.
func lead(ctx context.Context, ended <-chan struct{}, stop func(), lock *lock, work func(context.Context) error) error {
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- work(working) }()
	select {
	case err := <-done:
		stop()
		<-ended
		lock.release()
		return err
	case <-ended:
		cancel()
		err := <-done
		lock.release()
		return errors.Join(fmt.Errorf("%w %s", ErrLost, lock.Describe()), err)
	}
}

// renewDeadline is how long after its last renewal the lease still counts as surely held.
func renewDeadline(duration time.Duration) time.Duration { return duration * 2 / 3 }

// lock is the Lease, and knows since when it has surely been held.
type lock struct {
	resourcelock.Interface
	surely  time.Duration
	renewed atomic.Pointer[time.Time]
}

func newLock(cfg Config) (*lock, error) {
	config := rest.CopyConfig(cfg.RestConfig)
	config.Timeout = renewDeadline(cfg.Duration) / 2 // so that one answer that is lost costs no lease
	client, err := coordinationv1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &lock{surely: renewDeadline(cfg.Duration), Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: cfg.Name},
		Client:     client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
	}}, nil
}

// Create makes the Lease.
func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.renew(func() error { return l.Interface.Create(ctx, record) })
}

// Update takes or renews the Lease.
func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.renew(func() error { return l.Interface.Update(ctx, record) })
}

// renew counts from before the request: others count from when it had its effect, which is later.
func (l *lock) renew(write func() error) error {
	began := time.Now()
	err := write()
	if err == nil {
		l.renewed.Store(&began)
	}
	return err
}

// held tells whether no other process can have the lease.
func (l *lock) held() bool {
	renewed := l.renewed.Load()
	return renewed != nil && passed(*renewed, time.Now()) < l.surely
}

// passed is the time between two readings by whichever clock went further: one stands still while the machine sleeps, the
// other may be set back.
func passed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

// release gives the Lease up if it is still this process's; else it runs out by itself.
func (l *lock) release() {
	ctx, cancel := context.WithTimeout(context.Background(), l.surely/4)
	defer cancel()
	record, _, err := l.Get(ctx)
	if err != nil || record.HolderIdentity != l.Identity() {
		return
	}
	now := metav1.Now()
	_ = l.Interface.Update(ctx, resourcelock.LeaderElectionRecord{
		LeaderTransitions: record.LeaderTransitions, LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now,
	})
}

// fenced is a configuration that refuses writes while the lease is not held.
func (l *lock) fenced(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return fence{next: next, held: l.held} })
	return config
}

type fence struct {
	next http.RoundTripper
	held func() bool
}

// RoundTrip passes reads, and writes while the lease is held.
func (f fence) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet || f.held() {
		return f.next.RoundTrip(r)
	}
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return nil, ErrLost
}
