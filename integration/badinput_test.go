package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// badManifest is a manifest that `kubectl create -f -` must refuse.
type badManifest struct {
	name, manifest string
	// want is all of standard error; $NS stands for the namespace.
	want string
}

// podWith is a pod manifest whose one container, and whose spec, have the given lines besides what they need.
func podWith(container, spec string) string {
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n"
	for line := range strings.Lines(spec) {
		text += "  " + strings.TrimSuffix(line, "\n") + "\n"
	}
	text += "  containers:\n  - name: web\n"
	for line := range strings.Lines(container) {
		text += "    " + strings.TrimSuffix(line, "\n") + "\n"
	}
	return text
}

const (
	image      = "image: coracle/demo:v1\n"
	subdomain  = `a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`
	labelValue = `a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`
	whenPod    = `Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled as a Pod: `
	pod        = `The Pod "bad" is invalid: `
	service    = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n"
)

// badManifests are refused before anything is stored, with upstream's words.
var badManifests = []badManifest{
	// What cannot be decoded.
	{"unknown-field", podWith(image+"imagePullPolice: Always", ""), whenPod + `strict decoding error: unknown field "spec.containers[0].imagePullPolice"`},
	{"several-unknown-fields", podWith(image, "colour: blue\nsize: 1"), whenPod + `strict decoding error: unknown field "spec.colour", unknown field "spec.size"`},
	{"string-for-a-number", podWith(image+"ports: [{containerPort: http}]", ""), whenPod + `json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32`},
	{"object-for-a-list", podWith(image+"command: {a: b}", ""), whenPod + `json: cannot unmarshal object into Go struct field Container.spec.containers.command of type []string`},
	{"quantity", podWith(image+"resources: {requests: {cpu: much}}", ""), whenPod + `quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'`},
	{"not-base64", "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ndata: {a: '***'}", `Error from server (BadRequest): error when creating "STDIN": Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0`},
	{"malformed-yaml", "apiVersion: v1\nkind: Pod\n  metadata: x", `error: error parsing STDIN: error converting YAML to JSON: yaml: line 3: mapping values are not allowed in this context`},
	{"malformed-json", `{"apiVersion": "v1", "kind": `, `error: error parsing STDIN: unexpected EOF`},
	{"no-kind", "apiVersion: v1\nmetadata: {name: bad}", `error: error validating "STDIN": error validating data: kind not set; if you choose to ignore these errors, turn validation off with --validate=false`},
	{"nothing", "", `error: no objects passed to create`},

	// Metadata.
	{"name", strings.Replace(podWith(image, ""), "bad", "Bad_Name", 1), `The Pod "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": ` + subdomain},
	{"no-name", strings.Replace(podWith(image, ""), "name: bad", "labels: {a: b}", 1), `The Pod "" is invalid: metadata.name: Required value: name or generateName is required`},
	{"label-value", strings.Replace(podWith(image, ""), "name: bad", "name: bad, labels: {a: 'b c'}", 1), pod + `metadata.labels: Invalid value: "b c": ` + labelValue},
	{"namespace-name", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a.b}", `The Namespace "a.b" is invalid: metadata.name: Invalid value: "a.b": must not contain dots`},
	{"absent-namespace", strings.Replace(podWith(image, ""), "name: bad", "name: bad, namespace: nowhere", 1), `Error from server (NotFound): error when creating "STDIN": namespaces "nowhere" not found`},

	// Pods.
	{"no-containers", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {}", pod + `spec.containers: Required value`},
	{"no-image", podWith("", ""), pod + `spec.containers[0].image: Required value`},
	{"pull-policy", podWith(image+"imagePullPolicy: Sometimes", ""), pod + `spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`},
	{"restart-policy", podWith(image, "restartPolicy: Maybe"), pod + `spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"`},
	{"negative-memory", podWith(image+"resources: {limits: {memory: '-1'}}", ""), pod + "\n* spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0\n* spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0"},
	{"request-above-limit", podWith(image+"resources: {requests: {cpu: '2'}, limits: {cpu: '1'}}", ""), pod + `spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
	{"port-out-of-range", podWith(image+"ports: [{containerPort: 70000}]", ""), pod + `spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive`},
	{"duplicate-port-names", podWith(image+"ports: [{name: a, containerPort: 1}, {name: a, containerPort: 2}]", ""), pod + `spec.containers[0].ports[1].name: Duplicate value: "a"`},
	{"duplicate-containers", strings.Replace(podWith(image, ""), "  - name: web", "  - {name: web, image: x}\n  - name: web", 1), pod + `spec.containers[1].name: Duplicate value: "web"`},
	{"absent-volume", podWith(image+"volumeMounts: [{name: v, mountPath: /v}]", ""), pod + `spec.containers[0].volumeMounts[0].name: Not found: "v"`},
	{"two-kinds-of-volume", podWith(image, "volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}]"), pod + `spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type`},
	{"two-kinds-of-probe", podWith(image+"livenessProbe: {tcpSocket: {port: 1}, exec: {command: [a]}}", ""), pod + `spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type`},
	{"absent-service-account", podWith(image, "serviceAccountName: nobody"), `Error from server (Forbidden): error when creating "STDIN": pods "bad" is forbidden: error looking up service account $NS/nobody: serviceaccount "nobody" not found`},
	{"absent-priority-class", podWith(image, "priorityClassName: nothing"), `Error from server (Forbidden): error when creating "STDIN": pods "bad" is forbidden: no PriorityClass with name nothing was found`},

	// Workloads.
	{"selector-does-not-match", strings.Replace(deployment("bad", 1), "labels: {app: bad}\n    spec", "labels: {app: other}\n    spec", 1),
		"The Deployment \"bad\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"},
	{"negative-replicas", deployment("bad", -1), `The Deployment "bad" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0`},
	{"never-restarting-deployment", strings.Replace(deployment("bad", 1), "      containers:", "      restartPolicy: Never\n      containers:", 1),
		`The Deployment "bad" is invalid: spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
	{"nothing-may-change", strings.Replace(deployment("bad", 1), "  selector:", "  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}\n  selector:", 1),
		"The Deployment \"bad\" is invalid: spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"},

	// Services.
	{"duplicate-ports", service + "  ports: [{name: a, port: 80}, {name: b, port: 80}]", `The Service "bad" is invalid: spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}`},
	{"no-ports", service + "  selector: {a: b}", `The Service "bad" is invalid: spec.ports: Required value`},
	{"service-name", strings.Replace(service, "bad", "a_b", 1) + "  ports: [{port: 80}]", `The Service "a_b" is invalid: metadata.name: Invalid value: "a_b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
	{"node-port-out-of-range", service + "  type: NodePort\n  ports: [{port: 80, nodePort: 80}]", `The Service "bad" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
	{"cluster-ip-out-of-range", service + "  clusterIP: 1.2.3.4\n  ports: [{port: 80}]", `The Service "bad" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range`},
	{"service-type", service + "  type: Balancer\n  ports: [{port: 80}]", `The Service "bad" is invalid: spec.type: Unsupported value: "Balancer": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},

	// Configuration.
	{"config-key", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndata: {'a b': c}", `The ConfigMap "bad" is invalid: data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`},
	{"config-too-large", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndata: {a: " + strings.Repeat("x", 1<<20+1) + "}", `The ConfigMap "bad" is invalid: []: Too long: may not be more than 1048576 bytes`},
	{"secret-without-its-keys", "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: bad}", "The Secret \"bad\" is invalid: \n* data[tls.crt]: Required value\n* data[tls.key]: Required value"},
}

func testBadInput(t *testing.T, c *cluster.Cluster) {
	t.Run("manifests", func(t *testing.T) {
		t.Parallel()
		k := newKube(t, c)
		k.eventually("serviceaccount/default", "{.metadata.name}", "default")
		for _, bad := range badManifests {
			t.Run(bad.name, func(t *testing.T) {
				k := k.in(t)
				k.want("error", k.fails(bad.manifest, "create", "-f", "-"), strings.ReplaceAll(bad.want, "$NS", k.ns))
			})
		}
		k.want("objects left", k.run("get", "pods,deployments,services,secrets", "-o", "name"), "")
	})
	t.Run("changes", func(t *testing.T) {
		t.Parallel()
		badChanges(newKube(t, c))
	})
	t.Run("commands", func(t *testing.T) {
		t.Parallel()
		badCommands(newKube(t, c))
	})
	t.Run("requests", func(t *testing.T) {
		t.Parallel()
		badRequests(newKube(t, c))
	})
}

// in gives the same kubectl for a subtest.
func (k *kube) in(t *testing.T) *kube {
	copied := *k
	copied.t, copied.c = t, k.c.For(t)
	return &copied
}

// badChanges are manifests that are good in themselves, but not for what is there.
func badChanges(k *kube) {
	k.apply(deployment("web", 0))
	k.contains("selector", k.fails(strings.ReplaceAll(deployment("web", 0), "{app: web}", "{app: new}"), "apply", "-f", "-"),
		`The Deployment "web" is invalid: `, `spec.selector: Invalid value: {"matchLabels":{"app":"new"}}: field is immutable`)

	k.run("create", "configmap", "a", "--from-literal=x=1")
	old := k.run("get", "configmap", "a", "-o", "yaml")
	k.run("label", "configmap", "a", "new=yes")
	k.want("conflict", k.fails(old, "replace", "-f", "-"),
		`Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`)
	k.run("patch", "configmap", "a", "-p", `{"immutable":true}`)
	k.want("immutable", k.fails("", "patch", "configmap", "a", "-p", `{"data":{"x":"2"}}`),
		"The ConfigMap \"a\" is invalid: data: Forbidden: field is immutable when `immutable` is set")

	k.run("create", "service", "nodeport", "door", "--tcp=80", "--node-port=32001")
	k.want("node port taken", k.fails("", "create", "service", "nodeport", "other", "--tcp=80", "--node-port=32001"),
		`error: failed to create NodePort service: Service "other" is invalid: spec.ports[0].nodePort: Invalid value: 32001: provided port is already allocated`)
	k.want("cluster IP", k.fails("", "patch", "service", "door", "-p", `{"spec":{"clusterIP":"10.96.77.77","clusterIPs":["10.96.77.77"]}}`),
		`The Service "door" is invalid: spec.clusterIPs[0]: Invalid value: ["10.96.77.77"]: may not change once set`)

	// No node takes this pod, so that it stays as it is.
	k.apply(podWith(image, "nodeSelector: {no: node}"))
	k.contains("pod", k.fails(podWith("image: coracle/demo:v2\ncommand: [x]", "nodeSelector: {no: node}"), "apply", "-f", "-"),
		pod+"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)")
	k.want("protected namespace", k.fails("", "delete", "namespace", "default"), `Error from server (Forbidden): namespaces "default" is forbidden: this namespace may not be deleted`)
}

// badCommands are commands that ask for what is not there, or wrongly.
func badCommands(k *kube) {
	k.runIn(deployment("web", 0), "create", "-f", "-")
	k.want("an unknown kind", k.fails("apiVersion: v1\nkind: Podd\nmetadata: {name: bad}", "create", "--validate=false", "-f", "-"),
		"error: resource mapping not found for name: \"bad\" namespace: \"\" from \"STDIN\": no matches for kind \"Podd\" in version \"v1\"\nensure CRDs are installed first")
	k.want("another namespace", k.fails("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad, namespace: nowhere}", "create", "-n", k.ns, "-f", "-"),
		`error: the namespace from the provided object "nowhere" does not match the namespace "`+k.ns+`". You must pass '--namespace=nowhere' to perform this operation.`)
	for _, bad := range []struct{ command, want string }{
		{"get pods nobody", `Error from server (NotFound): pods "nobody" not found`},
		{"get widgets", `error: the server doesn't have a resource type "widgets"`},
		{"get pods -l a==b==c", `Error from server (BadRequest): Unable to find "/v1, Resource=pods" that match label selector "a==b==c", field selector "": found '==', expected: ',' or 'end of string'`},
		{"get pods --field-selector=spec.colour=blue", `Error from server (BadRequest): Unable to find "/v1, Resource=pods" that match label selector "", field selector "spec.colour=blue": field label not supported: spec.colour`},
		{"get pods -n nowhere x", `Error from server (NotFound): namespaces "nowhere" not found`},
		{"create configmap a -n nowhere", `error: failed to create configmap: namespaces "nowhere" not found`},
		{"scale deployment/web --replicas=-1", `error: The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0`},
		{"set image deployment/web nobody=x", `error: unable to find container named "nobody"`},
		{"patch deployment web --type=json -p [{", `error: unable to parse "[{": yaml: line 1: did not find expected node content`},
		{"patch deployment web -p {\"spec\":{\"replicas\":\"many\"}}", `The request is invalid: patch: Invalid value: "map[spec:map[replicas:many]]": unrecognized type: int32`},
		{"label deployment web a=b%c", `error: invalid label value: "a=b%c": ` + labelValue},
		{"rollout undo deployment/web --to-revision=9", `error: unable to find specified revision 9 in history`},
		{"create token nobody", `error: failed to create token: serviceaccounts "nobody" not found`},
		{"wait --for=condition=Ready pod/nobody", `Error from server (NotFound): pods "nobody" not found`},
		{"delete pod", `error: resource(s) were provided, but no name was specified`},
	} {
		k.want(bad.command, k.fails("", strings.Fields(bad.command)...), bad.want)
	}
}

// badRequest is one that kubectl would not send.
type badRequest struct {
	name, method, path, contentType, body string
	code                                  int
	reason                                metav1.StatusReason
	message                               string
}

func badRequests(k *kube) {
	config, err := k.c.REST()
	if err != nil {
		k.t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		k.t.Fatal(err)
	}
	client.Timeout = 30 * time.Second
	pods := "/api/v1/namespaces/" + k.ns + "/pods"
	maps := "/api/v1/namespaces/" + k.ns + "/configmaps"
	const js = "application/json"
	for _, bad := range []badRequest{
		{"malformed-json", "POST", pods, js, `{"kind":`, 400, metav1.StatusReasonBadRequest, `couldn't get version/kind; json parse error: unexpected end of JSON input`},
		{"another-kind", "POST", pods, js, `{"kind":"Service","apiVersion":"v1"}`, 400, metav1.StatusReasonBadRequest, `Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion`},
		{"duplicate-field", "POST", maps + "?fieldValidation=Strict", js, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","name":"b"}}`, 400, metav1.StatusReasonBadRequest,
			`ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "metadata.name"`},
		{"too-large", "POST", maps, js, strings.Repeat(" ", 4<<20), 413, metav1.StatusReasonRequestEntityTooLarge, `Request entity too large: limit is 3145728`},
		{"content-type", "POST", maps, "text/html", "x", 415, metav1.StatusReasonUnsupportedMediaType,
			`the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf`},
		{"patch-type", "PATCH", maps + "/kube-root-ca.crt", js, "{}", 415, metav1.StatusReasonUnsupportedMediaType,
			`the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json`},
		{"method", "PUT", maps, js, "{}", 405, metav1.StatusReasonMethodNotAllowed, `the server does not allow this method on the requested resource`},
		{"no-such-resource", "GET", "/api/v1/widgets", "", "", 404, metav1.StatusReasonNotFound, `the server could not find the requested resource`},
		{"resource-version", "GET", maps + "?resourceVersion=abc", "", "", 400, metav1.StatusReasonBadRequest, ``},
		{"continue", "GET", maps + "?limit=1&continue=abc", "", "", 400, metav1.StatusReasonBadRequest, `continue key is not valid`},
		{"namespace-mismatch", "POST", maps, js, `{"metadata":{"name":"a","namespace":"other"}}`, 400, metav1.StatusReasonBadRequest, `the namespace of the provided object does not match the namespace sent on the request`},
		{"name-mismatch", "PUT", maps + "/b", js, `{"metadata":{"name":"a"}}`, 400, metav1.StatusReasonBadRequest, `the name of the object (a) does not match the name on the URL (b)`},
		{"uid-precondition", "DELETE", maps + "/kube-root-ca.crt", js, `{"preconditions":{"uid":"x"}}`, 409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on ConfigMap "kube-root-ca.crt": the UID in the precondition (x) does not match the UID in record (`},
		{"dry-run", "POST", maps + "?dryRun=maybe", js, `{"metadata":{"name":"a"}}`, 422, metav1.StatusReasonInvalid, `CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["maybe"]: supported values: "All"`},
	} {
		k.t.Run(bad.name, func(t *testing.T) {
			k.in(t).refused(client, config.Host, bad)
		})
	}
	k.t.Run("no-credentials", func(t *testing.T) {
		anonymous := rest.AnonymousClientConfig(config)
		client, err := rest.HTTPClientFor(anonymous)
		if err != nil {
			t.Fatal(err)
		}
		k.in(t).refused(client, config.Host, badRequest{"", "GET", pods, "", "", 403, metav1.StatusReasonForbidden,
			`pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "` + k.ns + `"`})
	})
}

// refused sends a request and compares the Status it is answered with.
func (k *kube) refused(client *http.Client, host string, bad badRequest) {
	k.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), bad.method, host+bad.path, bytes.NewReader([]byte(bad.body)))
	if err != nil {
		k.t.Fatal(err)
	}
	if bad.contentType != "" {
		req.Header.Set("Content-Type", bad.contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil {
		k.t.Fatalf("%s: not a Status: %s", resp.Status, body)
	}
	k.want("status", fmt.Sprint(resp.StatusCode, status.Code, status.Status, status.Reason), fmt.Sprint(bad.code, int32(bad.code), metav1.StatusFailure, bad.reason))
	k.contains("message", status.Message, bad.message)
}
