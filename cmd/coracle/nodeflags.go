package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/coracle-dev/coracle/agent/network"
)

// checkNodeFlags refuses flags of a node that cannot be meant, before anything is made or started.
func (o *options) checkNodeFlags() error {
	if _, err := o.evictionPolicy(); err != nil {
		return err
	}
	if err := o.images.check(); err != nil {
		return err
	}
	if _, err := o.containerLogs(); err != nil {
		return err
	}
	if o.leaseLife < time.Second || o.leaseLife%time.Second != 0 {
		return usage("--node-lease-duration %s: want whole seconds, one at least", o.leaseLife)
	}
	if _, err := network.ParseOverlay(o.overlay); err != nil {
		return usage("--overlay %w", err)
	}
	given, _, _ := strings.Cut(o.nodeIP, ",")
	if _, err := parseMachineAddress("--node-ip", given); o.nodeIP != "" && err != nil {
		return err
	}
	if err := o.checkIngress(); err != nil {
		return err
	}
	name, err := o.resolveNodeName()
	if err != nil {
		return err
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return usage("the node's name %q, from --node-name or else the host's: %s", name, problems[0])
	}
	return checkNodeLabels(o.nodeLabels)
}

// Labels of Kubernetes' own domains that an agent may give its node, as the kubelet does; the NodeRestriction admission holds it to them.
var (
	nodeLabelDomains = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}
	nodeLabels       = []string{
		corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	}
)

func checkNodeLabels(labels map[string]string) error {
	var unknown []string
	for key, value := range labels {
		if problems := validation.IsQualifiedName(key); len(problems) > 0 {
			return usage("--node-labels: the key %q: %s", key, problems[0])
		}
		if problems := validation.IsValidLabelValue(value); len(problems) > 0 {
			return usage("--node-labels: the value %q of %s: %s", value, key, problems[0])
		}
		if !allowedNodeLabel(key) {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return usage("unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: %v\n"+
		"--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix (%s) or be in the specifically allowed set (%s)",
		unknown, strings.Join(nodeLabelDomains, ", "), strings.Join(nodeLabels, ", "))
}

func allowedNodeLabel(key string) bool {
	domain, _, qualified := strings.Cut(key, "/")
	within := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	if !qualified || !within("kubernetes.io") && !within("k8s.io") || slices.Contains(nodeLabels, key) {
		return true
	}
	return slices.ContainsFunc(nodeLabelDomains, within)
}

// taints is a flag of taints.
type taints struct{ list []corev1.Taint }

// Type implements pflag.Value.
func (t *taints) Type() string { return "taints" }

// String implements pflag.Value.
func (t *taints) String() string {
	parts := make([]string, len(t.list))
	for i := range t.list {
		parts[i] = t.list[i].ToString()
	}
	return strings.Join(parts, ",")
}

// Set implements pflag.Value.
func (t *taints) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		taint, err := parseTaint(part)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(t.list, func(have corev1.Taint) bool { return have.MatchTaint(&taint) }) {
			return fmt.Errorf("duplicated taints with the same key and effect: %s", part)
		}
		t.list = append(t.list, taint)
	}
	return nil
}

// parseTaint reads key=value:effect or key:effect.
func parseTaint(text string) (corev1.Taint, error) {
	what, effect, found := strings.Cut(text, ":")
	key, value, _ := strings.Cut(what, "=")
	taint := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
	if problems := validation.IsQualifiedName(key); len(problems) > 0 || !found {
		return taint, fmt.Errorf("%q: want KEY=VALUE:EFFECT or KEY:EFFECT", text)
	}
	if problems := validation.IsValidLabelValue(value); len(problems) > 0 {
		return taint, fmt.Errorf("%q: %s", text, problems[0])
	}
	if !slices.Contains([]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}, taint.Effect) {
		return taint, fmt.Errorf("%q: the effect is NoSchedule, PreferNoSchedule or NoExecute", text)
	}
	return taint, nil
}
