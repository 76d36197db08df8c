package profile

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/filter"
	"github.com/coracle-dev/coracle/scheduler/plugin"
	"github.com/coracle-dev/coracle/scheduler/score"
)

// always are upstream's plug-ins that stand for what every profile does here: they cannot be left out.
var always = []string{"SchedulingGates", "PrioritySort", "DefaultBinder"}

const preemption = "DefaultPreemption"

// points are the extension points of a profile by name, in upstream's order.
func points(c *configv1.Plugins) []struct {
	name string
	set  *configv1.PluginSet
} {
	return []struct {
		name string
		set  *configv1.PluginSet
	}{
		{"preEnqueue", &c.PreEnqueue}, {"queueSort", &c.QueueSort}, {"preFilter", &c.PreFilter}, {"filter", &c.Filter},
		{"postFilter", &c.PostFilter}, {"preScore", &c.PreScore}, {"score", &c.Score}, {"reserve", &c.Reserve}, {"permit", &c.Permit},
		{"preBind", &c.PreBind}, {"bind", &c.Bind}, {"postBind", &c.PostBind}, {"placementGenerate", &c.PlacementGenerate},
		{"placementScore", &c.PlacementScore}, {"podGroupPostFilter", &c.PodGroupPostFilter},
	}
}

// selection is what is on at one extension point, with the weights given.
type selection struct {
	on      map[string]bool
	weights map[string]int64
}

func (s *selection) apply(set *configv1.PluginSet) {
	for _, d := range set.Disabled {
		if d.Name == "*" {
			clear(s.on)
		}
		delete(s.on, d.Name)
	}
	for _, e := range set.Enabled {
		s.on[e.Name] = true
		if e.Weight != nil && *e.Weight != 0 {
			s.weights[e.Name] = int64(*e.Weight)
		}
	}
}

// at is what is on at a point: the defaults, changed by multiPoint, then by the point itself.
func at(defaults []string, sets ...*configv1.PluginSet) selection {
	s := selection{on: map[string]bool{}, weights: map[string]int64{}}
	for _, name := range defaults {
		s.on[name] = true
	}
	for _, set := range sets {
		s.apply(set)
	}
	return s
}

// plugins settles which filters and scorers a profile runs.
func (r *reader) plugins(path *field.Path, c *configv1.Plugins, p *Profile, external map[string]plugin.Config) {
	if c == nil {
		c = &configv1.Plugins{}
	}
	filters := slices.Concat(filter.Local, filter.Wide)
	scorers := slices.Concat(score.Local, score.Wide)
	r.checkNames(path, c, slices.Concat(filters, scorers, always, []string{preemption}), external)
	everywhere := at(slices.Concat(always, filters, scorers), &c.MultiPoint)
	for point, name := range map[*configv1.PluginSet]string{&c.PreEnqueue: "SchedulingGates", &c.QueueSort: "PrioritySort", &c.Bind: "DefaultBinder"} {
		if own := at(nil, point); !everywhere.on[name] && !own.on[name] || disabled(point, name) && !own.on[name] {
			r.wrong(field.Forbidden(path, name+" cannot be left out"))
		}
	}
	filtering, scoring := at(filters, &c.MultiPoint, &c.Filter), at(scorers, &c.MultiPoint, &c.Score)
	p.Settings.Filters = slices.DeleteFunc(filters, func(name string) bool { return !filtering.on[name] || disabled(&c.PreFilter, name) })
	for name := range p.Settings.Weights {
		switch {
		case !scoring.on[name] || disabled(&c.PreScore, name):
			delete(p.Settings.Weights, name)
		case scoring.weights[name] != 0:
			p.Settings.Weights[name] = scoring.weights[name]
		}
	}
	p.Settings.Preempt = at([]string{preemption}, &c.MultiPoint, &c.PostFilter).on[preemption]
	for _, name := range sorted(external) {
		cfg := external[name]
		cfg.Filter, cfg.Score = filtering.on[name], scoring.on[name]
		cfg.Weight = max(1, scoring.weights[name])
		if cfg.Filter || cfg.Score {
			p.Plugins = append(p.Plugins, cfg)
		}
	}
}

func sorted(external map[string]plugin.Config) []string {
	names := make([]string, 0, len(external))
	for name := range external {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func disabled(set *configv1.PluginSet, name string) bool {
	return slices.ContainsFunc(set.Disabled, func(d configv1.Plugin) bool { return d.Name == name || d.Name == "*" }) &&
		!slices.ContainsFunc(set.Enabled, func(e configv1.Plugin) bool { return e.Name == name })
}

// checkNames refuses plug-ins that there are not, and negative weights.
func (r *reader) checkNames(path *field.Path, c *configv1.Plugins, known []string, external map[string]plugin.Config) {
	check := func(at *field.Path, list []configv1.Plugin) {
		for i, e := range list {
			if _, is := external[e.Name]; !is && !slices.Contains(known, e.Name) {
				r.wrong(field.NotFound(at.Index(i).Child("name"), e.Name))
			}
			if e.Weight != nil && *e.Weight < 0 {
				r.wrong(field.Invalid(at.Index(i).Child("weight"), *e.Weight, "must be greater than or equal to 0"))
			}
		}
	}
	check(path.Child("multiPoint", "enabled"), c.MultiPoint.Enabled)
	for _, point := range points(c) {
		check(path.Child(point.name, "enabled"), point.set.Enabled)
	}
}
