// Package eviction keeps the node from running out of memory, disk and process IDs: it observes what is left, tells
// the node's conditions, and where a threshold is crossed first gives back what nobody needs and then ends pods, one at a
// time, those first that use more than they asked for. It follows the kubelet's node-pressure eviction
// (https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/).
//
// Invariant: what is done depends on observations, times and pods alone (pressure, rank); Manager reads, decides by them and acts.
package eviction

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that can run out.
type Signal string

// The signals, by the names that flags have for them.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Resources that only messages name.
const (
	resourceInodes v1.ResourceName = "inodes"
	resourcePIDs   v1.ResourceName = "pids"
)

// signals are what each signal is about, and the condition that the node is in when it is low.
var signals = map[Signal]struct {
	resource  v1.ResourceName
	condition v1.NodeConditionType
}{
	MemoryAvailable:   {v1.ResourceMemory, v1.NodeMemoryPressure},
	NodeFsAvailable:   {v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	NodeFsInodesFree:  {resourceInodes, v1.NodeDiskPressure},
	ImageFsAvailable:  {v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	ImageFsInodesFree: {resourceInodes, v1.NodeDiskPressure},
	PIDAvailable:      {resourcePIDs, v1.NodePIDPressure},
}

// Amount is a quantity, or a fraction of what there is.
type Amount struct {
	Quantity int64
	Fraction float64 // of the capacity, in (0, 1); zero is Quantity
}

// Of is the amount in units of the resource, given how much of it there is.
func (a Amount) Of(capacity int64) int64 {
	if a.Fraction > 0 {
		return int64(float64(capacity) * a.Fraction)
	}
	return a.Quantity
}

// Threshold is crossed when less than Less is available. A soft one has a Grace for which that must last.
type Threshold struct {
	Signal Signal
	Less   Amount
	Grace  time.Duration
	// MinReclaim is how much more than the threshold is to be available again before the node is left alone.
	MinReclaim Amount
}

// hard thresholds act at once, and pods get no grace.
func (t Threshold) hard() bool { return t.Grace == 0 }

// Policy is how the node guards itself.
type Policy struct {
	Thresholds []Threshold
	// MaxPodGrace bounds the grace of pods that a soft threshold ends.
	MaxPodGrace time.Duration
	// Transition is for how long a condition stays after it was last observed.
	Transition time.Duration
	// Interval is how often the node is looked at; zero is 10 seconds.
	Interval time.Duration
}

// Flags are the kubelet's, as given: SIGNAL<AMOUNT, or SIGNAL=AMOUNT for the lists that have =, separated by commas.
type Flags struct {
	Hard, Soft               []string
	SoftGrace, MinReclaim    map[string]string
	MaxPodGrace              int // seconds
	PressureTransitionPeriod time.Duration
}

// DefaultHard are the thresholds of a node for which none are given.
var DefaultHard = []string{"memory.available<100Mi", "nodefs.available<10%", "nodefs.inodesFree<5%", "imagefs.available<15%", "imagefs.inodesFree<5%"}

// DefaultTransition is for how long a condition stays unless said otherwise.
const DefaultTransition = 5 * time.Minute

// DefaultPolicy is that of a node without flags.
func DefaultPolicy() Policy {
	p, err := Flags{Hard: DefaultHard, PressureTransitionPeriod: DefaultTransition}.Policy()
	if err != nil {
		panic("eviction: " + err.Error())
	}
	return p
}

// Policy checks the flags and puts them together.
func (f Flags) Policy() (Policy, error) {
	p := Policy{MaxPodGrace: time.Duration(f.MaxPodGrace) * time.Second, Transition: f.PressureTransitionPeriod}
	hard, err := parseThresholds(f.Hard)
	if err != nil {
		return p, err
	}
	soft, err := parseThresholds(f.Soft)
	if err != nil {
		return p, err
	}
	for name := range f.SoftGrace {
		if _, ok := signals[Signal(name)]; !ok {
			return p, fmt.Errorf("unsupported eviction signal %q", name)
		}
	}
	for i := range soft {
		s := string(soft[i].Signal)
		if soft[i].Grace, err = time.ParseDuration(f.SoftGrace[s]); err != nil || soft[i].Grace <= 0 {
			return p, fmt.Errorf("grace period must be specified for the soft eviction threshold %s", s)
		}
	}
	p.Thresholds = slices.Concat(hard, soft)
	for _, name := range slices.Sorted(maps.Keys(f.MinReclaim)) {
		if _, ok := signals[Signal(name)]; !ok {
			return p, fmt.Errorf("unsupported eviction signal %q", name)
		}
		amount, err := parseAmount(f.MinReclaim[name])
		if err != nil {
			return p, fmt.Errorf("minimum reclaim of %s: %w", name, err)
		}
		for i := range p.Thresholds {
			if p.Thresholds[i].Signal == Signal(name) {
				p.Thresholds[i].MinReclaim = amount
			}
		}
	}
	return p, nil
}

func parseThresholds(list []string) ([]Threshold, error) {
	byName := map[Signal]string{}
	for _, item := range list {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, text, ok := strings.Cut(item, "<")
		if !ok { // as a file's map is given
			name, text, ok = strings.Cut(item, "=")
		}
		if !ok {
			return nil, fmt.Errorf("eviction threshold %q: want SIGNAL<AMOUNT, as memory.available<100Mi", item)
		}
		if _, ok := signals[Signal(name)]; !ok {
			return nil, fmt.Errorf("unsupported eviction signal %q", name)
		}
		byName[Signal(name)] = text
	}
	var out []Threshold
	for name, text := range byName {
		if text == "0%" || text == "100%" { // as the kubelet has it: the way to say that there is none
			continue
		}
		amount, err := parseAmount(text)
		if err != nil {
			return nil, fmt.Errorf("eviction threshold %s: %w", name, err)
		}
		out = append(out, Threshold{Signal: name, Less: amount})
	}
	slices.SortFunc(out, func(a, b Threshold) int { return cmp.Compare(a.Signal, b.Signal) })
	return out, nil
}

func parseAmount(text string) (Amount, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || percent < 0 || percent > 100 {
			return Amount{}, fmt.Errorf("%q is not a percentage from 0%% to 100%%", text)
		}
		return Amount{Fraction: percent / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return Amount{}, fmt.Errorf("%q: %w", text, err)
	}
	if q.Sign() < 0 {
		return Amount{}, fmt.Errorf("%q is negative", text)
	}
	return Amount{Quantity: q.Value()}, nil
}

// Reserved is what the hard thresholds keep pods from using, of a node with that much memory and storage in bytes: it is
// not offered to them in the first place.
func (p Policy) Reserved(memory, storage int64) (ofMemory, ofStorage int64) {
	for _, t := range p.Thresholds {
		switch {
		case !t.hard():
		case t.Signal == MemoryAvailable:
			ofMemory = t.Less.Of(memory)
		case t.Signal == NodeFsAvailable:
			ofStorage = t.Less.Of(storage)
		}
	}
	return ofMemory, ofStorage
}
