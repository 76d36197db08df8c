package decide

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// reference is a scheduler that is slow and obvious: it keeps nothing but the objects, and recounts everything for every question. What
// it says is what upstream's documentation of the plug-ins says.
type reference struct {
	nodes      map[string]*corev1.Node
	pods       map[types.UID]*corev1.Pod // placed, with spec.nodeName
	namespaces map[string]map[string]string
	services   []*corev1.Service
}

func (r *reference) on(node string) (pods []*corev1.Pod) {
	for _, p := range r.pods {
		if p.Spec.NodeName == node {
			pods = append(pods, p)
		}
	}
	return pods
}

// feasible are the names of the nodes that can run the pod.
func (r *reference) feasible(pod *corev1.Pod) map[string]bool {
	fits := map[string]bool{}
	for name, node := range r.nodes {
		if r.local(pod, node) && r.spreads(pod, node) && r.affine(pod, node) {
			fits[name] = true
		}
	}
	return fits
}

func tolerates(pod *corev1.Pod, taint corev1.Taint) bool {
	return schedulinghelper.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false)
}

func (r *reference) local(pod *corev1.Pod, node *corev1.Node) bool {
	if node.Spec.Unschedulable && !tolerates(pod, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return false
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod, taint) {
			return false
		}
	}
	if match, _ := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); !match {
		return false
	}
	cpu, memory, number := cpuOf(pod, 0), memoryOf(pod, 0), int64(1)
	var ports []int32
	for _, p := range r.on(node.Name) {
		cpu, memory, number = cpu+cpuOf(p, 0), memory+memoryOf(p, 0), number+1
		ports = append(ports, portsOf(p)...)
	}
	for _, port := range portsOf(pod) {
		if slices.Contains(ports, port) {
			return false
		}
	}
	have := node.Status.Allocatable
	return (cpuOf(pod, 0) == 0 || cpu <= have.Cpu().MilliValue()) && (memoryOf(pod, 0) == 0 || memory <= have.Memory().Value()) && number <= have.Pods().Value()
}

// cpuOf is what one container, the only one here, asks for; otherwise where it states nothing.
func cpuOf(pod *corev1.Pod, otherwise int64) int64 {
	if q, has := pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU]; has {
		return q.MilliValue()
	}
	return otherwise
}

func memoryOf(pod *corev1.Pod, otherwise int64) int64 {
	if q, has := pod.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory]; has {
		return q.Value()
	}
	return otherwise
}

func portsOf(pod *corev1.Pod) (ports []int32) {
	for _, p := range pod.Spec.Containers[0].Ports {
		ports = append(ports, p.HostPort)
	}
	return ports
}

// constraints are the pod's own of one sort.
func constraints(pod *corev1.Pod, how corev1.UnsatisfiableConstraintAction) (list []corev1.TopologySpreadConstraint) {
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == how {
			list = append(list, c)
		}
	}
	return list
}

func spreadSelects(c *corev1.TopologySpreadConstraint, pod, other *corev1.Pod) bool {
	if pod.Namespace != other.Namespace || other.DeletionTimestamp != nil {
		return false
	}
	for _, key := range c.MatchLabelKeys {
		if value, has := pod.Labels[key]; has && other.Labels[key] != value {
			return false
		}
	}
	selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
	return selector.Matches(labels.Set(other.Labels))
}

// counted tells whether a node counts for a constraint, which is looked at with the others of its sort.
func counted(c *corev1.TopologySpreadConstraint, all []corev1.TopologySpreadConstraint, pod *corev1.Pod, node *corev1.Node) bool {
	for i := range all {
		if _, has := node.Labels[all[i].TopologyKey]; !has {
			return false
		}
	}
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if match, _ := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); !match {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		for _, taint := range node.Spec.Taints {
			if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod, taint) {
				return false
			}
		}
	}
	return true
}

func (r *reference) spreads(pod *corev1.Pod, node *corev1.Node) bool {
	hard := constraints(pod, corev1.DoNotSchedule)
	for i := range hard {
		c := &hard[i]
		value, has := node.Labels[c.TopologyKey]
		if !has {
			return false
		}
		counts := r.domains(c, hard, pod)
		least := math.MaxInt
		for _, n := range counts {
			least = min(least, n)
		}
		if c.MinDomains != nil && len(counts) < int(*c.MinDomains) || len(counts) == 0 {
			least = 0
		}
		n := counts[value]
		if spreadSelects(c, pod, pod) {
			n++
		}
		if n-least > int(c.MaxSkew) {
			return false
		}
	}
	return true
}

// domains counts the constraint's pods by domain, over nodes that count.
func (r *reference) domains(c *corev1.TopologySpreadConstraint, all []corev1.TopologySpreadConstraint, pod *corev1.Pod) map[string]int {
	counts := map[string]int{}
	for _, node := range r.nodes {
		if !counted(c, all, pod, node) {
			continue
		}
		counts[node.Labels[c.TopologyKey]] += 0
		for _, other := range r.on(node.Name) {
			if spreadSelects(c, pod, other) {
				counts[node.Labels[c.TopologyKey]]++
			}
		}
	}
	return counts
}

// speaks tells whether owner's term speaks of the target.
func (r *reference) speaks(term *corev1.PodAffinityTerm, owner, target *corev1.Pod) bool {
	in := slices.Contains(term.Namespaces, target.Namespace)
	if term.NamespaceSelector != nil {
		selector, _ := metav1.LabelSelectorAsSelector(term.NamespaceSelector)
		in = in || selector.Matches(labels.Set(r.namespaces[target.Namespace]))
	} else if len(term.Namespaces) == 0 {
		in = owner.Namespace == target.Namespace
	}
	for _, key := range term.MatchLabelKeys {
		if value, has := owner.Labels[key]; has && target.Labels[key] != value {
			return false
		}
	}
	for _, key := range term.MismatchLabelKeys {
		if value, has := owner.Labels[key]; has && target.Labels[key] == value {
			return false
		}
	}
	selector, _ := metav1.LabelSelectorAsSelector(term.LabelSelector)
	return in && selector.Matches(labels.Set(target.Labels))
}

// near tells whether two nodes are in one domain.
func near(key string, a, b *corev1.Node) bool {
	if b == nil {
		return false
	}
	x, hasX := a.Labels[key]
	y, hasY := b.Labels[key]
	return hasX && hasY && x == y
}

func (r *reference) affine(pod *corev1.Pod, node *corev1.Node) bool {
	own := required(pod, true)
	speaksAll := func(other *corev1.Pod) bool {
		return !slices.ContainsFunc(own, func(t corev1.PodAffinityTerm) bool { return !r.speaks(&t, pod, other) })
	}
	met, anywhere := true, false
	for _, t := range own {
		if _, has := node.Labels[t.TopologyKey]; !has {
			return false
		}
		there := false
		for _, other := range r.pods {
			at := r.nodes[other.Spec.NodeName]
			if at == nil || !speaksAll(other) {
				continue
			}
			if _, has := at.Labels[t.TopologyKey]; has {
				anywhere = true
			}
			there = there || near(t.TopologyKey, node, at)
		}
		met = met && there
	}
	if !met && (anywhere || !speaksAll(pod)) {
		return false
	}
	for _, other := range r.pods {
		at := r.nodes[other.Spec.NodeName]
		for _, t := range required(pod, false) {
			if near(t.TopologyKey, node, at) && r.speaks(&t, pod, other) {
				return false
			}
		}
		for _, t := range required(other, false) {
			if near(t.TopologyKey, node, at) && r.speaks(&t, other, pod) {
				return false
			}
		}
	}
	return true
}

func required(pod *corev1.Pod, affinity bool) []corev1.PodAffinityTerm {
	a := pod.Spec.Affinity
	switch {
	case a != nil && affinity && a.PodAffinity != nil:
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	case a != nil && !affinity && a.PodAntiAffinity != nil:
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// preferred are the terms that score, with their signed weights.
func preferred(pod *corev1.Pod) (terms []corev1.WeightedPodAffinityTerm) {
	a := pod.Spec.Affinity
	if a != nil && a.PodAffinity != nil {
		terms = append(terms, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a != nil && a.PodAntiAffinity != nil {
		for _, t := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			t.Weight = -t.Weight
			terms = append(terms, t)
		}
	}
	return terms
}

// totals are the nodes' totals by upstream's default weights.
func (r *reference) totals(pod *corev1.Pod, fits map[string]bool) map[string]int64 {
	totals := map[string]int64{}
	for name := range fits {
		totals[name] = r.least(pod, r.nodes[name]) + r.balance(pod, r.nodes[name]) + r.images(pod, r.nodes[name])
	}
	add := func(weight int64, parts map[string]int64) {
		for name, v := range parts {
			totals[name] += weight * v
		}
	}
	add(3, normal(r.each(fits, func(n *corev1.Node) int64 { return untoleratedSoft(pod, n) }), true))
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		add(2, normal(r.each(fits, func(n *corev1.Node) int64 { return preferredNode(a.NodeAffinity, n) }), false))
	}
	add(2, r.podTotals(pod, fits))
	add(2, r.spreadTotals(pod, fits))
	return totals
}

func (r *reference) each(fits map[string]bool, f func(*corev1.Node) int64) map[string]int64 {
	parts := map[string]int64{}
	for name := range fits {
		parts[name] = f(r.nodes[name])
	}
	return parts
}

func normal(parts map[string]int64, reverse bool) map[string]int64 {
	var most int64
	for _, v := range parts {
		most = max(most, v)
	}
	for name, v := range parts {
		switch {
		case most == 0 && reverse:
			parts[name] = 100
		case reverse:
			parts[name] = 100 - v*100/most
		case most > 0:
			parts[name] = v * 100 / most
		}
	}
	return parts
}

func untoleratedSoft(pod *corev1.Pod, node *corev1.Node) (n int64) {
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(pod, taint) {
			n++
		}
	}
	return n
}

func preferredNode(a *corev1.NodeAffinity, node *corev1.Node) (sum int64) {
	for _, t := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		selector, err := nodeaffinity.NewNodeSelector(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{t.Preference}})
		if err == nil && selector.Match(node) {
			sum += int64(t.Weight)
		}
	}
	return sum
}

func (r *reference) least(pod *corev1.Pod, node *corev1.Node) int64 {
	cpu, memory := cpuOf(pod, 100), memoryOf(pod, 200<<20)
	for _, p := range r.on(node.Name) {
		cpu, memory = cpu+cpuOf(p, 100), memory+memoryOf(p, 200<<20)
	}
	var sum, weights int64
	for _, part := range [][2]int64{{cpu, node.Status.Allocatable.Cpu().MilliValue()}, {memory, node.Status.Allocatable.Memory().Value()}} {
		if part[1] == 0 {
			continue
		}
		weights++
		if part[0] <= part[1] {
			sum += (part[1] - part[0]) * 100 / part[1]
		}
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

func (r *reference) balance(pod *corev1.Pod, node *corev1.Node) int64 {
	cpu, memory := cpuOf(pod, 0), memoryOf(pod, 0)
	if cpu == 0 && memory == 0 {
		return 0
	}
	for _, p := range r.on(node.Name) {
		cpu, memory = cpu+cpuOf(p, 0), memory+memoryOf(p, 0)
	}
	x := min(1, float64(cpu)/float64(node.Status.Allocatable.Cpu().MilliValue()))
	y := min(1, float64(memory)/float64(node.Status.Allocatable.Memory().Value()))
	return int64((1 - math.Abs((x-y)/2)) * 100)
}

func (r *reference) images(pod *corev1.Pod, node *corev1.Node) int64 {
	var sum int64
	has := func(node *corev1.Node) (int64, bool) {
		for _, image := range node.Status.Images {
			if slices.Contains(image.Names, pod.Spec.Containers[0].Image) {
				return image.SizeBytes, true
			}
		}
		return 0, false
	}
	if size, here := has(node); here {
		with := 0
		for _, n := range r.nodes {
			if _, there := has(n); there {
				with++
			}
		}
		sum = int64(float64(size) * (float64(with) / float64(len(r.nodes))))
	}
	const mb = 1 << 20
	sum = min(max(sum, 23*mb), 1000*mb)
	return 100 * (sum - 23*mb) / (977 * mb)
}

func (r *reference) podTotals(pod *corev1.Pod, fits map[string]bool) map[string]int64 {
	said := false
	parts := r.each(fits, func(node *corev1.Node) (sum int64) {
		for _, other := range r.pods {
			at := r.nodes[other.Spec.NodeName]
			count := func(weight int64, t *corev1.PodAffinityTerm, owner, target *corev1.Pod) {
				if r.speaks(t, owner, target) && at != nil {
					said = true
					if near(t.TopologyKey, node, at) {
						sum += weight
					}
				}
			}
			for _, t := range preferred(pod) {
				count(int64(t.Weight), &t.PodAffinityTerm, pod, other)
			}
			for _, t := range preferred(other) {
				count(int64(t.Weight), &t.PodAffinityTerm, other, pod)
			}
			for _, t := range required(other, true) {
				count(1, &t, other, pod)
			}
		}
		return sum
	})
	if !said {
		return nil
	}
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, v := range parts {
		least, most = min(least, v), max(most, v)
	}
	for name, v := range parts {
		parts[name] = 0
		if most > least {
			parts[name] = int64(100 * (float64(v-least) / float64(most-least)))
		}
	}
	return parts
}

// softly are the constraints that score a pod, and whether they are the system's.
func (r *reference) softly(pod *corev1.Pod) (list []corev1.TopologySpreadConstraint, system bool, same func(*corev1.Pod) bool) {
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		return constraints(pod, corev1.ScheduleAnyway), false, nil
	}
	owner := metav1.GetControllerOf(pod)
	selected := labels.Set{}
	for _, s := range r.services {
		if s.Namespace == pod.Namespace && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			for k, v := range s.Spec.Selector {
				selected[k] = v
			}
		}
	}
	if owner == nil && len(selected) == 0 {
		return nil, true, nil
	}
	list = []corev1.TopologySpreadConstraint{{TopologyKey: corev1.LabelHostname, MaxSkew: 3}, {TopologyKey: corev1.LabelTopologyZone, MaxSkew: 5}}
	return list, true, func(other *corev1.Pod) bool {
		if other.Namespace != pod.Namespace || other.DeletionTimestamp != nil {
			return false
		}
		if o := metav1.GetControllerOf(other); owner != nil {
			return o != nil && o.UID == owner.UID
		}
		return labels.SelectorFromSet(selected).Matches(labels.Set(other.Labels))
	}
}

func (r *reference) spreadTotals(pod *corev1.Pod, fits map[string]bool) map[string]int64 {
	soft, system, same := r.softly(pod)
	if len(soft) == 0 {
		return nil
	}
	ignored := func(node *corev1.Node) bool {
		return !system && slices.ContainsFunc(soft, func(c corev1.TopologySpreadConstraint) bool { _, has := node.Labels[c.TopologyKey]; return !has })
	}
	parts := map[string]int64{}
	for name := range fits {
		if node := r.nodes[name]; ignored(node) {
			parts[name] = -1
			continue
		}
		sum := 0.0
		for i := range soft {
			sum += r.spreadPart(&soft[i], soft, pod, r.nodes[name], fits, ignored, same)
		}
		parts[name] = int64(math.Round(sum))
	}
	least, most := int64(math.MaxInt64), int64(0)
	for _, v := range parts {
		if v >= 0 {
			least, most = min(least, v), max(most, v)
		}
	}
	for name, v := range parts {
		switch {
		case v < 0:
			parts[name] = 0
		case most == 0:
			parts[name] = 100
		default:
			parts[name] = 100 * (most + least - v) / most
		}
	}
	return parts
}

func (r *reference) spreadPart(c *corev1.TopologySpreadConstraint, all []corev1.TopologySpreadConstraint, pod *corev1.Pod, node *corev1.Node,
	fits map[string]bool, ignored func(*corev1.Node) bool, same func(*corev1.Pod) bool) float64 {
	value, has := node.Labels[c.TopologyKey]
	if !has {
		return 0
	}
	selects := func(other *corev1.Pod) bool {
		if same != nil {
			return same(other)
		}
		return spreadSelects(c, pod, other)
	}
	domains, ranked, count := map[string]bool{}, 0, 0
	for name := range fits {
		if !ignored(r.nodes[name]) {
			domains[r.nodes[name].Labels[c.TopologyKey]] = true
			ranked++
		}
	}
	for _, other := range r.pods {
		at := r.nodes[other.Spec.NodeName]
		if at == nil || !selects(other) {
			continue
		}
		if c.TopologyKey == corev1.LabelHostname {
			if at == node {
				count++
			}
			continue
		}
		together := all
		if same != nil {
			together = nil
		}
		if v, there := at.Labels[c.TopologyKey]; there && v == value && counted(c, together, pod, at) {
			count++
		}
	}
	size := len(domains)
	if c.TopologyKey == corev1.LabelHostname {
		size = ranked
	}
	return float64(count)*math.Log(float64(size+2)) + float64(c.MaxSkew-1)
}
