package kinds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

func semanticEqual(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

func toYAML(t *testing.T, obj any) string {
	t.Helper()
	text, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDefaultPod(t *testing.T) {
	const manifest = `
hostNetwork: true
serviceAccount: sa
containers:
- name: a
  image: nginx
  ports: [{containerPort: 80}]
  resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}
  env: [{name: e, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: f, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: k}}}]
  livenessProbe: {httpGet: {port: 80}}
  readinessProbe: {grpc: {port: 1}}
  lifecycle: {preStop: {httpGet: {port: 80}}}
initContainers:
- {name: i, image: "nginx:1.2"}
volumes:
- name: empty
- {name: host, hostPath: {path: /x}}
- {name: secret, secret: {secretName: s}}
- {name: config, configMap: {name: c}}
- {name: down, downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}
- {name: proj, projected: {sources: [{serviceAccountToken: {path: t}}, {downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}]}}
- {name: claim, ephemeral: {volumeClaimTemplate: {spec: {}}}}
- {name: image, image: {reference: "r:latest"}}
- {name: iscsi, iscsi: {targetPortal: t, iqn: i, lun: 0}}
- {name: rbd, rbd: {monitors: [m], image: i}}
- {name: azure, azureDisk: {diskName: d, diskURI: u}}
- {name: sio, scaleIO: {gateway: g, system: s, secretRef: {name: r}}}
`
	const want = `containers:
- env:
  - name: e
    valueFrom:
      fieldRef:
        apiVersion: v1
        fieldPath: metadata.name
  - name: f
    valueFrom:
      fileKeyRef:
        key: k
        optional: false
        path: p
        volumeName: v
  image: nginx
  imagePullPolicy: Always
  lifecycle:
    preStop:
      httpGet:
        path: /
        port: 80
        scheme: HTTP
  livenessProbe:
    failureThreshold: 3
    httpGet:
      path: /
      port: 80
      scheme: HTTP
    periodSeconds: 10
    successThreshold: 1
    timeoutSeconds: 1
  name: a
  ports:
  - containerPort: 80
    hostPort: 80
    protocol: TCP
  readinessProbe:
    failureThreshold: 3
    grpc:
      port: 1
      service: ""
    periodSeconds: 10
    successThreshold: 1
    timeoutSeconds: 1
  resources:
    limits:
      cpu: "1"
      memory: 1Gi
    requests:
      cpu: 500m
      memory: 1Gi
  terminationMessagePath: /dev/termination-log
  terminationMessagePolicy: File
dnsPolicy: ClusterFirst
enableServiceLinks: true
hostNetwork: true
initContainers:
- image: nginx:1.2
  imagePullPolicy: IfNotPresent
  name: i
  resources: {}
  terminationMessagePath: /dev/termination-log
  terminationMessagePolicy: File
restartPolicy: Always
schedulerName: default-scheduler
securityContext: {}
serviceAccount: sa
serviceAccountName: sa
terminationGracePeriodSeconds: 30
volumes:
- emptyDir: {}
  name: empty
- hostPath:
    path: /x
    type: ""
  name: host
- name: secret
  secret:
    defaultMode: 420
    secretName: s
- configMap:
    defaultMode: 420
    name: c
  name: config
- downwardAPI:
    defaultMode: 420
    items:
    - fieldRef:
        apiVersion: v1
        fieldPath: metadata.name
      path: p
  name: down
- name: proj
  projected:
    defaultMode: 420
    sources:
    - serviceAccountToken:
        expirationSeconds: 3600
        path: t
    - downwardAPI:
        items:
        - fieldRef:
            apiVersion: v1
            fieldPath: metadata.name
          path: p
- ephemeral:
    volumeClaimTemplate:
      metadata: {}
      spec:
        resources: {}
        volumeMode: Filesystem
  name: claim
- image:
    pullPolicy: Always
    reference: r:latest
  name: image
- iscsi:
    iqn: i
    iscsiInterface: default
    lun: 0
    targetPortal: t
  name: iscsi
- name: rbd
  rbd:
    image: i
    keyring: /etc/ceph/keyring
    monitors:
    - m
    pool: rbd
    user: admin
- azureDisk:
    cachingMode: ReadWrite
    diskName: d
    diskURI: u
    fsType: ext4
    kind: Shared
    readOnly: false
  name: azure
- name: sio
  scaleIO:
    fsType: xfs
    gateway: g
    secretRef:
      name: r
    storageMode: ThinProvisioned
    system: s
`
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, manifest)}
	defaultPod(pod)
	if diff := cmp.Diff(want, toYAML(t, pod.Spec)); diff != "" {
		t.Error(diff)
	}
}

// TestDefaultTemplate: what is derived waits for the pod.
func TestDefaultTemplate(t *testing.T) {
	template := decode[corev1.PodTemplateSpec](t, `spec: {hostNetwork: true, containers: [{name: a, image: b, ports: [{containerPort: 1}], resources: {limits: {cpu: 1}}}]}`)
	defaultPodTemplate(template)
	c := template.Spec.Containers[0]
	if c.Ports[0].HostPort != 0 || c.Resources.Requests != nil || template.Spec.EnableServiceLinks != nil {
		t.Errorf("a template got the defaults of a pod: %+v", template.Spec)
	}
	wantErrors(t, validatePodTemplate(template, podTemplatePath))
}

func TestPullPolicyOf(t *testing.T) {
	const digest = "@sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1.2": corev1.PullIfNotPresent,
		"localhost:5000/nginx": corev1.PullAlways, "localhost:5000/nginx:v1": corev1.PullIfNotPresent,
		"nginx" + digest: corev1.PullIfNotPresent, "nginx:latest" + digest: corev1.PullAlways,
		"": corev1.PullIfNotPresent, "Bad Image": corev1.PullIfNotPresent,
	} {
		if got := pullPolicyOf(image); got != want {
			t.Errorf("%q: %s, want %s", image, got, want)
		}
	}
}

func TestDefaultPodLevelResources(t *testing.T) {
	for _, c := range []struct{ name, spec, requests, limits string }{
		{"requests of containers", `{resources: {limits: {cpu: 4, memory: 4Gi}}, containers: [{name: a, image: b, resources: {requests: {cpu: 1}}}]}`, "cpu=1,memory=4Gi", "cpu=4,memory=4Gi"},
		{"huge pages", `{resources: {requests: {cpu: 1}}, containers: [{name: a, image: b, resources: {limits: {hugepages-2Mi: 4Mi, cpu: 1}}}]}`, "cpu=1,hugepages-2Mi=4Mi", "hugepages-2Mi=4Mi"},
		{"nothing to go by", `{resources: {}, containers: [{name: a, image: b, resources: {limits: {cpu: 1}}}]}`, "", ""},
	} {
		pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, c.spec)}
		defaultPod(pod)
		if got := resourceText(pod.Spec.Resources.Requests); got != c.requests {
			t.Errorf("%s: requests %s, want %s", c.name, got, c.requests)
		}
		if got := resourceText(pod.Spec.Resources.Limits); got != c.limits {
			t.Errorf("%s: limits %s, want %s", c.name, got, c.limits)
		}
	}
}

func resourceText(list corev1.ResourceList) string {
	text := ""
	for i, name := range sortedResources(list) {
		if i > 0 {
			text += ","
		}
		q := list[name]
		text += string(name) + "=" + q.String()
	}
	return text
}

func TestQOSClass(t *testing.T) {
	for _, c := range []struct {
		spec string
		want corev1.PodQOSClass
	}{
		{`containers: [{name: a}]`, corev1.PodQOSBestEffort},
		{`containers: [{name: a, resources: {requests: {cpu: 0}}}]`, corev1.PodQOSBestEffort},
		{`containers: [{name: a, resources: {requests: {cpu: 1}}}]`, corev1.PodQOSBurstable},
		{`containers: [{name: a, resources: {limits: {cpu: 1}}}]`, corev1.PodQOSBurstable},
		{`containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}]`, corev1.PodQOSGuaranteed},
		{`containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}}]`, corev1.PodQOSBurstable},
		{`containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}, {name: b}]`, corev1.PodQOSBurstable},
		{`{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}], initContainers: [{name: b}]}`, corev1.PodQOSBurstable},
		{`{resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1, memory: 1Gi}}, containers: [{name: a}]}`, corev1.PodQOSGuaranteed},
		{`{resources: {requests: {cpu: 1}}, containers: [{name: a}]}`, corev1.PodQOSBurstable},
	} {
		pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, c.spec)}
		defaultPod(pod)
		if got := QOSClass(&pod.Spec); got != c.want {
			t.Errorf("%s: %s, want %s", c.spec, got, c.want)
		}
	}
}

func TestSyncPodIPs(t *testing.T) {
	list := func(ips ...string) (l []corev1.PodIP) {
		for _, ip := range ips {
			l = append(l, corev1.PodIP{IP: ip})
		}
		return l
	}
	for _, c := range []struct {
		ip      string
		ips     []corev1.PodIP
		wantIP  string
		wantIPs []corev1.PodIP
	}{
		{"", nil, "", nil},
		{"a", nil, "a", list("a")},
		{"", list("a", "b"), "a", list("a", "b")},
		{"a", list("a", "b"), "a", list("a", "b")},
		{"c", list("a", "b"), "c", list("c")},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{PodIP: c.ip, PodIPs: c.ips}}
		defaultPod(pod)
		if pod.Status.PodIP != c.wantIP || !semanticEqual(pod.Status.PodIPs, c.wantIPs) {
			t.Errorf("%q %v: got %q %v", c.ip, c.ips, pod.Status.PodIP, pod.Status.PodIPs)
		}
	}
}
