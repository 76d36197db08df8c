package controllers

import (
	"context"

	"github.com/coracle-dev/coracle/controllers/deployment"
	"github.com/coracle-dev/coracle/controllers/endpointslice"
	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/replicaset"
)

// runner is a controller that is ready to run.
type runner interface {
	Run(ctx context.Context) error
}

// table lists the controllers. A nil runner means that the configuration leaves that one nothing to do.
var table = []struct {
	name  string
	start func(Config, env.Env) (runner, error)
}{
	{"replicaset", func(_ Config, e env.Env) (runner, error) { return replicaset.New(e) }},
	{"replicationcontroller", func(_ Config, e env.Env) (runner, error) { return replicaset.NewForReplicationControllers(e) }},
	{"deployment", func(_ Config, e env.Env) (runner, error) { return deployment.New(e) }},
	{"endpointslice", func(_ Config, e env.Env) (runner, error) { return endpointslice.New(e) }},
}
