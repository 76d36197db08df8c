package conformance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

// diskTests are of volumes that pods write to.
var diskTests = map[string]func(*env){
	"empty folders on disk and in memory": func(e *env) {
		const volumes = `
- {name: disk, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 4Mi}}
`
		// What a file gets by its mode, in each folder; and what the folders are.
		script := `for d in disk memory; do
  echo $d $(stat -c %a /v/$d) $(stat -f -c %T /v/$d)
  for m in 644 666 777; do f=/v/$d/f$m; echo content > $f; chmod $m $f; echo $d $(stat -c %a $f) $(stat -c %u $f) $(cat $f); done
done
dd if=/dev/zero of=/v/memory/big bs=1M count=8 2>/dev/null && echo no limit || echo limit`
		for user, name := range map[int64]string{0: "root", 1001: "somebody"} {
			pod := e.looking(volumes)
			pod.Name, pod.Spec.SecurityContext, pod.Spec.Containers[0].Command[2] = name, &corev1.PodSecurityContext{RunAsUser: &user}, script
			log := e.finish(pod)
			for _, d := range []string{"disk", "memory"} {
				for _, m := range []string{"644", "666", "777"} {
					if want := fmt.Sprintf("%s %s %d content\n", d, m, user); !strings.Contains(log, want) {
						e.Errorf("as %s: no %q in\n%s", name, want, log)
					}
				}
			}
			if !strings.Contains(log, "disk 777 ") || !strings.Contains(log, "memory 777 tmpfs\n") || strings.Contains(log, "disk 777 tmpfs\n") || !strings.HasSuffix(log, "\nlimit\n") {
				e.Errorf("as %s:\n%s", name, log)
			}
		}
	},
	"sub-paths lead to parts of volumes": func(e *env) {
		e.data()
		pod := e.looking(`
- {name: map, configMap: {name: data}}
- {name: own, downwardAPI: {items: [{path: downward/name, fieldRef: {fieldPath: metadata.name}}]}}
- {name: disk, emptyDir: {}}
`)
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
			{Name: "map", MountPath: "/a", SubPath: "a"}, {Name: "map", MountPath: "/etc/passwd", SubPath: "b"},
			{Name: "own", MountPath: "/own", SubPath: "downward/name"}, {Name: "disk", MountPath: "/deep", SubPath: "one/two"}, {Name: "disk", MountPath: "/disk"},
		}
		pod.Spec.Containers[0].Command[2] = `cat /a; echo; cat /etc/passwd; echo; cat /own; echo; echo new > /deep/f; cat /disk/one/two/f; stat -c %a /disk/one/two`
		if log := e.finish(pod); log != "value-a\nvalue-b\nlooks\nnew\n777\n" {
			e.Errorf("%q", log)
		}
	},
	"sub-paths are composed of variables": func(e *env) {
		pod := e.composing("composed", "$(POD_NAME)/$(SUB)")
		pod.Spec.Containers[0].Command[2] = "echo written > /part/f; cat /whole/composed/fixed/f"
		if log := e.finish(pod); log != "written\n" {
			e.Errorf("%q", log)
		}
		e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, pod.Name, metav1.DeleteOptions{}))
		e.eventually(func() error { return gone(e.kube.CoreV1().Pods(e.ns).Get(e.ctx, pod.Name, metav1.GetOptions{})) })
	},
	"a composed sub-path that is absolute is refused": func(e *env) {
		e.create(e.composing("absolute", "$(ABSOLUTE)"))
		if why := e.waits("absolute", "CreateContainerConfigError"); !strings.Contains(why, "must not be an absolute path") {
			e.Errorf("%q", why)
		}
	},
	"a sub-path is composed once it can be": func(e *env) {
		pod := e.composing("later", "$(FROM)")
		pod.Spec.Containers[0].Command[2] = "sleep 10000"
		e.create(pod)
		if why := e.waits("later", "CreateContainerConfigError"); !strings.Contains(why, "missing value for FROM") {
			e.Errorf("%q", why)
		}
		e.cluster.Kubectl("annotate", "pod", "later", "-n", e.ns, "path=here")
		e.ready("later")
		e.inside("later", "touch /part/f && ls /whole/here/f")
	},
	"a volume that is an image": func(e *env) {
		for _, policy := range []corev1.PullPolicy{corev1.PullIfNotPresent, corev1.PullNever} {
			pod := e.looking(`[{name: image, image: {reference: "` + cluster.Busybox + `", pullPolicy: ` + string(policy) + `}}]`)
			pod.Name = "image-" + strings.ToLower(string(policy))
			pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "image", MountPath: "/part", SubPath: "bin"})
			e.create(pod)
			e.ready(pod.Name)
			out := e.inside(pod.Name, "ls /v/image/bin/busybox /part/busybox; touch /v/image/f 2>&1; /part/busybox true 2>&1; true")
			if !strings.Contains(out, "Read-only file system") || !strings.Contains(out, "Permission denied") || strings.Contains(out, "No such") {
				e.Errorf("%q", out)
			}
		}
		pod := e.looking(`[{name: image, image: {reference: "coracle/none:v1", pullPolicy: Never}}]`)
		pod.Name = "image-none"
		e.create(pod)
		if why := e.waits("image-none", "ErrImageNeverPull"); !strings.Contains(why, `Container image "coracle/none:v1" is not present with pull policy of Never`) {
			e.Errorf("%q", why)
		}
	},
	"a volume that is an image of a registry": func(e *env) {
		s := serveRegistry(e.T, e.cluster, "", false)
		pushTo(e.T, e.cluster, s, "files:v1", "", busybox(e.T, e.cluster, "files"))
		pod := e.looking(`[{name: image, image: {reference: "` + hostOf(s) + `/files:v1", pullPolicy: Always}}]`)
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "image", MountPath: "/part", SubPath: "bin"})
		e.create(pod)
		e.ready(pod.Name)
		e.inside(pod.Name, "ls /v/image/bin/busybox /part/busybox")
		e.told(pod.Name, "Pulled", "Successfully pulled image")
	},
	"a block volume is a device": func(e *env) {
		file := filepath.Join(e.TempDir(), "disk")
		e.must(os.WriteFile(file, make([]byte, 1<<20), 0o600))
		out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
		if err != nil {
			e.Skipf("skipped: no loop devices: %v: %s", err, out)
		}
		device := strings.TrimSpace(string(out))
		e.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
		block := corev1.PersistentVolumeBlock
		e.persistentVolume("raw", "1Mi", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: device}}
			v.Spec.VolumeMode = &block
			e.must(yaml.UnmarshalStrict(fmt.Appendf(nil, `{required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}}`,
				e.onlyNode().Name), &v.Spec.NodeAffinity))
		})
		e.volumeClaim("raw", "1Mi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = &block })
		pod := e.looking(`[{name: raw, persistentVolumeClaim: {claimName: raw}}]`)
		pod.Spec.Containers[0].VolumeMounts = nil
		pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "raw", DevicePath: "/dev/raw-disk"}}
		pod.Spec.Containers[0].Command[2] = "printf written | dd of=/dev/raw-disk conv=fsync 2>/dev/null; dd if=/dev/raw-disk bs=7 count=1 2>/dev/null"
		if log := e.finish(pod); log != "written" {
			e.Errorf("%q", log)
		}
	},
	"folders and files of the node": func(e *env) {
		dir := e.TempDir()
		e.must(os.Chmod(dir, 0o755))
		pod := e.looking(fmt.Sprintf(`
- {name: made, hostPath: {path: %[1]s/new/folder, type: DirectoryOrCreate}}
- {name: file, hostPath: {path: %[1]s/file, type: FileOrCreate}}
- {name: there, hostPath: {path: %[1]s, type: Directory}}
- {name: char, hostPath: {path: /dev/null, type: CharDevice}}
`, dir))
		pod.Spec.Containers[0].Command[2] = "echo made > /v/made/f; echo file > /v/file; cat /v/there/new/folder/f /v/there/file"
		if log := e.finish(pod); log != "made\nfile\n" {
			e.Errorf("%q", log)
		}
		wrong := e.looking(fmt.Sprintf(`[{name: socket, hostPath: {path: %s, type: Socket}}]`, dir))
		wrong.Name = "wrong"
		e.create(wrong)
		e.told("wrong", "FailedMount", fmt.Sprintf(`MountVolume.SetUp failed for volume "socket" : hostPath type check failed: %s is not a socket file`, dir))
	},
	"a claim gets a volume on the node": func(e *env) {
		class, err := e.kube.StorageV1().StorageClasses().Get(e.ctx, "local", metav1.GetOptions{})
		e.must(err)
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" {
			e.Errorf("%v", class.Annotations)
		}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: storageOf("16Mi")}}}
		_, err = e.kube.CoreV1().PersistentVolumeClaims(e.ns).Create(e.ctx, claim, metav1.CreateOptions{})
		e.must(err)
		const volume = `[{name: data, persistentVolumeClaim: {claimName: data}}]`
		first := e.looking(volume)
		first.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), FSGroup: new(int64(2000))}
		first.Spec.Containers[0].Command[2] = "echo kept > /v/data/f; stat -c %g /v/data/f"
		if log := e.finish(first); log != "2000\n" {
			e.Errorf("%q", log)
		}
		e.told("data", "ProvisioningSucceeded", "Successfully provisioned volume "+e.claimBound("data").Spec.VolumeName)
		again := e.looking(volume)
		again.Name, again.Spec.Containers[0].Command[2] = "again", "cat /v/data/f"
		if log := e.finish(again); log != "kept\n" {
			e.Errorf("the data is gone with its pod: %q", log)
		}
		pv := e.claimBound("data").Spec.VolumeName
		e.cluster.Kubectl("patch", "pvc", "data", "-n", e.ns, "-p", `{"spec":{"resources":{"requests":{"storage":"32Mi"}}}}`)
		e.eventually(func() error {
			if c := e.claimBound("data"); c.Status.Capacity.Storage().Cmp(resource.MustParse("32Mi")) != 0 {
				return fmt.Errorf("%v", c.Status.Capacity)
			}
			return nil
		})
		e.must(e.kube.CoreV1().Pods(e.ns).DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		e.must(e.kube.CoreV1().PersistentVolumeClaims(e.ns).Delete(e.ctx, "data", metav1.DeleteOptions{}))
		e.eventually(func() error { return gone(e.kube.CoreV1().PersistentVolumes().Get(e.ctx, pv, metav1.GetOptions{})) })
		if left, err := filepath.Glob(filepath.Join(e.cluster.Layout.Data, "volumes", "*"+pv)); err != nil || len(left) > 0 {
			e.Errorf("the data is left: %v, %v", left, err)
		}
	},
	"a stateful set keeps its data on the node": func(e *env) {
		manifest, err := os.ReadFile(filepath.Join(testenv.Repository(), "examples", "statefulset.yaml"))
		e.must(err)
		e.cluster.KubectlIn(string(manifest), "apply", "-n", e.ns, "-f", "-")
		e.ready("notes-1")
		e.inside("notes-1", "echo remember > /data/note")
		e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, "notes-1", metav1.DeleteOptions{}))
		e.eventually(func() error {
			out, err := e.tryInside("notes-1", "cat /data/note")
			if err != nil || out != "remember\n" {
				return fmt.Errorf("%q, %v", out, err)
			}
			return nil
		})
	},
	"a volume made by hand is mounted, a claim without one waited for": func(e *env) {
		dir := e.TempDir()
		e.must(os.Chmod(dir, 0o777))
		pod := e.looking(`[{name: v, persistentVolumeClaim: {claimName: hand}}]`)
		pod.Spec.NodeName = e.onlyNode().Name // past the scheduler, which would wait as well
		e.create(pod)
		e.told(pod.Name, "FailedMount", fmt.Sprintf(`Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: `+
			`error processing PVC %s/hand: failed to fetch PVC from API server: persistentvolumeclaims "hand" not found`, e.ns))
		e.persistentVolume("hand", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}
			v.Spec.MountOptions = []string{"noexec"}
			e.must(yaml.UnmarshalStrict(fmt.Appendf(nil, `{required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}}`,
				e.onlyNode().Name), &v.Spec.NodeAffinity))
		})
		e.volumeClaim("hand", "1Gi", nil)
		e.ready(pod.Name)
		e.inside(pod.Name, "echo x > /v/v/f; grep ' /v/v ' /proc/mounts | grep noexec")
		if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
			e.Error(err)
		}
	},
	"an ephemeral volume comes and goes with its pod": func(e *env) {
		pod := e.looking(`[{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Mi}}}}}}]`)
		e.create(pod)
		e.ready(pod.Name)
		e.inside(pod.Name, "echo x > /v/scratch/f")
		pv := e.claimBound(pod.Name + "-scratch").Spec.VolumeName
		e.must(e.kube.CoreV1().Pods(e.ns).Delete(e.ctx, pod.Name, metav1.DeleteOptions{}))
		e.eventually(func() error { return gone(e.kube.CoreV1().PersistentVolumes().Get(e.ctx, pv, metav1.GetOptions{})) })
		if _, err := os.Stat(filepath.Join(e.cluster.Layout.Data, "volumes", pv)); !errors.Is(err, os.ErrNotExist) {
			e.Errorf("the data is left: %v", err)
		}
	},
	"a node sees its own volumes only": func(e *env) {
		agent := e.asNode(e.onlyNode().Name)
		if _, err := agent.CoreV1().PersistentVolumes().List(e.ctx, metav1.ListOptions{LabelSelector: "coracle.dev/local-volume-of=" + e.onlyNode().Name}); err != nil {
			e.Error(err)
		}
		for _, selector := range []string{"", "coracle.dev/local-volume-of=other"} {
			if _, err := agent.CoreV1().PersistentVolumes().List(e.ctx, metav1.ListOptions{LabelSelector: selector}); !apierrors.IsForbidden(err) {
				e.Errorf("a node lists volumes by %q: %v", selector, err)
			}
		}
	},
}

// asNode speaks to the server as a node's agent.
func (e *env) asNode(name string) kubernetes.Interface {
	c := rest.CopyConfig(e.config)
	c.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + name, Groups: []string{"system:nodes", "system:authenticated"}}
	return kubernetes.NewForConfigOrDie(c)
}

// composing is a pod that has a part of a volume, by an expression, at /part, and the whole at /whole.
func (e *env) composing(name, expression string) *corev1.Pod {
	e.Helper()
	pod := e.looking(`[{name: v, emptyDir: {}}]`)
	pod.Name = name
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/part", SubPathExpr: expression}, {Name: "v", MountPath: "/whole"}}
	e.must(yaml.UnmarshalStrict([]byte(`[{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: SUB, value: fixed}, {name: ABSOLUTE, value: /etc},
  {name: FROM, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['path']"}}}]`), &c.Env))
	return pod
}
