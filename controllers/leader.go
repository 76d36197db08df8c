package controllers

import (
	"context"

	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/coracle-dev/coracle/internal/leader"
)

// sink writes events through the client.
func sink(client kubernetes.Interface) record.EventSink {
	return &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")}
}

// lease is the one in kube-system that the process that works holds.
const lease = "coracle-controllers"

// lead works while this process holds the lease. A lease lost while ctx lives is an error, for then another may be at work.
func (c Config) lead(ctx context.Context) error {
	c.Metrics.Leading(lease, false)
	return leader.Run(ctx, leader.Config{RestConfig: c.RestConfig, Name: lease}, func(ctx context.Context, fenced *rest.Config) error {
		c.Metrics.Leading(lease, true)
		defer c.Metrics.Leading(lease, false)
		c.RestConfig = fenced
		var err error
		if c.Client, err = kubernetes.NewForConfig(fenced); err != nil {
			return err
		}
		return c.work(ctx)
	})
}
