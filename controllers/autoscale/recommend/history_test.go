package recommend

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

type rules = autoscalingv2.HPAScalingRules

func policies(window int32, selected autoscalingv2.ScalingPolicySelect, list ...autoscalingv2.HPAScalingPolicy) *rules {
	return &rules{StabilizationWindowSeconds: &window, SelectPolicy: &selected, Policies: list}
}

func podsPer(n, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: seconds}
}

func percentPer(n, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: seconds}
}

// course judges the same desired number every quarter minute and does as it is told.
func course(b Bounds, current, desired int32, steps int) []int32 {
	h, at := &History{}, now
	var list []int32
	for range steps {
		h.Begin(current, at)
		v := h.Judge(b, current, desired, at)
		if v.Replicas != current {
			h.Scaled(b, current, v.Replicas, at)
			current = v.Replicas
		}
		list = append(list, current)
		at = at.Add(15 * time.Second)
	}
	return list
}

const (
	most  = autoscalingv2.MaxChangePolicySelect
	least = autoscalingv2.MinChangePolicySelect
)

// TestCourses are the examples that upstream documents, and their like.
func TestCourses(t *testing.T) {
	defaultUp := policies(0, most, podsPer(4, 15), percentPer(100, 15))
	defaultDown := policies(0, most, percentPer(100, 15))
	behavior := func(up, down *rules) *autoscalingv2.HorizontalPodAutoscalerBehavior {
		return &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: up, ScaleDown: down}
	}
	for name, c := range map[string]struct {
		behavior         *autoscalingv2.HorizontalPodAutoscalerBehavior
		current, desired int32
		want             []int32
	}{
		"no behaviour doubles, or takes four":            {nil, 1, 100, []int32{4, 8, 16, 32, 64, 100}},
		"the default behaviour as well":                  {behavior(defaultUp, defaultDown), 1, 100, []int32{5, 10, 20, 40, 80, 100}},
		"nine times as many more a minute":               {behavior(policies(0, most, percentPer(900, 60)), defaultDown), 1, 1000, []int32{10, 10, 10, 10, 100, 100, 100, 100, 1000}},
		"one pod a minute":                               {behavior(policies(0, most, podsPer(1, 60)), defaultDown), 1, 9, []int32{2, 2, 2, 2, 3, 3, 3, 3, 4}},
		"the lesser of two":                              {behavior(policies(0, least, podsPer(4, 15), percentPer(10, 15)), defaultDown), 10, 100, []int32{11, 13, 15}},
		"never up":                                       {behavior(policies(0, autoscalingv2.DisabledPolicySelect, podsPer(1, 15)), defaultDown), 3, 9, []int32{3, 3}},
		"down at once":                                   {behavior(defaultUp, defaultDown), 80, 10, []int32{10}},
		"down by four a minute or a tenth, what is more": {behavior(defaultUp, policies(0, most, podsPer(4, 60), percentPer(10, 60))), 80, 10, []int32{72, 72, 72, 72, 64, 64, 64, 64, 57}},
		"down by five pods a minute at most":             {behavior(defaultUp, policies(0, least, percentPer(10, 60), podsPer(5, 60))), 80, 10, []int32{75, 75, 75, 75, 70}},
		"never down":                                     {behavior(defaultUp, policies(0, autoscalingv2.DisabledPolicySelect, percentPer(100, 15))), 8, 1, []int32{8, 8, 8}},
		"rules that say nothing":                         {behavior(nil, &rules{StabilizationWindowSeconds: ptr.To[int32](0)}), 8, 2, []int32{2}},
	} {
		t.Run(name, func(t *testing.T) {
			got := course(Bounds{Min: 1, Max: 1000, Behavior: c.behavior}, c.current, c.desired, len(c.want))
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("%v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestWindowsStabilize(t *testing.T) {
	b := Bounds{Min: 1, Max: 100, Window: 5 * time.Minute}
	h := &History{}
	h.Begin(10, now)
	if v := h.Judge(b, 10, 3, now.Add(time.Minute)); v.Replicas != 10 || v.Reason != "ScaleDownStabilized" || v.Message != "recent recommendations were higher than current one, applying the highest recent recommendation" {
		t.Fatalf("%+v", v)
	}
	if v := h.Judge(b, 10, 2, now.Add(5*time.Minute+time.Second)); v.Replicas != 3 || v.Reason != "ScaleDownStabilized" {
		t.Fatalf("%+v", v)
	}
	if v := h.Judge(b, 3, 6, now.Add(6*time.Minute)); v.Replicas != 6 || v.Reason != "ReadyForNewScale" || v.Message != "recommended size matches current size" {
		t.Fatalf("%+v", v)
	}

	b.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: policies(60, most, percentPer(1000, 15)), ScaleDown: policies(120, most, percentPer(100, 15))}
	h = &History{}
	h.Begin(5, now)
	for _, step := range []struct {
		seconds          int
		current, desired int32
		want             int32
		reason           string
	}{
		{15, 5, 9, 5, "ScaleUpStabilized"},
		{30, 5, 7, 5, "ScaleUpStabilized"},
		{61, 5, 8, 7, "ScaleUpStabilized"},
		{76, 7, 2, 7, "ScaleDownStabilized"},
		{140, 7, 2, 7, "ScaleDownStabilized"},
		{182, 7, 1, 2, "ScaleDownStabilized"},
		{320, 2, 1, 1, "ReadyForNewScale"},
	} {
		v := h.Judge(b, step.current, step.desired, now.Add(time.Duration(step.seconds)*time.Second))
		if v.Replicas != step.want || v.Reason != step.reason {
			t.Fatalf("after %d s: %+v, want %d %s", step.seconds, v, step.want, step.reason)
		}
	}
}

func TestLimitsAreTold(t *testing.T) {
	slow := &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: policies(0, most, podsPer(1, 60)), ScaleDown: policies(0, most, podsPer(1, 60))}
	for _, c := range []struct {
		behavior         *autoscalingv2.HorizontalPodAutoscalerBehavior
		current, desired int32
		want             int32
		reason           string
	}{
		{nil, 4, 5, 5, "DesiredWithinRange"}, {nil, 9, 30, 10, "TooManyReplicas"}, {nil, 3, 9, 6, "ScaleUpLimit"}, {nil, 4, 1, 2, "TooFewReplicas"},
		{slow, 4, 4, 4, "DesiredWithinRange"}, {slow, 4, 8, 5, "ScaleUpLimit"}, {slow, 9, 20, 10, "TooManyReplicas"}, {slow, 5, 1, 4, "ScaleDownLimit"}, {slow, 3, 0, 2, "TooFewReplicas"},
		{nil, 0, 0, 2, "TooFewReplicas"}, {slow, 0, 1, 2, "TooFewReplicas"}, {slow, 0, 9, 2, "ScaleUpLimit"},
	} {
		v := (&History{}).Judge(Bounds{Min: 2, Max: 10, Behavior: c.behavior}, c.current, c.desired, now)
		if v.Replicas != c.want || v.LimitedReason != c.reason || v.Limited != (c.reason != "DesiredWithinRange") {
			t.Errorf("%d to %d: %+v, want %d %s", c.current, c.desired, v, c.want, c.reason)
		}
	}
}

func drawRules(t *rapid.T, name string) *rules {
	r := policies(int32(rapid.SampledFrom([]int{0, 15, 60, 300}).Draw(t, name+" window")), rapid.SampledFrom([]autoscalingv2.ScalingPolicySelect{most, least}).Draw(t, name))
	for range rapid.IntRange(1, 3).Draw(t, name+" policies") {
		p := podsPer(int32(rapid.IntRange(1, 20).Draw(t, "value")), int32(rapid.SampledFrom([]int{10, 15, 60, 180}).Draw(t, "period")))
		if rapid.Bool().Draw(t, "percent") {
			p = percentPer(int32(rapid.IntRange(1, 200).Draw(t, "value")), p.PeriodSeconds)
		}
		r.Policies = append(r.Policies, p)
	}
	return r
}

// step is a moment in the life of a target: replicas after it.
type step struct {
	at       time.Time
	replicas int32
}

// before is how many replicas there were at a time.
func before(steps []step, at time.Time) int32 {
	n := steps[0].replicas
	for _, s := range steps {
		if s.at.After(at) {
			break
		}
		n = s.replicas
	}
	return n
}

// TestBoundsAndRates lives through random loads: replicas stay in bounds, and over the period of a policy they never change by more than the
// most (or, where the least is chosen, each) of the policies allows.
func TestBoundsAndRates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bounds{Min: int32(rapid.IntRange(1, 5).Draw(t, "min")), Window: 5 * time.Minute}
		b.Max = b.Min + int32(rapid.IntRange(0, 100).Draw(t, "span"))
		b.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: drawRules(t, "up"), ScaleDown: drawRules(t, "down")}
		h, at := &History{}, now
		current := int32(rapid.IntRange(int(b.Min), int(b.Max)).Draw(t, "begin"))
		life := []step{{at, current}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second)
			h.Begin(current, at)
			desired := int32(rapid.IntRange(0, 150).Draw(t, "desired"))
			calm := unanimous(h, current)
			v := h.Judge(b, current, desired, at)
			switch {
			case v.Replicas < b.Min || v.Replicas > b.Max:
				t.Fatalf("%d is not in %d..%d", v.Replicas, b.Min, b.Max)
			case calm && (desired >= current && v.Replicas < current || desired <= current && v.Replicas > current):
				t.Fatalf("%d was desired, %d are there, and it is to be %d", desired, current, v.Replicas)
			}
			if v.Replicas != current {
				checkRate(t, b, life, at, current, v.Replicas)
				h.Scaled(b, current, v.Replicas, at)
				current = v.Replicas
				life = append(life, step{at, current})
			}
		}
	})
}

// unanimous tells whether all that was recommended before is what is there.
func unanimous(h *History, current int32) bool {
	for _, r := range h.recommended {
		if r.replicas != current {
			return false
		}
	}
	return true
}

func checkRate(t *rapid.T, b Bounds, life []step, at time.Time, current, to int32) {
	r, direction := b.Behavior.ScaleUp, 1.0
	if to < current {
		r, direction = b.Behavior.ScaleDown, -1
	}
	kept, all := false, true
	for _, p := range r.Policies {
		begin := float64(before(life, at.Add(-period(p))))
		allowed := float64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			allowed = begin*allowed/100 + 1 // rounded to the next pod
		}
		ok := (float64(to)-begin)*direction <= allowed
		kept, all = kept || ok, all && ok
	}
	if *r.SelectPolicy == least && !all || !kept {
		t.Fatalf("from %d to %d at %v breaks %+v after %+v", current, to, at.Sub(now), r.Policies, life)
	}
}

// TestMoreLoadNeverMeansFewer compares two verdicts on the same past.
func TestMoreLoadNeverMeansFewer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bounds{Min: 1, Max: 50, Window: time.Minute}
		if rapid.Bool().Draw(t, "behaviour") {
			b.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: drawRules(t, "up"), ScaleDown: drawRules(t, "down")}
		}
		var less, more History
		at, current := now, int32(rapid.IntRange(1, 50).Draw(t, "begin"))
		for range rapid.IntRange(0, 10).Draw(t, "past") {
			at = at.Add(20 * time.Second)
			desired := int32(rapid.IntRange(0, 80).Draw(t, "desired"))
			v, w := less.Judge(b, current, desired, at), more.Judge(b, current, desired, at)
			if v != w {
				t.Fatalf("%+v is not %+v", v, w)
			}
			less.Scaled(b, current, v.Replicas, at)
			more.Scaled(b, current, v.Replicas, at)
			current = v.Replicas
		}
		at = at.Add(20 * time.Second)
		low := int32(rapid.IntRange(0, 80).Draw(t, "low"))
		high := low + int32(rapid.IntRange(0, 20).Draw(t, "more"))
		if v, w := less.Judge(b, current, low, at), more.Judge(b, current, high, at); w.Replicas < v.Replicas {
			t.Fatalf("%d desired: %d; %d desired: %d", low, v.Replicas, high, w.Replicas)
		}
	})
}
