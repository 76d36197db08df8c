package score

import (
	configv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/coracle-dev/coracle/scheduler/model"
)

// interPod prefers nodes near the pods that this one, or that they, would like to be near.
type interPod struct {
	hardWeight     int64
	ignoreExisting bool // preferred terms of placed pods count only for pods that have terms of their own

	wants []wish
	terms []placedWish
}

// wish is a term of the pod: the weight for each pod that it speaks of.
type wish struct {
	topology *model.Topology
	counts   []int32
	weight   int64
}

// placedWish is a term of placed pods: the sum of their weights in each domain, times weight.
type placedWish struct {
	topology *model.Topology
	term     *model.PlacedTerm
	weight   int64
}

func newInterPod(args configv1.InterPodAffinityArgs) *interPod {
	s := &interPod{hardWeight: 1, ignoreExisting: args.IgnorePreferredTermsOfExistingPods}
	if args.HardPodAffinityWeight != nil {
		s.hardWeight = int64(*args.HardPodAffinityWeight)
	}
	return s
}

func (*interPod) Name() string { return "InterPodAffinity" }

func (s *interPod) Prepare(pod *model.Pod, cluster *model.Cluster, _ []*model.Node) bool {
	s.wants, s.terms = s.wants[:0], s.terms[:0]
	for _, t := range pod.Preferred {
		topology := cluster.Topology(t.TopologyKey)
		s.wants = append(s.wants, wish{topology, cluster.Count(&t.Selection).In(topology), t.Weight})
	}
	if len(pod.Preferred) == 0 && s.ignoreExisting {
		return false
	}
	add := func(weight int64) func(*model.PlacedTerm) {
		return func(t *model.PlacedTerm) {
			s.terms = append(s.terms, placedWish{cluster.Topology(t.TopologyKey), t, weight})
		}
	}
	if s.hardWeight > 0 {
		cluster.AffinityTerms().About(pod, cluster, add(s.hardWeight))
	}
	cluster.PreferredTerms().About(pod, cluster, add(1))
	return len(s.wants)+len(s.terms) > 0
}

func (s *interPod) Score(node *model.Node) int64 {
	var sum int64
	for i := range s.wants {
		w := &s.wants[i]
		if id, has := w.topology.Domain(node); has && int(id) < len(w.counts) {
			sum += int64(w.counts[id]) * w.weight
		}
	}
	for i := range s.terms {
		w := &s.terms[i]
		if id, has := w.topology.Domain(node); has {
			sum += w.term.Sums[id] * w.weight
		}
	}
	return sum
}

func (s *interPod) Normalize(scores []int64) {
	var least, most int64
	for i, v := range scores {
		if i == 0 {
			least, most = v, v
		}
		least, most = min(least, v), max(most, v)
	}
	for i, v := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = int64(Max * (float64(v-least) / float64(most-least)))
		}
	}
}
