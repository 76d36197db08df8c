package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/fairness"
	"github.com/coracle-dev/coracle/apiserver/rest"
)

// How many requests are served at the same time, upstream's.
const (
	defaultMaxReads  = 400
	defaultMaxWrites = 200
)

// maxPatience bounds how long a request waits for its turn.
const maxPatience = time.Minute

// flowDumps is where flow control shows what it does.
const flowDumps = "/debug/api_priority_and_fairness/"

// The response headers that tell who was judged by what, in the form that http.Header keeps.
var (
	schemaHeader = http.CanonicalHeaderKey(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID)
	levelHeader  = http.CanonicalHeaderKey(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID)
)

// Names of the resources that flow control is made of.
var (
	flowSchemas    = flowcontrolv1.Resource("flowschemas")
	priorityLevels = flowcontrolv1.Resource("prioritylevelconfigurations")
)

// flowControl gives requests their turn by the FlowSchemas and PriorityLevelConfigurations there are, keeps those that every
// cluster has, and is the only writer of the schemas' condition Dangling.
type flowControl struct {
	server  *Server
	turns   *fairness.Controller
	reader  *Reader
	changed chan struct{}
	// followed: the controller works by the objects in the store; sync's own.
	followed bool
	// mu is held while objects are kept; kept is closed after the first time.
	mu   sync.Mutex
	kept chan struct{}
}

func newFlowControl(s *Server) *flowControl {
	f := &flowControl{server: s, reader: NewReader(s.cache), changed: make(chan struct{}, 1), kept: make(chan struct{})}
	f.turns = fairness.New(fairness.Config{
		Seats:   cmp.Or(s.cfg.MaxReadInFlight, defaultMaxReads) + cmp.Or(s.cfg.MaxWriteInFlight, defaultMaxWrites),
		Objects: func(gr schema.GroupResource) int { return s.cache.Objects(gr.String()) },
	})
	s.metrics.registry.MustRegister(f.turns.Collector())
	return f
}

// begin waits for a request's turn. Requests that take as long as they take are not held back, but for watches, which have
// their turn until their initial events are sent.
func (f *flowControl) begin(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, endless bool) (*http.Request, func(), error) {
	watching := info.IsResourceRequest && info.Verb == "watch"
	if endless && !watching {
		return req, func() {}, nil
	}
	ctx := req.Context()
	u, _ := request.UserFrom(ctx)
	r := &fairness.Request{User: u, Info: info, Query: req.URL.RawQuery}
	class := f.turns.Classify(r)
	w.Header()[schemaHeader], w.Header()[levelHeader] = class.Headers()
	seats, err := f.turns.Begin(ctx, class, r, patience(ctx))
	if err != nil {
		after := 1
		if rejected := (*fairness.Rejected)(nil); errors.As(err, &rejected) {
			after = rejected.RetryAfter
		}
		return req, nil, apierrors.NewTooManyRequests("Too many requests, please try again later.", after)
	}
	if !watching {
		return req, seats.Release, nil
	}
	forget := f.turns.Watch(r)
	return req.WithContext(rest.WithBegun(ctx, seats.Release)), func() { seats.Release(); forget() }, nil
}

// patience is a quarter of the time that a request has, as upstream has it.
func patience(ctx context.Context) time.Duration {
	has := requestTimeout
	if deadline, ok := ctx.Deadline(); ok {
		has = time.Until(deadline)
	}
	return min(has/4, maxPatience)
}

// dump serves upstream's tables for people who look for what holds requests up.
func (f *flowControl) dump(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var err error
	switch strings.TrimPrefix(req.URL.Path, flowDumps) {
	case "dump_priority_levels":
		err = f.turns.DumpLevels(w)
	case "dump_queues":
		err = f.turns.DumpQueues(w)
	case "dump_requests":
		err = f.turns.DumpRequests(w, req.URL.Query().Get("includeRequestDetails") != "")
	default:
		w.Header().Del("Content-Type")
		f.server.otherPath(w, req)
	}
	if err != nil {
		f.server.log.Debug("dump of flow control cut off", "error", err)
	}
}

// settleTime passes between two looks at the objects, so that a burst of changes is one.
const settleTime = 50 * time.Millisecond

// run follows the objects until ctx ends.
func (f *flowControl) run(ctx context.Context) error {
	if err := f.server.cache.WaitReady(ctx); err != nil {
		return nil // ctx has ended
	}
	client, err := kubernetes.NewForConfig(f.server.LocalConfig(self))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, gr := range []schema.GroupResource{flowSchemas, priorityLevels} {
		g.Go(func() error { return f.follow(ctx, gr) })
	}
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-f.changed:
			}
			if err := f.sync(ctx, client.FlowcontrolV1()); err != nil && ctx.Err() == nil {
				f.server.log.Warn("cannot keep the objects of flow control", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settleTime):
			}
		}
	})
	return g.Wait()
}

// follow says when a resource changes.
func (f *flowControl) follow(ctx context.Context, gr schema.GroupResource) error {
	return f.server.follow(ctx, gr.String(), func() {}, func([]cache.Event) {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	})
}

// listed are the objects of a resource in the cache.
func listed[T any](ctx context.Context, f *flowControl, gr schema.GroupResource) ([]T, error) {
	objs, _, err := f.reader.List(ctx, gr, "")
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(objs))
	for _, o := range objs {
		if typed, ok := o.(T); ok {
			out = append(out, typed)
		}
	}
	return out, nil
}

// sync makes the objects effective as they are now, and then what they should be.
func (f *flowControl) sync(ctx context.Context, client typed.FlowcontrolV1Interface) error {
	levels, err := listed[*flowcontrolv1.PriorityLevelConfiguration](ctx, f, priorityLevels)
	if err != nil {
		return err
	}
	schemas, err := listed[*flowcontrolv1.FlowSchema](ctx, f, flowSchemas)
	if err != nil {
		return err
	}
	// Until all that every cluster begins with is seen, the store may be new, and the controller has what will be.
	if f.followed = f.followed || fairness.Complete(levels, schemas); f.followed {
		f.turns.Configure(levels, schemas)
	}
	if !isClosed(f.kept) {
		return nil
	}
	if err := f.keep(ctx, client); err != nil {
		return err
	}
	for _, s := range schemas {
		if err := tellDangling(ctx, client, s, levels); err != nil {
			return err
		}
	}
	return nil
}

// flowReporter is who writes statuses, as managed fields have it.
const flowReporter = "api-priority-and-fairness-config-consumer-v1"

// tellDangling sets the condition of whether a schema's level exists, where that is not what it says.
func tellDangling(ctx context.Context, client typed.FlowcontrolV1Interface, s *flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) error {
	want := danglingOf(s, levels)
	conditions := s.Status.Conditions
	at := -1
	for i, c := range conditions {
		if c.Type == want.Type {
			if c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
				return nil
			}
			at = i
		}
	}
	want.LastTransitionTime = metav1.Now()
	s = s.DeepCopy()
	if at >= 0 {
		s.Status.Conditions[at] = want
	} else {
		s.Status.Conditions = append(s.Status.Conditions, want)
	}
	_, err := client.FlowSchemas().UpdateStatus(ctx, s, metav1.UpdateOptions{FieldManager: flowReporter})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // what changed it wakes us again
	}
	return err
}

func danglingOf(s *flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) flowcontrolv1.FlowSchemaCondition {
	name := s.Spec.PriorityLevelConfiguration.Name
	for _, l := range levels {
		if l.Name == name {
			return flowcontrolv1.FlowSchemaCondition{
				Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
				Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", name),
			}
		}
	}
	return flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionTrue, Reason: "NotFound",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", name),
	}
}
