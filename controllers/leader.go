package controllers

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/run"
)

// sink writes events through the client.
func sink(client kubernetes.Interface) record.EventSink {
	return &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")}
}

var errLeaseLost = errors.New("controllers: lost the lease kube-system/coracle-controllers")

// lead works while this process holds the lease. A lease lost while ctx lives is an error, for then another may be at work.
func (c Config) lead(ctx context.Context) error {
	leading := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "coracle-controllers"},
			Client:     c.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: hostname() + "_" + string(uuid.NewUUID())},
		},
		Name: "controllers", LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	elect := func(ctx context.Context) error {
		elector.Run(ctx)
		if ctx.Err() == nil {
			return errLeaseLost
		}
		return nil
	}
	work := func(ctx context.Context) error {
		select {
		case ctx := <-leading:
			return c.work(ctx)
		case <-ctx.Done():
			return nil
		}
	}
	return run.All(ctx, elect, work)
}
