package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// badPod is one that the API server takes but that cannot run, or not for long.
type badPod struct {
	name, manifest string
	// waiting is the reason that the container shows, one of several where it alternates.
	waiting []string
	// events are REASON: the beginning of a message.
	events []string
}

var badPods = []badPod{
	{"image", podWith("image: registry.invalid/none:v1", ""), []string{"ErrImagePull", "ImagePullBackOff"},
		[]string{`Pulling: Pulling image "registry.invalid/none:v1"`, `Failed: Failed to pull image "registry.invalid/none:v1": `, `Failed: Error: ErrImagePull`, `BackOff: Back-off pulling image "registry.invalid/none:v1"`, `Failed: Error: ImagePullBackOff`}},
	{"image-never-pulled", podWith("image: coracle/none:v1\nimagePullPolicy: Never", ""), []string{"ErrImageNeverPull"},
		[]string{`ErrImageNeverPull: Container image "coracle/none:v1" is not present with pull policy of Never`, `Failed: Error: ErrImageNeverPull`}},
	{"image-name", podWith("image: Upper", ""), []string{"InvalidImageName"},
		[]string{`InspectFailed: Failed to apply default image tag "Upper": couldn't parse image name "Upper": invalid reference format: repository name (library/Upper) must be lowercase`, `Failed: Error: InvalidImageName`}},
	{"secret-environment", podWith(image+"env: [{name: A, valueFrom: {secretKeyRef: {name: nothing, key: a}}}]", ""), []string{"CreateContainerConfigError"},
		[]string{`Failed: Error: secret "nothing" not found`}},
	{"configmap-environment", podWith(image+"envFrom: [{configMapRef: {name: nothing}}]", ""), []string{"CreateContainerConfigError"},
		[]string{`Failed: Error: configmap "nothing" not found`}},
	{"configmap-key", podWith(image+"env: [{name: A, valueFrom: {configMapKeyRef: {name: kube-root-ca.crt, key: a}}}]", ""), []string{"CreateContainerConfigError"},
		[]string{`Failed: Error: couldn't find key a in ConfigMap $NS/kube-root-ca.crt`}},
	{"secret-volume", podWith(image+"volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, secret: {secretName: nothing}}]"), []string{"ContainerCreating"},
		[]string{`FailedMount: MountVolume.SetUp failed for volume "v" : secret "nothing" not found`}},
	{"configmap-volume", podWith(image+"volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, configMap: {name: nothing}}]"), []string{"ContainerCreating"},
		[]string{`FailedMount: MountVolume.SetUp failed for volume "v" : configmap "nothing" not found`}},
	{"program", podWith(image+"command: [nothing]", ""), []string{"RunContainerError", "CrashLoopBackOff"},
		[]string{`Failed: Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: `, `BackOff: Back-off restarting failed container web in pod bad_$NS(`}},
	{"user", podWith(image+"securityContext: {runAsNonRoot: true}", ""), []string{"CreateContainerConfigError"},
		[]string{`Failed: Error: container has runAsNonRoot and image will run as root (pod: "bad_$NS(`}},
	{"crash", podWith(image+"command: ['false']", ""), []string{"CrashLoopBackOff"},
		[]string{`BackOff: Back-off restarting failed container web in pod bad_$NS(`}},
	{"liveness", podWith(image+"livenessProbe: {httpGet: {path: /nowhere, port: 8080}, initialDelaySeconds: 3, periodSeconds: 1, failureThreshold: 1}", "terminationGracePeriodSeconds: 1"), nil,
		[]string{`Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 404`, `Killing: Container web failed liveness probe, will be restarted`}},
	{"readiness", podWith(image+"readinessProbe: {exec: {command: [sh, -c, 'echo not yet; exit 1']}, periodSeconds: 1}", ""), nil,
		[]string{`Unhealthy: Readiness probe failed: not yet`}},
	{"too-much-cpu", podWith(image+"resources: {requests: {cpu: '1000'}}", ""), nil,
		[]string{`FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu.`}},
	{"node-selector", podWith(image, "nodeSelector: {disk: ssd}"), nil,
		[]string{`FailedScheduling: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.`}},
}

// testEvents checks what users are told of pods that cannot run.
func testEvents(t *testing.T, c *cluster.Cluster) {
	for _, bad := range badPods {
		t.Run(bad.name, func(t *testing.T) {
			t.Parallel()
			k := newKube(t, c)
			k.eventually("configmap/kube-root-ca.crt", "{.metadata.name}", "kube-root-ca.crt")
			k.runIn(bad.manifest, "create", "-f", "-")
			if bad.waiting != nil {
				k.waiting(bad.waiting)
			}
			for _, want := range bad.events {
				k.event(strings.ReplaceAll(want, "$NS", k.ns))
			}
			k.run("delete", "pod", "bad", "--grace-period=1")
		})
	}
}

func (k *kube) waiting(reasons []string) {
	k.t.Helper()
	cluster.Eventually(k.t, time.Minute, func() error {
		got := k.get("pod/bad", "{.status.containerStatuses[0].state.waiting.reason}")
		for _, reason := range reasons {
			if got == reason {
				return nil
			}
		}
		return fmt.Errorf("the container waits for %q, want one of %q", got, reasons)
	})
}

// event waits for an event, as REASON: MESSAGE, whose beginning is given.
func (k *kube) event(want string) {
	k.t.Helper()
	cluster.Eventually(k.t, time.Minute, func() error {
		all := k.run("get", "events", "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
		if strings.HasPrefix(all, want) || strings.Contains(all, "\n"+want) {
			return nil
		}
		return fmt.Errorf("no event %q among\n%s", want, all)
	})
}
