package kinds

import "testing"

func TestValidateContainers(t *testing.T) {
	testPodSpecs(t, []podCase{
		{"ports", `containers: [{name: a, image: b, ports: [{containerPort: 0}, {containerPort: 70000, hostPort: -1}, {containerPort: 1, protocol: ICMP}, {containerPort: 2, name: Bad_Name}, {containerPort: 3, name: waytoolongname16}, {containerPort: 4, name: x}, {containerPort: 5, name: x}]}]`, []string{
			`spec.containers[0].ports[0].containerPort: Required value`,
			`spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive`,
			`spec.containers[0].ports[1].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive`,
			`spec.containers[0].ports[2].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`,
			`spec.containers[0].ports[3].name: Invalid value: "Bad_Name": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
			`spec.containers[0].ports[4].name: Invalid value: "waytoolongname16": must be no more than 15 characters`,
			`spec.containers[0].ports[6].name: Duplicate value: "x"`}},
		{"host ports", `containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 80}]}, {name: c, image: d, ports: [{containerPort: 2, hostPort: 80}, {containerPort: 3, hostPort: 80, hostIP: 10.0.0.1}, {containerPort: 3, hostPort: 80, protocol: UDP}]}]`, []string{
			`spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//80"`}},
		{"host network", `{containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 2}, {containerPort: 3}]}], hostNetwork: true}`, []string{
			"spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true"}},
		{"init containers", `{containers: [{name: a, image: b}], initContainers: [{name: i, image: j, lifecycle: {postStart: {exec: {command: [x]}}}, readinessProbe: {tcpSocket: {port: 1}}}, {name: s, image: j, restartPolicy: Always, readinessProbe: {tcpSocket: {port: 1}}}]}`, []string{
			`spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always`,
			`spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always`}},
		{"restart rules", `containers: [{name: a, image: b, restartPolicyRules: [{action: Stop, exitCodes: {operator: Is, values: [1]}}, {action: Restart}]}, {name: c, image: d, restartPolicy: Maybe}, {name: e, image: f, restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [3]}}]}]`, []string{
			`spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used`,
			`spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Stop": supported values: "Restart", "RestartAllContainers"`,
			`spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Is": supported values: "In", "NotIn"`,
			`spec.containers[0].restartPolicyRules[1].exitCodes: Required value: must be specified`,
			`spec.containers[1].restartPolicy: Unsupported value: "Maybe": supported values: "Always", "Never", "OnFailure"`}},
		{"resize policy", `{restartPolicy: Never, containers: [{name: a, image: b, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}, {resourceName: cpu, restartPolicy: NotRequired}, {resourceName: disk, restartPolicy: X}]}]}`, []string{
			"spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'",
			`spec.containers[0].resizePolicy[1]: Duplicate value: "cpu"`,
			`spec.containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"`,
			`spec.containers[0].resizePolicy: Unsupported value: "X": supported values: "NotRequired", "RestartContainer"`,
			"spec.containers[0].resizePolicy: Invalid value: \"X\": must be 'NotRequired' when pod `restartPolicy` is 'Never'"}},
	})
}

func TestValidateEnv(t *testing.T) {
	testPodSpecs(t, []podCase{
		{"names", `containers: [{name: a, image: b, env: [{value: x}, {name: "a=b"}, {name: "any name.is-fine"}]}]`, []string{
			`spec.containers[0].env[0].name: Required value`,
			`spec.containers[0].env[1].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`}},
		{"sources", `containers: [{name: a, image: b, env: [{name: x, valueFrom: {}}, {name: z, value: v, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: w, valueFrom: {fieldRef: {fieldPath: metadata.uid}, secretKeyRef: {name: s, key: k}}}]}]`, []string{
			"spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			"spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			`spec.containers[0].env[2].valueFrom: Invalid value: "": may not have more than one field specified at a time`}},
		{"fields", `containers: [{name: a, image: b, env: [{name: a, valueFrom: {fieldRef: {fieldPath: spec.foo}}}, {name: b, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}, {name: c, valueFrom: {fieldRef: {fieldPath: "metadata.labels['x']"}}}, {name: d, valueFrom: {fieldRef: {fieldPath: "spec.x['x']"}}}, {name: e, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}]}]`, []string{
			`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field label not supported: spec.foo`,
			`spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
			`spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x['x']": error converting fieldPath: field label does not support subscript: spec.x['x']`,
			`spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.name": error converting fieldPath: unsupported pod version: v2`}},
		{"resources", `containers: [{name: a, image: b, env: [{name: a, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}, {name: b, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 2m}}}, {name: c, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}]}]`, []string{
			`spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`,
			`spec.containers[0].env[1].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`}},
		{"keys", `containers: [{name: a, image: b, env: [{name: a, valueFrom: {configMapKeyRef: {name: M, key: k}}}, {name: b, valueFrom: {secretKeyRef: {name: s}}}, {name: c, valueFrom: {fileKeyRef: {volumeName: v, path: ../x, key: k}}}]}]`, []string{
			`spec.containers[0].env[0].valueFrom.configMapKeyRef.name: Invalid value: "M": ` + subdomainRule,
			`spec.containers[0].env[1].valueFrom.secretKeyRef.key: Required value`,
			`spec.containers[0].env[2].valueFrom.fileKeyRef.path: Invalid value: "../x": must not contain '..'`,
			`spec.containers[0].env[2].valueFrom.fileKeyRef.volumeName: Not found: "v"`}},
		{"from", `containers: [{name: a, image: b, envFrom: [{}, {prefix: "=", configMapRef: {}}, {configMapRef: {name: c}, secretRef: {name: S}}]}]`, []string{
			"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
			`spec.containers[0].envFrom[1].prefix: Invalid value: "=": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			`spec.containers[0].envFrom[1].configMapRef.name: Required value`,
			`spec.containers[0].envFrom[2].secretRef.name: Invalid value: "S": ` + subdomainRule,
			`spec.containers[0].envFrom: Invalid value: "": may not have more than one field specified at a time`}},
	})
}

func TestValidateProbes(t *testing.T) {
	testPodSpecs(t, []podCase{
		{"handlers", `containers: [{name: a, image: b, livenessProbe: {}, readinessProbe: {exec: {}, tcpSocket: {port: 1}}, startupProbe: {httpGet: {port: 0, scheme: FTP, httpHeaders: [{name: "a b", value: c}]}}}]`, []string{
			`spec.containers[0].livenessProbe: Required value: must specify a handler type`,
			`spec.containers[0].readinessProbe.exec.command: Required value`,
			`spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type`,
			`spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive`,
			`spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"`,
			`spec.containers[0].startupProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')`}},
		{"numbers", `containers: [{name: a, image: b, livenessProbe: {exec: {command: [x]}, initialDelaySeconds: -1, timeoutSeconds: -1, periodSeconds: -1, successThreshold: 2, failureThreshold: -1, terminationGracePeriodSeconds: 0}, readinessProbe: {exec: {command: [x]}, successThreshold: 2, terminationGracePeriodSeconds: 1}}]`, []string{
			`spec.containers[0].livenessProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.containers[0].livenessProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1`,
			`spec.containers[0].livenessProbe.failureThreshold: Invalid value: -1: must be greater than or equal to 0`,
			`spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0`,
			`spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes`}},
		{"lifecycle", `containers: [{name: a, image: b, lifecycle: {postStart: {}, preStop: {sleep: {seconds: 31}}}}]`, []string{
			`spec.containers[0].lifecycle.postStart: Required value: must specify a handler type`,
			`spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)`}},
		{"port names", `containers: [{name: a, image: b, livenessProbe: {tcpSocket: {port: web}}, readinessProbe: {grpc: {port: 0}}, startupProbe: {tcpSocket: {port: "80"}}}]`, []string{
			`spec.containers[0].readinessProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive`,
			`spec.containers[0].startupProbe.tcpSocket.port: Invalid value: "80": must contain at least one letter (a-z)`}},
	})
}

func TestValidateResources(t *testing.T) {
	testPodSpecs(t, []podCase{
		{"requests above limits", `containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]`, []string{
			`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`}},
		{"names", `containers: [{name: a, image: b, resources: {limits: {gpu: 1, storage: 1, "example.com/a b": 1, "kubernetes.io/x": 1, cpu: -1}}}]`, []string{
			`spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers`,
			`spec.containers[0].resources.limits[storage]: Invalid value: "storage": must be a standard resource for containers`,
			`spec.containers[0].resources.limits[example.com/a b]: Invalid value: "example.com/a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.containers[0].resources.limits[example.com/a b]: Invalid value: "example.com/a b": doesn't follow extended resource name standard`,
			`spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[storage]: Invalid value: "storage": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[example.com/a b]: Invalid value: "example.com/a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.containers[0].resources.requests[example.com/a b]: Invalid value: "example.com/a b": doesn't follow extended resource name standard`,
			`spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0`}},
		{"extended", `containers: [{name: a, image: b, resources: {requests: {example.com/gpu: 1}}}, {name: c, image: d, resources: {requests: {example.com/gpu: 1}, limits: {example.com/gpu: 2}}}, {name: e, image: f, resources: {limits: {example.com/gpu: 500m}}}]`, []string{
			`spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources`,
			`spec.containers[1].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2`,
			`spec.containers[2].resources.limits[example.com/gpu]: Invalid value: "500m": must be an integer`,
			`spec.containers[2].resources.requests[example.com/gpu]: Invalid value: "500m": must be an integer`}},
		{"huge pages", `containers: [{name: a, image: b, resources: {limits: {hugepages-2Mi: 3Mi}}}]`, []string{
			`spec.containers[0].resources: Forbidden: HugePages require cpu or memory`,
			`spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`}},
		{"pod level", `{resources: {requests: {cpu: 1, example.com/x: 1}, limits: {cpu: 2, example.com/x: 1}}, containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 3}}}]}`, []string{
			`spec.resources.limits[example.com/x]: Unsupported value: "example.com/x": supported values: "cpu", "hugepages-", "memory"`,
			`spec.resources.requests[example.com/x]: Unsupported value: "example.com/x": supported values: "cpu", "hugepages-", "memory"`,
			`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`,
			`spec.resources.containers[0][cpu].limits: Invalid value: "3": must be less than or equal to pod limits of 2`}},
		{"overhead", `{overhead: {disk: 1}, containers: [{name: a, image: b}]}`, []string{
			`spec.overhead.limits[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`,
			`spec.overhead.limits[disk]: Invalid value: "disk": must be a standard resource for containers`}},
	})
}
