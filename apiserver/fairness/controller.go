package fairness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// Config is what a Controller is made of.
type Config struct {
	// Seats is how many requests the server serves at the same time; those of exempt levels are not bounded.
	Seats int
	// Objects tells how many objects there are of a resource, zero where it is not known; nil knows of none.
	Objects func(schema.GroupResource) int
	// Now is the clock, After calls f in a goroutine of its own once d has passed, if it is not stopped before. Nil is the
	// system's.
	Now   func() time.Time
	After func(d time.Duration, f func()) (stop func() bool)
}

// Controller gives requests their turn. Its methods are for any goroutine.
type Controller struct {
	cfg     Config
	config  atomic.Pointer[config]
	watches watches

	// mu orders changes of configuration and limits. Levels are locked within it, never the other way around.
	mu       sync.Mutex
	adjusted time.Time
	armed    atomic.Bool // a timer will adjust limits
}

// config is what requests are judged by, replaced as a whole.
type config struct {
	schemas []sorter
	levels  map[string]*level
}

// sorter is one flow schema and where its requests go.
type sorter struct {
	schema *flowcontrolv1.FlowSchema
	flow   *flow
	// queued: the level has queues, so that its flows are to be told apart.
	queued bool
	// headers are the values of the response headers that tell its UID and its level's.
	headers [2][]string
}

// New makes a controller that works by the objects every cluster begins with.
func New(cfg Config) *Controller {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	c := &Controller{cfg: cfg, watches: watches{counts: map[watched]int{}}}
	c.config.Store(&config{levels: map[string]*level{}})
	c.Configure(Levels(), Schemas())
	return c
}

// Levels are the priority levels that every cluster has, first those that may not be missing.
func Levels() []*flowcontrolv1.PriorityLevelConfiguration {
	return slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations)
}

// Schemas are the flow schemas that every cluster has, first those that may not be missing.
func Schemas() []*flowcontrolv1.FlowSchema {
	return slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas)
}

// Complete tells whether all that every cluster begins with is among these objects.
func Complete(levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) bool {
	return len(missing(levels, Levels())) == 0 && len(missing(schemas, Schemas())) == 0
}

// Configure makes objects effective, which must not be changed afterwards. A schema whose level there is not is left out;
// mandatory objects that are missing are taken as they should be.
func (c *Controller) Configure(levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.config.Load()
	next := &config{levels: map[string]*level{}}
	for _, conf := range slices.Concat(levels, missing(levels, bootstrap.MandatoryPriorityLevelConfigurations)) {
		if broken(conf) {
			continue
		}
		l := old.levels[conf.Name]
		if l == nil {
			l = &level{name: conf.Name}
		}
		l.mu.Lock()
		l.configure(conf)
		l.mu.Unlock()
		next.levels[conf.Name] = l
	}
	for _, s := range sorted(slices.Concat(schemas, missing(schemas, bootstrap.MandatoryFlowSchemas))) {
		if l := next.levels[s.Spec.PriorityLevelConfiguration.Name]; l != nil {
			next.schemas = append(next.schemas, sorter{schema: s, flow: flowOf(old, s.Name, l), queued: l.dealer != nil,
				headers: [2][]string{{string(s.UID)}, {string(l.conf.UID)}}})
		}
	}
	for name, l := range old.levels {
		if next.levels[name] == nil && l.retire() {
			next.levels[name] = l
		}
	}
	next.setLimits(c.cfg.Seats)
	c.config.Store(next)
	c.adjust(c.cfg.Now())
}

// missing are those of want that have does not hold.
func missing[T interface {
	comparable
	GetName() string
}](have, want []T) []T {
	return slices.DeleteFunc(slices.Clone(want), func(w T) bool {
		return slices.ContainsFunc(have, func(h T) bool { return h.GetName() == w.GetName() })
	})
}

// broken tells an object that validation would not let in.
func broken(conf *flowcontrolv1.PriorityLevelConfiguration) bool {
	exempt := conf.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	return exempt != (conf.Spec.Exempt != nil) || exempt == (conf.Spec.Limited != nil) || exempt != (conf.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt)
}

// flowOf finds the counts of a schema at a level.
func flowOf(old *config, schema string, l *level) *flow {
	for i := range old.schemas {
		if f := old.schemas[i].flow; f.schema == schema && f.level == l {
			return f
		}
	}
	return &flow{schema: schema, level: l}
}

// retire marks a level as one without an object; false is that nobody needs it any more.
func (l *level) retire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	return !l.idle()
}

func (cf *config) setLimits(total int) {
	all := 0
	for _, l := range cf.levels {
		shares, _, _ := sharesOf(l.conf)
		all += shares
	}
	for _, l := range cf.levels {
		l.mu.Lock()
		l.limits = limitsOf(l.conf, total, all)
		l.widest.Store(int32(l.limits.width))
		l.mu.Unlock()
	}
}

// adjust divides the seats anew. mu is held.
func (c *Controller) adjust(now time.Time) (waiting bool) {
	c.adjusted = now
	levels := c.config.Load().levels
	order := make([]*level, 0, len(levels))
	claims := make([]claim, 0, len(levels))
	for _, l := range levels {
		l.mu.Lock()
		l.advance(now)
		peak := l.demand.take(l.taken + l.wanted)
		order = append(order, l)
		claims = append(claims, claim{limits: l.limits, exempt: l.exempt(), peak: peak, smoothed: l.demand.smoothed})
		l.mu.Unlock()
	}
	for i, seats := range divide(claims) {
		l := order[i]
		l.mu.Lock()
		l.setLimit(now, seats)
		waiting = waiting || l.waiting > 0
		l.mu.Unlock()
	}
	return waiting
}

// pressed is called when a request found no seat: limits are adjusted now, or when the time has come.
func (c *Controller) pressed() {
	if c.armed.Load() || !c.armed.CompareAndSwap(false, true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	wait := c.adjusted.Add(period).Sub(now)
	if wait <= 0 {
		c.adjust(now)
		wait = period
	}
	c.cfg.After(wait, c.periodic)
}

func (c *Controller) periodic() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropRetired()
	if c.adjust(c.cfg.Now()) {
		c.cfg.After(period, c.periodic)
		return
	}
	c.armed.Store(false)
}

// dropRetired forgets levels without an object once they are idle. mu is held.
func (c *Controller) dropRetired() {
	old := c.config.Load()
	next := &config{schemas: old.schemas, levels: map[string]*level{}}
	for name, l := range old.levels {
		l.mu.Lock()
		if !l.gone || !l.idle() {
			next.levels[name] = l
		}
		l.mu.Unlock()
	}
	if len(next.levels) < len(old.levels) {
		next.setLimits(c.cfg.Seats)
		c.config.Store(next)
	}
}

// Class is where a request belongs.
type Class struct{ by *sorter }

// Headers are the values of the response headers X-Kubernetes-PF-FlowSchema-UID and X-Kubernetes-PF-PriorityLevel-UID; they
// must not be changed.
func (c Class) Headers() (schema, level []string) { return c.by.headers[0], c.by.headers[1] }

// Names are those of the flow schema and the priority level.
func (c Class) Names() (schema, level string) { return c.by.schema.Name, c.by.flow.level.name }

// Classify finds the first flow schema for a request: there always is one.
func (c *Controller) Classify(r *Request) Class {
	schemas := c.config.Load().schemas
	for i := range schemas {
		if matches(schemas[i].schema, r) {
			return Class{&schemas[i]}
		}
	}
	for i := range schemas {
		if schemas[i].schema.Name == flowcontrolv1.FlowSchemaNameCatchAll {
			return Class{&schemas[i]}
		}
	}
	panic("fairness: no catch-all")
}

// Rejected is why a request has no turn.
type Rejected struct {
	// RetryAfter is when the client should come again, in seconds.
	RetryAfter int
	Reason     string
}

// Error implements error.
func (r *Rejected) Error() string {
	return fmt.Sprintf("turned away by priority and fairness: %s", r.Reason)
}

// Begin waits for the seats of a request, at most for patience and as long as ctx lasts. Release is to be called with what
// it returns once the request is served. The error is *Rejected.
func (c *Controller) Begin(ctx context.Context, class Class, r *Request, patience time.Duration) (*Seats, error) {
	f := class.by.flow
	l := f.level
	t := &ticket{flow: f, request: *r, work: estimate(r, int(l.widest.Load()), c.cfg.Objects, &c.watches)}
	var flow uint64
	if class.by.queued {
		t.distinguisher = distinguisher(class.by.schema, r)
		flow = hash(class.by.schema.Name, t.distinguisher)
	}
	l.mu.Lock()
	why := l.begin(c.cfg.Now(), t, flow)
	retry, waits := l.drops.retryAfter(), t.state == stateWaiting
	l.mu.Unlock()
	if waits || why != servedFine {
		c.pressed()
	}
	if waits {
		why, retry = c.wait(ctx, l, t, patience)
	}
	if why != servedFine {
		return nil, &Rejected{RetryAfter: retry, Reason: string(why)}
	}
	return &Seats{c: c, t: t}, nil
}

func (c *Controller) wait(ctx context.Context, l *level, t *ticket, patience time.Duration) (reason, int) {
	expired := make(chan struct{})
	stop := c.cfg.After(patience, func() { close(expired) })
	defer stop()
	why := timedOut
	select {
	case <-t.ready:
		return servedFine, 0
	case <-expired:
	case <-ctx.Done():
		why = cancelled
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.abandon(c.cfg.Now(), t, why) {
		return servedFine, 0 // it got its turn in the same moment
	}
	return why, l.drops.retryAfter()
}

// Seats are held by a request that is served.
type Seats struct {
	c *Controller
	t *ticket
}

// Release gives the seats back. The second time does nothing.
func (s *Seats) Release() {
	l := s.t.flow.level
	l.mu.Lock()
	linger := l.finish(s.c.cfg.Now(), s.t)
	retired := l.gone && l.idle()
	l.mu.Unlock()
	if linger > 0 {
		s.c.cfg.After(linger, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.done(s.c.cfg.Now(), s.t)
		})
	}
	if retired {
		s.c.forget()
	}
}

// forget drops what has become idle without an object, and gives its seats to the others.
func (c *Controller) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropRetired()
	c.adjust(c.cfg.Now())
}

// Watch counts a watch while it lasts: mutations of what it is of cost more.
func (c *Controller) Watch(r *Request) (forget func()) { return c.watches.add(r) }
