package recommend

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// Bounds are what an autoscaler allows.
type Bounds struct {
	Min, Max int32
	// Behavior is nil for the one that was there before there was a choice: at most twice as many at once, or four.
	Behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
	// Window is how long a high recommendation keeps replicas from going, unless Behavior says otherwise.
	Window time.Duration
}

// Verdict is how many replicas to ask for, with what the conditions AbleToScale and ScalingLimited say of it.
type Verdict struct {
	Replicas                     int32
	Reason, Message              string
	Limited                      bool
	LimitedReason, LimitedDetail string
}

// History is what was recommended and done before. Its zero value is empty.
type History struct {
	recommended []change
	up, down    []change
}

// change is a number of replicas at a time.
type change struct {
	at       time.Time
	replicas int32
}

const (
	readyForNewScale = "ReadyForNewScale"
	isCurrent        = "recommended size matches current size"
	withinRange      = "DesiredWithinRange"
	isWithinRange    = "the desired count is within the acceptable range"
	tooMany          = "TooManyReplicas"
	isTooMany        = "the desired replica count is more than the maximum replica count"
	tooFew           = "TooFewReplicas"
	isTooFew         = "the desired replica count is less than the minimum replica count"
	upLimit          = "ScaleUpLimit"
	isUpLimit        = "the desired replica count is increasing faster than the maximum scale rate"
	downLimit        = "ScaleDownLimit"
	isDownLimit      = "the desired replica count is decreasing faster than the maximum scale rate"
	lowest           = "recent recommendations were lower than current one, applying the lowest recent recommendation"
	highest          = "recent recommendations were higher than current one, applying the highest recent recommendation"
)

// Begin takes what is there for the first recommendation, unless there was one.
func (h *History) Begin(current int32, now time.Time) {
	if len(h.recommended) == 0 {
		h.recommended = []change{{now, current}}
	}
}

// Judge turns a desired number of replicas into the one to ask for, and remembers what was desired.
func (h *History) Judge(b Bounds, current, desired int32, now time.Time) Verdict {
	v := Verdict{Reason: readyForNewScale, Message: isCurrent, LimitedReason: withinRange, LimitedDetail: isWithinRange}
	stable := h.stabilize(b, current, desired, now)
	switch {
	case stable == desired:
	case b.Behavior != nil && desired >= current:
		v.Reason, v.Message = "ScaleUpStabilized", lowest
	default:
		v.Reason, v.Message = "ScaleDownStabilized", highest
	}
	least, most := b.Min, b.Max
	low, high := [2]string{tooFew, isTooFew}, [2]string{tooMany, isTooMany}
	if stable > current || b.Behavior == nil {
		if limit := max(h.upLimit(b, current, now), least); limit < most {
			most, high = limit, [2]string{upLimit, isUpLimit}
		}
	}
	if stable < current && b.Behavior != nil {
		if limit := h.downLimit(b, current, now); limit > least {
			least, low = limit, [2]string{downLimit, isDownLimit}
		}
	}
	v.Replicas = stable
	switch {
	case stable < least:
		v.Replicas, v.LimitedReason, v.LimitedDetail, v.Limited = least, low[0], low[1], true
	case stable > most:
		v.Replicas, v.LimitedReason, v.LimitedDetail, v.Limited = most, high[0], high[1], true
	}
	return v
}

// stabilize keeps to the least change that was recommended within the window of its direction.
func (h *History) stabilize(b Bounds, current, desired int32, now time.Time) int32 {
	upWindow, downWindow := windows(b)
	least, most := desired, desired // what the recent recommendations agree on
	for _, r := range h.recommended {
		if r.at.After(now.Add(-upWindow)) {
			least = min(least, r.replicas)
		}
		if r.at.After(now.Add(-downWindow)) {
			most = max(most, r.replicas)
		}
	}
	h.recommended = append(since(h.recommended, now.Add(-max(upWindow, downWindow))), change{now, desired})
	if b.Behavior == nil {
		return most
	}
	return min(max(current, least), most)
}

func windows(b Bounds) (up, down time.Duration) {
	down = b.Window
	if b.Behavior == nil {
		return 0, down
	}
	seconds := func(r *autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
		if r == nil || r.StabilizationWindowSeconds == nil {
			return otherwise
		}
		return time.Duration(*r.StabilizationWindowSeconds) * time.Second
	}
	return seconds(b.Behavior.ScaleUp, 0), seconds(b.Behavior.ScaleDown, down)
}

// since drops what was before a time.
func since(list []change, from time.Time) []change {
	var kept []change
	for _, c := range list {
		if !c.at.Before(from) {
			kept = append(kept, c)
		}
	}
	return kept
}

// Scaled notes that replicas have been asked for: policies limit how many within a period.
func (h *History) Scaled(b Bounds, from, to int32, now time.Time) {
	if b.Behavior == nil {
		return
	}
	oldest := now.Add(-max(longest(b.Behavior.ScaleUp), longest(b.Behavior.ScaleDown)))
	h.up, h.down = since(h.up, oldest), since(h.down, oldest)
	switch {
	case to > from:
		h.up = append(h.up, change{now, to - from})
	case to < from:
		h.down = append(h.down, change{now, from - to})
	}
}

func longest(r *autoscalingv2.HPAScalingRules) time.Duration {
	var d time.Duration
	if r != nil {
		for _, p := range r.Policies {
			d = max(d, period(p))
		}
	}
	return d
}

func period(p autoscalingv2.HPAScalingPolicy) time.Duration {
	return time.Duration(p.PeriodSeconds) * time.Second
}

// upLimit is how many replicas the policies allow at most.
func (h *History) upLimit(b Bounds, current int32, now time.Time) int32 {
	if b.Behavior == nil {
		return int32(min(max(2*int64(current), 4), math.MaxInt32))
	}
	return h.limit(b.Behavior.ScaleUp, current, now, 1)
}

// downLimit is how many replicas the policies leave at least.
func (h *History) downLimit(b Bounds, current int32, now time.Time) int32 {
	return h.limit(b.Behavior.ScaleDown, current, now, -1)
}

// limit is as far as the rules allow to go in a direction, which is 1 or -1, and never behind what is there.
func (h *History) limit(r *autoscalingv2.HPAScalingRules, current int32, now time.Time, direction float64) int32 {
	if r == nil || len(r.Policies) == 0 {
		if direction > 0 {
			return math.MaxInt32
		}
		return 0
	}
	selected := ptr.Deref(r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if selected == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var farthest float64
	for i, p := range r.Policies {
		begin := float64(current) - float64(within(h.up, now.Add(-period(p)))) + float64(within(h.down, now.Add(-period(p))))
		to := begin + direction*float64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			to = begin * (1 + direction*float64(p.Value)/100)
		}
		if direction > 0 {
			to = math.Ceil(to)
		} else {
			to = math.Trunc(to)
		}
		further := to*direction > farthest*direction
		if i == 0 || further == (selected != autoscalingv2.MinChangePolicySelect) {
			farthest = to
		}
	}
	if farthest*direction < float64(current)*direction {
		return current
	}
	return int32(min(max(farthest, 0), math.MaxInt32))
}

// within sums up what changed after a time.
func within(list []change, after time.Time) int32 {
	var sum int32
	for _, c := range list {
		if c.at.After(after) {
			sum += c.replicas
		}
	}
	return sum
}
