package kinds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestPodWarnings(t *testing.T) {
	for _, c := range []struct {
		name, pod string
		want      []string
	}{
		{"none", `{metadata: {name: p}, spec: {containers: [{name: a, image: b, env: [{name: x, value: a}, {name: x, value: "$(x)b"}]}]}}`, nil},
		{"name", `{metadata: {name: p.q}, spec: {containers: [{name: a, image: b}]}}`, []string{
			`metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]`}},
		{"env", `{metadata: {name: p}, spec: {containers: [{name: a, image: b, env: [{name: x, value: a}, {name: x, value: b}]}]}}`, []string{
			`spec.containers[0].env[1]: hides previous definition of "x", which may be dropped when using apply`}},
		{"labels", `{metadata: {name: p}, spec: {nodeSelector: {beta.kubernetes.io/os: linux}, containers: [{name: a, image: b}], topologySpreadConstraints: [{maxSkew: 1, topologyKey: failure-domain.beta.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]}}`, []string{
			`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
			`spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
			`spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod`}},
		{"annotations", `{metadata: {name: p, annotations: {scheduler.alpha.kubernetes.io/critical-pod: "", seccomp.security.alpha.kubernetes.io/pod: unconfined}}, spec: {containers: [{name: a, image: b}]}}`, []string{
			`metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead`,
			`metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead`}},
		{"volumes", `{metadata: {name: p}, spec: {containers: [{name: a, image: b}], volumes: [{name: v, gitRepo: {repository: r}}, {name: w, rbd: {monitors: [m], image: i}}]}}`, []string{
			`spec.volumes[0].gitRepo: deprecated in v1.11`, `spec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+`}},
		{"token", `{metadata: {name: p}, spec: {containers: [{name: a, image: b}], volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}, {configMap: {name: c, items: [{key: k, path: t}]}}]}}]}}`, []string{
			`spec.volumes[0].projected.sources.configMap[0]: has duplicated path with ServiceAccountToken "t"`}},
		{"duplicates", `{metadata: {name: p}, spec: {containers: [{name: a, image: b}], hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}], imagePullSecrets: [{name: s}, {name: s}, {}]}}`, []string{
			`spec.hostAliases[1].ip: duplicate ip "1.1.1.1"`, `spec.imagePullSecrets[1].name: duplicate name "s"`, `spec.imagePullSecrets[2].name: invalid empty name ""`}},
		{"fractions", `{metadata: {name: p}, spec: {containers: [{name: a, image: b, resources: {limits: {memory: 100m}}}]}}`, []string{
			`spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer`}},
		{"ports", `{metadata: {name: p}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 1}, {containerPort: 1}, {containerPort: 1, hostPort: 5}]}]}}`, []string{
			`spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]`,
			`spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]`,
			`spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]`}},
		{"grace period", `{metadata: {name: p}, spec: {terminationGracePeriodSeconds: -1, containers: [{name: a, image: b}]}}`, []string{
			`spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1`}},
		{"null selector", `{metadata: {name: p}, spec: {containers: [{name: a, image: b}], affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z}]}}}}`, []string{
			`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := decode[corev1.Pod](t, c.pod)
			if diff := cmp.Diff(c.want, podWarnings(pod, nil)); diff != "" {
				t.Error(diff)
			}
			if podWarnings(pod, pod) != nil {
				t.Error("an update warned")
			}
		})
	}
}
