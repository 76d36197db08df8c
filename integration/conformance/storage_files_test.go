package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// fileTests are of volumes whose files are made from API objects and from the pod itself.
var fileTests = map[string]func(*env){
	"config maps are files": func(e *env) {
		e.data()
		e.shows(asRoot, `
- {name: plain, configMap: {name: data}}
- {name: again, configMap: {name: data}}
- {name: mode, configMap: {name: data, defaultMode: 256}}
- {name: mapped, configMap: {name: data, items: [{key: a, path: to/a}]}}
- {name: itemmode, configMap: {name: data, items: [{key: a, path: to/a, mode: 256}]}}
- {name: binary, configMap: {name: binary}}
`, "plain/a 644 value-a", "plain/b 644 value-b", "again/a 644 value-a", "mode/a 400 value-a", "mapped/to/a 644 value-a", "itemmode/to/a 400 value-a",
			"binary/text 644 value", "binary/bytes 644 \xde\xca\xfe")
	},
	"secrets are files": func(e *env) {
		e.data()
		e.shows(asRoot, `
- {name: plain, secret: {secretName: data}}
- {name: again, secret: {secretName: data}}
- {name: mode, secret: {secretName: data, defaultMode: 256}}
- {name: mapped, secret: {secretName: data, items: [{key: a, path: to/a}]}}
- {name: itemmode, secret: {secretName: data, items: [{key: a, path: to/a, mode: 256}]}}
`, "plain/a 644 value-a", "plain/b 644 value-b", "again/a 644 value-a", "mode/a 400 value-a", "mapped/to/a 644 value-a", "itemmode/to/a 400 value-a")
	},
	"projections are files": func(e *env) {
		e.data()
		e.shows(asRoot, `
- {name: map, projected: {sources: [{configMap: {name: data}}]}}
- {name: mapmode, projected: {defaultMode: 256, sources: [{configMap: {name: data}}]}}
- {name: mapitem, projected: {sources: [{configMap: {name: data, items: [{key: a, path: to/a, mode: 256}]}}]}}
- {name: secret, projected: {sources: [{secret: {name: data}}]}}
- {name: secretagain, projected: {sources: [{secret: {name: data}}]}}
- {name: secretmode, projected: {defaultMode: 256, sources: [{secret: {name: data}}]}}
- {name: all, projected: {sources: [{secret: {name: data, items: [{key: a, path: secret}]}}, {configMap: {name: data, items: [{key: b, path: map}]}},
   {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}, {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}]}},
   {serviceAccountToken: {path: token}}]}}
`, "map/a 644 value-a", "mapmode/a 400 value-a", "mapitem/to/a 400 value-a", "secret/a 644 value-a", "secretagain/a 644 value-a", "secretmode/a 400 value-a",
			"all/secret 644 value-a", "all/map 644 value-b", "all/name 644 shows", "all/cpu 644 300")
	},
	"somebody who is not root reads them": func(e *env) {
		e.data()
		e.shows(corev1.PodSecurityContext{RunAsUser: new(int64(1000)), FSGroup: new(int64(1001))}, `
- {name: secret, secret: {secretName: data, defaultMode: 288}}
- {name: token, projected: {sources: [{serviceAccountToken: {path: token}}]}}
`, "secret/a 440 value-a")
		e.shows(corev1.PodSecurityContext{RunAsUser: new(int64(1000))}, `
- {name: map, configMap: {name: data}}
- {name: projected, projected: {sources: [{configMap: {name: data}}]}}
- {name: mapped, projected: {sources: [{configMap: {name: data, items: [{key: a, path: to/a}]}}]}}
`, "map/a 644 value-a", "projected/a 644 value-a", "mapped/to/a 644 value-a")
	},
	"the pod tells of itself in files": func(e *env) {
		node := e.onlyNode()
		memory, cpu := node.Status.Allocatable.Memory().Value(), node.Status.Allocatable.Cpu().Value()
		items := `items: [{path: name, fieldRef: {fieldPath: metadata.name}}, {path: secretname, mode: 256, fieldRef: {fieldPath: metadata.name}},
   {path: cpurequest, resourceFieldRef: {containerName: main, resource: requests.cpu, divisor: 1m}},
   {path: memoryrequest, resourceFieldRef: {containerName: main, resource: requests.memory, divisor: 1Mi}},
   {path: memorylimit, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}},
   {path: nomemory, resourceFieldRef: {containerName: free, resource: limits.memory}},
   {path: nocpu, resourceFieldRef: {containerName: free, resource: limits.cpu}}]`
		var want []string
		for _, v := range []string{"own", "projected"} {
			want = append(want, v+"/name 644 shows", v+"/secretname 400 shows", v+"/cpurequest 644 250", v+"/memoryrequest 644 32", v+"/memorylimit 644 64",
				fmt.Sprintf("%s/nomemory 644 %d", v, memory), fmt.Sprintf("%s/nocpu 644 %d", v, cpu))
		}
		e.shows(asRoot, `
- {name: own, downwardAPI: {`+items+`}}
- {name: projected, projected: {sources: [{downwardAPI: {`+items+`}}]}}
- {name: mode, downwardAPI: {defaultMode: 256, items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
`, append(want, "mode/name 400 shows")...)
	},
	"labels and annotations are followed": func(e *env) {
		const items = `items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: annotations, fieldRef: {fieldPath: metadata.annotations}}]`
		pod := e.looking(`
- {name: own, downwardAPI: {` + items + `}}
- {name: projected, projected: {sources: [{downwardAPI: {` + items + `}}]}}
`)
		pod.Labels, pod.Annotations = map[string]string{"key1": "value1"}, map[string]string{"builder": "bar"}
		e.create(pod)
		e.ready(pod.Name)
		for _, v := range []string{"own", "projected"} {
			e.comesToShow(pod.Name, v+"/labels", `key1="value1"`)
			e.comesToShow(pod.Name, v+"/annotations", `builder="bar"`)
		}
		e.cluster.Kubectl("label", "pod", pod.Name, "-n", e.ns, "key3=value3")
		e.cluster.Kubectl("annotate", "pod", pod.Name, "-n", e.ns, "--overwrite", "builder=foo")
		for _, v := range []string{"own", "projected"} {
			e.comesToShow(pod.Name, v+"/labels", `key3="value3"`)
			e.comesToShow(pod.Name, v+"/annotations", `builder="foo"`)
		}
	},
	"objects are followed": func(e *env) {
		e.data()
		pod := e.looking(`
- {name: map, configMap: {name: data}}
- {name: projectedmap, projected: {sources: [{configMap: {name: data}}]}}
- {name: secret, secret: {secretName: data}}
`)
		e.create(pod)
		e.ready(pod.Name)
		e.cluster.Kubectl("patch", "configmap", "data", "-n", e.ns, "-p", `{"data":{"a":"value-2"}}`)
		e.cluster.Kubectl("patch", "secret", "data", "-n", e.ns, "-p", `{"stringData":{"a":"value-2"}}`)
		for _, v := range []string{"map", "projectedmap", "secret"} {
			e.comesToShow(pod.Name, v+"/a", "value-2")
		}
	},
	"objects that may be missing come and go": func(e *env) {
		volumes := ""
		for what, form := range map[string]string{
			"map": "configMap: {name: %s, optional: true}", "projectedmap": "projected: {sources: [{configMap: {name: %s, optional: true}}]}",
			"secret": "secret: {secretName: %s, optional: true}", "projectedsecret": "projected: {sources: [{secret: {name: %s, optional: true}}]}",
		} {
			for _, name := range []string{"created", "updated", "deleted"} {
				volumes += fmt.Sprintf("- {name: "+what+name+", "+form+"}\n", name)
			}
		}
		for _, name := range []string{"updated", "deleted"} {
			e.object1("configmap", name, "value-1")
			e.object1("secret", name, "value-1")
		}
		pod := e.looking(volumes)
		e.create(pod)
		e.ready(pod.Name)
		kinds := []string{"map", "projectedmap", "secret", "projectedsecret"}
		for _, k := range kinds {
			if out := e.inside(pod.Name, "ls /v/"+k+"created"); out != "" {
				e.Errorf("%s has %q of an object that is not there", k, out)
			}
			e.comesToShow(pod.Name, k+"updated/data-1", "value-1")
			e.comesToShow(pod.Name, k+"deleted/data-1", "value-1")
		}
		e.object1("configmap", "created", "value-3")
		e.object1("secret", "created", "value-3")
		e.cluster.Kubectl("delete", "-n", e.ns, "configmap/deleted", "secret/deleted")
		e.cluster.Kubectl("patch", "configmap", "updated", "-n", e.ns, "-p", `{"data":{"data-1":null,"data-3":"value-3"}}`)
		e.cluster.Kubectl("patch", "secret", "updated", "-n", e.ns, "-p", `{"data":{"data-1":null},"stringData":{"data-3":"value-3"}}`)
		for _, k := range kinds {
			e.comesToShow(pod.Name, k+"created/data-1", "value-3")
			e.comesToShow(pod.Name, k+"updated/data-3", "value-3")
			e.eventually(func() error {
				if out := e.inside(pod.Name, "ls /v/"+k+"deleted /v/"+k+"updated/data-1 2>/dev/null || true"); strings.Contains(out, "data-1") {
					return fmt.Errorf("%s still has %q", k, out)
				}
				return nil
			})
		}
	},
	"objects that are immutable stay": func(e *env) {
		for _, kind := range []string{"configmap", "secret"} {
			e.object1(kind, "fixed", "value-1")
			patch := func(p string) error {
				_, err := e.cluster.TryKubectl("", "patch", kind, "fixed", "-n", e.ns, "-p", p)
				return err
			}
			value := func(v string) string {
				if kind == "secret" {
					return `{"stringData":{"data-1":"` + v + `"}}`
				}
				return `{"data":{"data-1":"` + v + `"}}`
			}
			e.must(patch(value("value-2")))
			e.must(patch(`{"immutable":true}`))
			if patch(value("value-3")) == nil || patch(`{"immutable":false}`) == nil {
				e.Errorf("an immutable %s was changed", kind)
			}
			e.must(patch(`{"metadata":{"labels":{"a":"b"}}}`))
			e.cluster.Kubectl("delete", kind, "fixed", "-n", e.ns)
		}
	},
	"fifty config maps in each of five pods": func(e *env) {
		var manifests, volumes strings.Builder
		for i := range 50 {
			fmt.Fprintf(&manifests, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: racey-%d}, data: {data-1: value-1}}\n", i)
			fmt.Fprintf(&volumes, "- {name: racey-%d, configMap: {name: racey-%d, items: [{key: data-1, path: data-1}]}}\n", i, i)
		}
		e.cluster.KubectlIn(manifests.String(), "create", "-n", e.ns, "-f", "-")
		began := time.Now()
		for i := range 5 {
			pod := e.looking(volumes.String())
			pod.Name = fmt.Sprintf("racey-%d", i)
			e.create(pod)
		}
		for i := range 5 {
			e.ready(fmt.Sprintf("racey-%d", i))
		}
		e.Logf("five pods with 50 volumes each are ready after %s", time.Since(began).Round(time.Millisecond))
		if out := e.inside("racey-4", "cat /v/*/data-1 | grep -o value-1 | wc -l"); strings.TrimSpace(out) != "50" {
			e.Errorf("%s files", out)
		}
	},
}

// asRoot runs a pod as its image says.
var asRoot = corev1.PodSecurityContext{}

// onlyNode is the cluster's one node.
func (e *env) onlyNode() *corev1.Node {
	e.Helper()
	list, err := e.kube.CoreV1().Nodes().List(e.ctx, metav1.ListOptions{})
	e.must(err)
	if len(list.Items) != 1 {
		e.Fatalf("%d nodes", len(list.Items))
	}
	return &list.Items[0]
}

// data makes the config maps and the secret that tests mount.
func (e *env) data() {
	e.Helper()
	values := map[string]string{"a": "value-a", "b": "value-b"}
	for _, cm := range []*corev1.ConfigMap{
		{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Data: values},
		{ObjectMeta: metav1.ObjectMeta{Name: "binary"}, Data: map[string]string{"text": "value"}, BinaryData: map[string][]byte{"bytes": {0xde, 0xca, 0xfe}}},
	} {
		_, err := e.kube.CoreV1().ConfigMaps(e.ns).Create(e.ctx, cm, metav1.CreateOptions{})
		e.must(err)
	}
	_, err := e.kube.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "data"}, StringData: maps.Clone(values)}, metav1.CreateOptions{})
	e.must(err)
}

// object1 makes a config map or a secret with the one key data-1.
func (e *env) object1(kind, name, value string) {
	e.Helper()
	args := []string{"create", kind, name, "-n", e.ns, "--from-literal=data-1=" + value}
	if kind == "secret" {
		args = slices.Insert(args, 2, "generic")
	}
	e.cluster.Kubectl(args...)
}

// looking is a pod that has the volumes, of which the text tells in YAML, at /v/NAME, and runs.
func (e *env) looking(volumes string) *corev1.Pod {
	e.Helper()
	pod := onePod("looks", shell("main", "sleep 10000"))
	e.must(yaml.UnmarshalStrict([]byte(volumes), &pod.Spec.Volumes))
	for _, v := range pod.Spec.Volumes {
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/v/" + v.Name})
	}
	return pod
}

// shows runs a pod with the volumes, and wants files in them, each told as "PATH MODE CONTENT".
func (e *env) shows(sec corev1.PodSecurityContext, volumes string, want ...string) {
	e.Helper()
	pod := e.looking(volumes)
	pod.Name, pod.Spec.SecurityContext = "shows", &sec
	if sec.RunAsUser != nil {
		pod.Name = fmt.Sprintf("shows-%d", len(pod.Spec.Volumes))
	}
	e.must(yaml.UnmarshalStrict([]byte(`{requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 300m, memory: 64Mi}}`), &pod.Spec.Containers[0].Resources))
	script := ""
	for _, line := range want {
		path, _, _ := strings.Cut(line, " ")
		script += fmt.Sprintf("echo \"%s $(stat -L -c %%a /v/%s) $(cat /v/%s)\"\n", path, path, path)
	}
	pod.Spec.Containers[0].Command[2] = script
	pod.Spec.Containers = append(pod.Spec.Containers, shell("free", "true"))
	if log := e.finish(pod); log != strings.Join(want, "\n")+"\n" {
		e.Errorf("the files are\n%s\nand not\n%s", log, strings.Join(want, "\n"))
	}
}

// comesToShow waits until a file has the text in it, and tells how long that took.
func (e *env) comesToShow(pod, file, text string) {
	e.Helper()
	began := time.Now()
	e.eventually(func() error {
		if out, err := e.tryInside(pod, "cat /v/"+file); !strings.Contains(out, text) {
			return fmt.Errorf("%s is %q: %v", file, out, err)
		}
		return nil
	})
	if took := time.Since(began); took > time.Second {
		e.Logf("%s shows %q after %s", file, text, took.Round(time.Millisecond))
	}
}
