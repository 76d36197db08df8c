package kinds

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// decode makes an object of a manifest.
func decode[T any](t *testing.T, manifest string) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(manifest, "\t", "  ")), obj); err != nil {
		t.Fatalf("%v in:\n%s", err, manifest)
	}
	return obj
}

// newPod is a pod of a spec, as the server has it just before it is checked.
func newPod(t *testing.T, spec string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, spec)}
	pod.Name, pod.Namespace = "p", "default"
	defaultPod(pod)
	preparePodCreate(pod)
	return pod
}

func errorTexts(errs field.ErrorList) []string {
	texts := []string{}
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return texts
}

func wantErrors(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	slices.Sort(want)
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, errorTexts(errs)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// kindNamed finds an entry of the table.
func kindNamed(t *testing.T, name string) *Kind {
	t.Helper()
	all := All()
	for i := range all {
		if all[i].GVK.Kind == name {
			return &all[i]
		}
	}
	t.Fatalf("no kind %s", name)
	return nil
}

const labelRule = `a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`
const subdomainRule = `a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`

// podCase is a spec and what is wrong with it.
type podCase struct {
	name, spec string
	want       []string
}

func testPodSpecs(t *testing.T, cases []podCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { wantErrors(t, validatePod(newPod(t, c.spec)), c.want...) })
	}
}

func TestValidatePodBasics(t *testing.T) {
	testPodSpecs(t, []podCase{
		{"smallest", `containers: [{name: a, image: b}]`, nil},
		{"no containers", `containers: []`, []string{`spec.containers: Required value`}},
		{"no name, no image", `containers: [{}]`, []string{`spec.containers[0].name: Required value`, `spec.containers[0].image: Required value`}},
		{"bad name", `containers: [{name: Foo, image: b}]`, []string{`spec.containers[0].name: Invalid value: "Foo": ` + labelRule}},
		{"blanks about image", `containers: [{name: a, image: " b"}]`, []string{
			`spec.containers[0].image: Invalid value: " b": must not have leading or trailing whitespace`}},
		{"duplicate name", `containers: [{name: a, image: b}, {name: a, image: b}]`, []string{`spec.containers[1].name: Duplicate value: "a"`}},
		{"duplicate in init", `{containers: [{name: a, image: b}], initContainers: [{name: a, image: b}]}`, []string{
			`spec.initContainers[0].name: Duplicate value: "a"`}},
		{"enums", `{containers: [{name: a, image: b, imagePullPolicy: Sometimes, terminationMessagePolicy: Log}], restartPolicy: Rarely, dnsPolicy: Any}`, []string{
			`spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`,
			`spec.containers[0].terminationMessagePolicy: Unsupported value: "Log": supported values: "File", "FallbackToLogsOnError"`,
			`spec.restartPolicy: Unsupported value: "Rarely": supported values: "Always", "OnFailure", "Never"`,
			`spec.dnsPolicy: Unsupported value: "Any": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`}},
		{"names", `{containers: [{name: a, image: b}], serviceAccountName: A, nodeName: B, hostname: C, subdomain: D.e, priorityClassName: E, runtimeClassName: F}`, []string{
			`spec.serviceAccountName: Invalid value: "A": ` + subdomainRule, `spec.nodeName: Invalid value: "B": ` + subdomainRule,
			`spec.hostname: Invalid value: "C": ` + labelRule, `spec.subdomain: Invalid value: "D.e": ` + labelRule,
			`spec.priorityClassName: Invalid value: "E": ` + subdomainRule, `spec.runtimeClassName: Invalid value: "F": ` + subdomainRule}},
		{"deadline", `{containers: [{name: a, image: b}], activeDeadlineSeconds: 0}`, []string{
			`spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive`}},
		{"ephemeral on create", `{containers: [{name: a, image: b}], ephemeralContainers: [{name: c, image: d}]}`, []string{
			`spec.ephemeralContainers: Forbidden: cannot be set on create`}},
		{"ephemeral fields", `{containers: [{name: a, image: b}], ephemeralContainers: [{name: a, image: d, targetContainerName: x, ports: [{containerPort: 1}], resources: {limits: {cpu: 1}}}]}`, []string{
			`spec.ephemeralContainers: Forbidden: cannot be set on create`,
			`spec.ephemeralContainers[0].name: Duplicate value: "a"`,
			`spec.ephemeralContainers[0].targetContainerName: Not found: "x"`,
			`spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container`,
			`spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container`}},
		{"dns", `{containers: [{name: a, image: b}], dnsPolicy: None}`, []string{
			"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"dns config", `{containers: [{name: a, image: b}], dnsConfig: {nameservers: [a, 1.1.1.1, 1.1.1.2, 1.1.1.3], searches: [., a_b.c., A], options: [{value: x}]}}`, []string{
			`spec.dnsConfig.nameservers: Invalid value: ["a","1.1.1.1","1.1.1.2","1.1.1.3"]: must not have more than 3 nameservers`,
			`spec.dnsConfig.nameservers[0]: Invalid value: "a": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.dnsConfig.searches[2]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')`,
			`spec.dnsConfig.options[0]: Required value: must not be empty`}},
		{"host aliases", `{containers: [{name: a, image: b}], hostAliases: [{ip: x, hostnames: [Z]}]}`, []string{
			`spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.hostAliases[0].hostnames[0]: Invalid value: "Z": ` + subdomainRule}},
		{"gates", `{containers: [{name: a, image: b}], nodeName: n, schedulingGates: [{name: x}, {name: x}], readinessGates: [{conditionType: example.com/x}]}`, []string{
			`spec.schedulingGates[1]: Duplicate value: "x"`,
			`spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared`}},
		{"hostname override", `{containers: [{name: a, image: b}], hostnameOverride: X, hostNetwork: true, setHostnameAsFQDN: true}`, []string{
			`spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true`,
			`spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true`,
			`spec.hostnameOverride: Invalid value: "X": ` + subdomainRule}},
		{"preemption", `{containers: [{name: a, image: b}], preemptionPolicy: Maybe}`, []string{
			`spec.preemptionPolicy: Unsupported value: "Maybe": supported values: "PreemptLowerPriority", "Never"`}},
		{"claims", `{containers: [{name: a, image: b, resources: {claims: [{name: x}, {name: x}, {name: z}]}}], resourceClaims: [{name: x}]}`, []string{
			"spec.resourceClaims[0]: Invalid value: {\"name\":\"x\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
			`spec.containers[0].resources.claims[1]: Duplicate value: "x"`,
			`spec.containers[0].resources.claims[2]: Not found: "z": must be one of the names in pod.spec.resourceClaims: x`}},
		{"os", `{containers: [{name: a, image: b, securityContext: {runAsUser: 1}}], os: {name: windows}, hostPID: true}`, []string{
			`spec.hostPID: Forbidden: cannot be set for a windows pod`,
			`spec.containers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod`}},
		{"unknown os", `{containers: [{name: a, image: b}], os: {name: beos}}`, []string{
			`spec.os: Unsupported value: "beos": supported values: "linux", "windows"`}},
	})
}

func TestValidatePodMeta(t *testing.T) {
	pod := newPod(t, `containers: [{name: a, image: b}]`)
	pod.Name = "Foo"
	pod.Annotations = map[string]string{
		"controller.kubernetes.io/pod-deletion-cost":           "+1",
		"kubernetes.io/config.mirror":                          "x",
		"container.apparmor.security.beta.kubernetes.io/other": "bad",
	}
	wantErrors(t, validatePod(pod),
		`metadata.name: Invalid value: "Foo": `+subdomainRule,
		`metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit integer`,
		`metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`,
		`metadata.annotations[container.apparmor.security.beta.kubernetes.io/other]: Invalid value: "other": container not found`,
		`metadata.annotations[container.apparmor.security.beta.kubernetes.io/other]: Invalid value: "bad": invalid AppArmor profile name: "bad"`)
}

func TestPreparePodCreate(t *testing.T) {
	pod := newPod(t, `
containers: [{name: a, image: b, lifecycle: {stopSignal: SIGINT}, volumeMounts: [{name: v, mountPath: /v, bindMountOptions: [noexec]}], livenessProbe: {grpc: {port: 1, mode: TLS}}}]
volumes: [{name: v, emptyDir: {mode: 511}}]
schedulingGates: [{name: g}]
schedulingGroup: {podGroupName: x}
evictionResponders: [{name: x, priority: 1}]
`)
	if pod.Status.Phase != corev1.PodPending || pod.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status: %+v", pod.Status)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Reason != "SchedulingGated" || c[0].Status != corev1.ConditionFalse {
		t.Errorf("conditions: %+v", c)
	}
	for i := range disabledPodFields {
		if disabledPodFields[i].used(&pod.Spec, false) {
			t.Errorf("%s was not dropped", disabledPodFields[i].gate)
		}
	}
	if pod.Spec.Containers[0].Lifecycle != nil {
		t.Error("an empty lifecycle stayed")
	}
	wantErrors(t, validatePod(pod))

	// What an object has already, an update may keep.
	old := pod.DeepCopy()
	old.Spec.EvictionResponders = []corev1.EvictionResponder{{Name: "x"}}
	updated := old.DeepCopy()
	preparePodUpdate(updated, old)
	if len(updated.Spec.EvictionResponders) != 1 {
		t.Error("an update dropped a field that the object had")
	}
}

func TestMatchLabelKeys(t *testing.T) {
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, `
containers: [{name: a, image: b}]
affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: x}}, matchLabelKeys: [hash], mismatchLabelKeys: [tenant]}]}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {}, matchLabelKeys: [hash, none]}]
`)}
	pod.Name, pod.Namespace, pod.Labels = "p", "default", map[string]string{"hash": "1", "tenant": "t"}
	defaultPod(pod)
	preparePodCreate(pod)
	term := pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
	if got := selectorOf(term.LabelSelector).String(); got != "app=x,hash in (1),tenant notin (t)" {
		t.Errorf("affinity: %s", got)
	}
	if got := selectorOf(pod.Spec.TopologySpreadConstraints[0].LabelSelector).String(); got != "hash in (1)" {
		t.Errorf("spread: %s", got)
	}
	wantErrors(t, validatePod(pod))
}

func TestAppArmorAnnotation(t *testing.T) {
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, `containers: [{name: a, image: b}, {name: c, image: d}]`)}
	pod.Annotations = map[string]string{appArmorPrefix + "a": "localhost/x"}
	preparePodCreate(pod)
	profile := pod.Spec.Containers[0].SecurityContext.AppArmorProfile
	if profile.Type != corev1.AppArmorProfileTypeLocalhost || *profile.LocalhostProfile != "x" {
		t.Errorf("profile: %+v", profile)
	}
	if pod.Spec.Containers[1].SecurityContext != nil {
		t.Error("a container without annotation got a profile")
	}
}

func TestPodSelectableFields(t *testing.T) {
	pod := newPod(t, `{containers: [{name: a, image: b}], nodeName: node, hostNetwork: true, serviceAccountName: sa}`)
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	want := map[string]string{
		"spec.nodeName": "node", "spec.restartPolicy": "Always", "spec.schedulerName": "default-scheduler", "spec.serviceAccountName": "sa",
		"spec.hostNetwork": "true", "status.phase": "Pending", "status.podIP": "10.0.0.1", "status.podIPs": "10.0.0.1,fd00::1", "status.nominatedNodeName": "",
	}
	if diff := cmp.Diff(want, map[string]string(podFields(pod))); diff != "" {
		t.Error(diff)
	}
	if got := len(kindNamed(t, "Pod").Fields(&corev1.Pod{})); got != len(want) {
		t.Errorf("an empty pod has %d fields", got)
	}
}

// TestScale reads and writes the replicas of each kind that has them.
func TestScale(t *testing.T) {
	for _, name := range []string{"ReplicationController", "ReplicaSet", "Deployment"} {
		k := kindNamed(t, name)
		var obj runtime.Object = k.New()
		k.Scale.Set(obj, 7)
		if got := k.Scale.Get(obj).Spec.Replicas; got != 7 {
			t.Errorf("%s: %d", name, got)
		}
	}
}
