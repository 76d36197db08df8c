package main

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"github.com/coracle-dev/coracle/agent/eviction"
	"github.com/coracle-dev/coracle/agent/images"
)

func evictionFlags(o *options, f *pflag.FlagSet) {
	e := &o.eviction
	f.StringSliceVar(&e.Hard, "eviction-hard", eviction.DefaultHard, "what the node never has less of without evicting pods at once")
	f.StringSliceVar(&e.Soft, "eviction-soft", nil, "what it may have less of for as long as --eviction-soft-grace-period says, as memory.available<1Gi")
	f.StringToStringVar(&e.SoftGrace, "eviction-soft-grace-period", nil, "for each soft threshold, as memory.available=90s")
	f.StringToStringVar(&e.MinReclaim, "eviction-minimum-reclaim", nil, "how much more than a threshold is to be available again, as nodefs.available=500Mi")
	f.DurationVar(&e.PressureTransitionPeriod, "eviction-pressure-transition-period", eviction.DefaultTransition, "for how long the node stays under pressure after it was last observed")
	f.IntVar(&e.MaxPodGrace, "eviction-max-pod-grace-period", 0, "seconds that a pod gets at most to end when a soft threshold is met")
}

// evictionPolicy checks the flags.
func (o *options) evictionPolicy() (eviction.Policy, error) {
	p, err := o.eviction.Policy()
	if err != nil {
		return p, usage("--eviction flags: %w", err)
	}
	return p, nil
}

// machine is what the node's resources are read of.
func (o *options) machine(ctx context.Context, store *images.Store) (eviction.Machine, error) {
	root, err := store.Root(ctx)
	if err != nil {
		return eviction.Machine{}, errors.Join(errors.New("ask containerd where its images lie"), err)
	}
	return eviction.Machine{Data: o.layout.Data, Images: root}, nil
}
