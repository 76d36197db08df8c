// Package autoscale sets the replicas of what HorizontalPodAutoscalers aim at to what its measured load asks for. How many that is, package
// recommend decides.
//
// Invariants: a scale is written over the version that it was read at; a metric that cannot be read never takes replicas away; each autoscaler is
// looked at once a period, and while there are none nothing is asked.
package autoscale

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/controllers/autoscale/recommend"
	"github.com/coracle-dev/coracle/controllers/env"
	"github.com/coracle-dev/coracle/controllers/scales"
	"github.com/coracle-dev/coracle/internal/clock"
	"github.com/coracle-dev/coracle/internal/loop"
)

// Config says how eagerly targets are scaled. Zero values are upstream's defaults.
type Config struct {
	// SyncPeriod is how often each autoscaler looks at its metrics; 15 s.
	SyncPeriod time.Duration
	// Tolerance is how far a metric may be off its target without consequence, as a share of the target; 0.1. An autoscaler's
	// behavior may say otherwise.
	Tolerance float64
	// DownscaleStabilization is how long a higher recommendation holds; 5 minutes. An autoscaler's behavior may say otherwise.
	DownscaleStabilization time.Duration
	// CPUInitialization is how long after a pod's start its CPU samples count only if taken since it is ready; 5 minutes.
	CPUInitialization time.Duration
	// ReadinessDelay is how long after its start a pod that becomes unready has not begun to work; 30 s.
	ReadinessDelay time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&c.SyncPeriod, 15*time.Second)
	set(&c.DownscaleStabilization, 5*time.Minute)
	set(&c.CPUInitialization, 5*time.Minute)
	set(&c.ReadinessDelay, 30*time.Second)
	if c.Tolerance == 0 {
		c.Tolerance = 0.1
	}
	return c
}

// Controller serves all autoscalers.
type Controller struct {
	cfg     Config
	client  kubernetes.Interface
	hpas    autoscalinglisters.HorizontalPodAutoscalerLister
	pods    corelisters.PodLister
	scales  *scales.Client
	metrics *metrics
	events  record.EventRecorder
	clock   clock.Clock
	log     *slog.Logger
	lag     *loop.Lag
	loop    *loop.Loop

	mu sync.Mutex
	// known is what is remembered of each autoscaler, by key.
	known map[string]*memory
}

// memory is what one autoscaler has seen. Its history is its worker's, selector is guarded by Controller.mu.
type memory struct {
	uid      types.UID
	history  recommend.History
	selector labels.Selector
	// unsure is a change of which it is not known whether it took effect: no answer came.
	unsure *rescaled
	// scaled is when replicas were last changed, and tookLast whether that was the last one: the status that says so may have been refused.
	scaled   *metav1.Time
	tookLast *bool
}

// rescaled is a change of a target's replicas.
type rescaled struct {
	from, to int32
	at       time.Time
}

// target is one look at an autoscaler.
type target struct {
	key string
	// hpa is a copy whose status is being made; before is the one it had.
	hpa      *autoscalingv2.HorizontalPodAutoscaler
	before   *autoscalingv2.HorizontalPodAutoscalerStatus
	memory   *memory
	now      time.Time
	scale    *autoscalingv1.Scale
	resource schema.GroupResource
	selector labels.Selector
	pods     []*corev1.Pod
}

// New makes the controller. The metrics are read from the API server that cfg leads to.
func New(e env.Env, cfg *rest.Config, s *scales.Client, settings Config) (*Controller, error) {
	if min(settings.SyncPeriod, settings.DownscaleStabilization, settings.CPUInitialization, settings.ReadinessDelay) < 0 || settings.Tolerance < 0 {
		return nil, fmt.Errorf("no period and no tolerance may be negative: %+v", settings)
	}
	m, err := newMetrics(cfg, e.Client.Discovery(), s)
	if err != nil {
		return nil, err
	}
	hpas := e.Informers.Autoscaling().V2().HorizontalPodAutoscalers()
	pods := e.Informers.Core().V1().Pods()
	c := &Controller{
		cfg: settings.withDefaults(), client: e.Client, hpas: hpas.Lister(), pods: pods.Lister(), scales: s, metrics: m,
		events: e.Recorder("horizontal-pod-autoscaler"), clock: e.Clock, log: e.Log.With("controller", "horizontalpodautoscaler"),
		lag: loop.NewLag(e.Clock), known: map[string]*memory{},
	}
	c.loop = e.Loop(loop.Config{Name: "horizontalpodautoscaler", Sync: c.sync})
	c.loop.Wait(pods.Informer())
	loop.On(c.loop, hpas.Informer(), c.changed)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// changed wakes an autoscaler that asks for something else than before. Its status is mostly our own doing.
func (c *Controller) changed(old, cur *autoscalingv2.HorizontalPodAutoscaler) {
	if cur == nil {
		c.loop.AddObject(old)
		return
	}
	c.lag.Saw(cur.ResourceVersion)
	if old == nil || old.UID != cur.UID || !equality.Semantic.DeepEqual(old.Spec, cur.Spec) {
		c.loop.AddObject(cur)
	}
}

// sync looks at one autoscaler. What fails is told in its conditions and tried again after the period, as everything is.
func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // a key that is none cannot become one
	}
	hpa, err := c.hpas.HorizontalPodAutoscalers(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if wait := c.lag.Behind(key); wait > 0 {
		c.loop.AddAfter(key, min(wait, time.Second/5)) // of its own status no event wakes it
		return nil
	}
	c.loop.AddAfter(key, c.cfg.SyncPeriod)
	t := &target{key: key, hpa: hpa.DeepCopy(), before: hpa.Status.DeepCopy(), memory: c.remember(key, hpa.UID), now: c.clock.Now()}
	err = c.reconcile(ctx, t)
	if apierrors.IsConflict(err) {
		return err // it has changed meanwhile: again, at once
	}
	if err != nil && ctx.Err() == nil {
		c.log.Debug("cannot scale", "key", key, "err", err)
	}
	return nil
}

func (c *Controller) remember(key string, uid types.UID) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.known[key]
	if m == nil || m.uid != uid {
		m = &memory{uid: uid}
		c.known[key] = m
	}
	return m
}

func (c *Controller) forget(key string) {
	c.lag.Forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, key)
}

// load is what recommendations for the target rest on.
func (t *target) load(c *Controller) recommend.Load {
	tolerances := recommend.Tolerances{Down: c.cfg.Tolerance, Up: c.cfg.Tolerance}
	if b := t.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			tolerances.Down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			tolerances.Up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return recommend.Load{
		Current: t.scale.Spec.Replicas, Pods: t.pods, Tolerances: tolerances, Now: t.now,
		CPUInitialization: c.cfg.CPUInitialization, ReadinessDelay: c.cfg.ReadinessDelay,
	}
}

// bounds are what the autoscaler allows.
func (t *target) bounds(c *Controller) recommend.Bounds {
	return recommend.Bounds{Min: ptr.Deref(t.hpa.Spec.MinReplicas, 1), Max: t.hpa.Spec.MaxReplicas, Behavior: t.hpa.Spec.Behavior, Window: c.cfg.DownscaleStabilization}
}

// find reads the target's scale.
func (c *Controller) find(ctx context.Context, t *target) error {
	ref := t.hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err == nil {
		t.scale, t.resource, err = c.scales.Get(ctx, schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, t.hpa.Namespace, ref.Name)
	}
	if err != nil {
		c.events.Event(t.hpa, corev1.EventTypeWarning, failedGetScale, err.Error())
		t.condition(autoscalingv2.AbleToScale, false, failedGetScale, fmt.Sprintf(cannotGetScale, err))
		return err
	}
	t.condition(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	return nil
}
