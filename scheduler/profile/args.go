package profile

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/scheduler/plugin"
)

// arguments reads pluginConfig into the settings, and gives the plug-ins out of process that are configured.
func (r *reader) arguments(path *field.Path, list []configv1.PluginConfig, p *Profile) map[string]plugin.Config {
	external := map[string]plugin.Config{}
	seen := map[string]bool{}
	for i := range list {
		at, name := path.Index(i), list[i].Name
		if seen[name] {
			r.wrong(field.Duplicate(at.Child("name"), name))
		}
		seen[name] = true
		if err := r.argument(at.Child("args"), name, list[i].Args.Raw, p, external); err != nil {
			r.wrong(field.Invalid(at.Child("args"), name, err.Error()))
		}
	}
	return external
}

func (r *reader) argument(path *field.Path, name string, raw []byte, p *Profile, external map[string]plugin.Config) error {
	s := &p.Settings
	switch name {
	case "NodeResourcesFit":
		var args configv1.NodeResourcesFitArgs
		if err := yaml.UnmarshalStrict(raw, &args); err != nil {
			return err
		}
		r.checkStrategy(path.Child("scoringStrategy"), args.ScoringStrategy)
		s.FilterArgs.Fit, s.ScoreArgs.Fit = args, args
	case "NodeResourcesBalancedAllocation":
		if err := yaml.UnmarshalStrict(raw, &s.ScoreArgs.Balanced); err != nil {
			return err
		}
		r.checkBalanced(path.Child("resources"), s.ScoreArgs.Balanced.Resources)
	case "InterPodAffinity":
		if err := yaml.UnmarshalStrict(raw, &s.ScoreArgs.InterPod); err != nil {
			return err
		}
		if w := s.ScoreArgs.InterPod.HardPodAffinityWeight; w != nil && (*w < 0 || *w > 100) {
			r.wrong(field.Invalid(path.Child("hardPodAffinityWeight"), *w, "not in valid range [0-100]"))
		}
	case "NodeAffinity":
		var args configv1.NodeAffinityArgs
		if err := yaml.UnmarshalStrict(raw, &args); err != nil {
			return err
		}
		s.FilterArgs.NodeAffinity, s.ScoreArgs.NodeAffinity = args, args
	case "PodTopologySpread":
		var args configv1.PodTopologySpreadArgs
		if err := yaml.UnmarshalStrict(raw, &args); err != nil {
			return err
		}
		r.checkSpread(path, &args)
		s.FilterArgs.Spread, s.ScoreArgs.Spread = args, args
	case "DefaultPreemption":
		return r.preemption(path, raw, p)
	case "VolumeBinding":
		return r.volumes(path, raw, p)
	default:
		cfg, err := plugin.ParseArgs(raw)
		cfg.Name = name
		external[name] = cfg
		return err
	}
	return nil
}

func (r *reader) preemption(path *field.Path, raw []byte, p *Profile) error {
	var args configv1.DefaultPreemptionArgs
	if err := yaml.UnmarshalStrict(raw, &args); err != nil {
		return err
	}
	if n := args.MinCandidateNodesPercentage; n != nil {
		p.Settings.CandidatePercentage = r.percentage(path.Child("minCandidateNodesPercentage"), n, 0)
	}
	if n := args.MinCandidateNodesAbsolute; n != nil {
		p.Settings.CandidateNumber = int(*n)
		if *n < 0 {
			r.wrong(field.Invalid(path.Child("minCandidateNodesAbsolute"), *n, "not in valid range [0, inf)"))
		}
	}
	if p.Settings.CandidateNumber == 0 && p.Settings.CandidatePercentage == 0 {
		r.wrong(field.Invalid(path, "0", "minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero"))
	}
	return nil
}

func (r *reader) volumes(path *field.Path, raw []byte, p *Profile) error {
	var args configv1.VolumeBindingArgs
	if err := yaml.UnmarshalStrict(raw, &args); err != nil {
		return err
	}
	if s := args.BindTimeoutSeconds; s != nil {
		p.BindTimeout = time.Duration(*s) * time.Second
		if *s <= 0 {
			r.wrong(field.Invalid(path.Child("bindTimeoutSeconds"), *s, "must be greater than 0"))
		}
	}
	if len(args.Shape) > 0 {
		r.wrong(field.Forbidden(path.Child("shape"), "storage capacity does not score"))
	}
	return nil
}

func (r *reader) checkStrategy(path *field.Path, s *configv1.ScoringStrategy) {
	if s == nil {
		return
	}
	types := []configv1.ScoringStrategyType{configv1.LeastAllocated, configv1.MostAllocated, configv1.RequestedToCapacityRatio}
	if s.Type != "" && !slices.Contains(types, s.Type) {
		r.wrong(field.NotSupported(path.Child("type"), s.Type, types))
	}
	for i := range s.Resources {
		if s.Resources[i].Weight == 0 {
			s.Resources[i].Weight = 1
		}
		if w := s.Resources[i].Weight; w < 1 || w > 100 {
			r.wrong(field.Invalid(path.Child("resources").Index(i).Child("weight"), w, fmt.Sprintf("resource weight of %s not in valid range [1, 100]", s.Resources[i].Name)))
		}
	}
	if s.Type != configv1.RequestedToCapacityRatio {
		return
	}
	if s.RequestedToCapacityRatio == nil || len(s.RequestedToCapacityRatio.Shape) == 0 {
		r.wrong(field.Required(path.Child("requestedToCapacityRatio").Child("shape"), "at least one point must be specified"))
		return
	}
	r.checkShape(path.Child("requestedToCapacityRatio").Child("shape"), s.RequestedToCapacityRatio.Shape)
}

func (r *reader) checkShape(path *field.Path, shape []configv1.UtilizationShapePoint) {
	for i, point := range shape {
		at := path.Index(i)
		if point.Utilization < 0 || point.Utilization > 100 {
			r.wrong(field.Invalid(at.Child("utilization"), point.Utilization, "not in valid range [0-100]"))
		}
		if point.Score < 0 || point.Score > 10 {
			r.wrong(field.Invalid(at.Child("score"), point.Score, "not in valid range [0-10]"))
		}
		if i > 0 && shape[i-1].Utilization >= point.Utilization {
			r.wrong(field.Invalid(at.Child("utilization"), point.Utilization, "utilization values must be sorted in increasing order"))
		}
	}
}

func (r *reader) checkBalanced(path *field.Path, resources []configv1.ResourceSpec) {
	if len(resources) > 8 {
		r.wrong(field.TooMany(path, len(resources), 8))
	}
	for i := range resources {
		if resources[i].Weight == 0 {
			resources[i].Weight = 1
		}
		if resources[i].Weight != 1 {
			r.wrong(field.Invalid(path.Index(i).Child("weight"), resources[i].Weight, "must be 1"))
		}
	}
}

func (r *reader) checkSpread(path *field.Path, args *configv1.PodTopologySpreadArgs) {
	kinds := []configv1.PodTopologySpreadConstraintsDefaulting{configv1.SystemDefaulting, configv1.ListDefaulting}
	if args.DefaultingType == "" {
		args.DefaultingType = configv1.SystemDefaulting
	}
	if !slices.Contains(kinds, args.DefaultingType) {
		r.wrong(field.NotSupported(path.Child("defaultingType"), args.DefaultingType, kinds))
	}
	if args.DefaultingType == configv1.SystemDefaulting && len(args.DefaultConstraints) > 0 {
		r.wrong(field.Invalid(path.Child("defaultingType"), args.DefaultingType, "when .defaultConstraints are not empty"))
	}
	for i, c := range args.DefaultConstraints {
		at := path.Child("defaultConstraints").Index(i)
		if c.MaxSkew <= 0 {
			r.wrong(field.Invalid(at.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
		}
		if c.TopologyKey == "" {
			r.wrong(field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			r.wrong(field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		if c.LabelSelector != nil {
			r.wrong(field.Forbidden(at.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
		}
	}
}
