package admission

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"
)

// objects is a Reader over a list.
type objects map[string][]runtime.Object

func (o objects) Get(_ context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	for _, obj := range o[gr.Resource] {
		m, _ := meta.Accessor(obj)
		if m.GetNamespace() == namespace && m.GetName() == name {
			return obj, nil
		}
	}
	return nil, apierrors.NewNotFound(gr, name)
}

func (o objects) List(_ context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error) {
	var out []runtime.Object
	for _, obj := range o[gr.Resource] {
		if m, _ := meta.Accessor(obj); namespace == "" || m.GetNamespace() == namespace {
			out = append(out, obj)
		}
	}
	return out, metav1.ListMeta{}, nil
}

func om(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func world() objects {
	return objects{
		"namespaces": {
			&corev1.Namespace{ObjectMeta: om("", "default")},
			&corev1.Namespace{ObjectMeta: om("", "going"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}},
			&corev1.Namespace{ObjectMeta: om("", "bare")},
		},
		"serviceaccounts": {
			&corev1.ServiceAccount{ObjectMeta: om("default", "default"), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
			&corev1.ServiceAccount{ObjectMeta: om("default", "quiet"), AutomountServiceAccountToken: ptr.To(false)},
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "strict", Annotations: map[string]string{enforceSecret: "true"}}, Secrets: []corev1.ObjectReference{{Name: "ok"}}},
		},
		"priorityclasses": {
			&schedulingv1.PriorityClass{ObjectMeta: om("", "high"), Value: 1000, PreemptionPolicy: ptr.To(corev1.PreemptNever)},
			&schedulingv1.PriorityClass{ObjectMeta: om("", "usual"), Value: 5, GlobalDefault: true},
		},
		"pods": {
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mine", UID: "u1"}, Spec: corev1.PodSpec{NodeName: "n1", Volumes: []corev1.Volume{tokenVolume("t")}}},
			&corev1.Pod{ObjectMeta: om("default", "theirs"), Spec: corev1.PodSpec{NodeName: "n2"}},
		},
	}
}

func podRequest(pod *corev1.Pod) *Request {
	return &Request{
		Operation: Create, Resource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Kind: corev1.SchemeGroupVersion.WithKind("Pod"),
		Namespace: pod.Namespace, Name: pod.Name, Object: pod, User: &user.DefaultInfo{Name: "someone"},
	}
}

func simplePod(ns string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: om(ns, "p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
}

func admit(t *testing.T, r *Request) error {
	t.Helper()
	c := New(Config{Reader: world()})
	if err := c.Mutate(t.Context(), r); err != nil {
		return err
	}
	return c.Validate(t.Context(), r)
}

func TestPodGetsEverythingItLeftOut(t *testing.T) {
	pod := simplePod("default")
	pod.Spec.InitContainers = []corev1.Container{{Name: "i"}, {Name: "own", VolumeMounts: []corev1.VolumeMount{{Name: "x", MountPath: tokenMountPath}}}}
	if err := admit(t, podRequest(pod)); err != nil {
		t.Fatal(err)
	}
	s := pod.Spec
	if s.ServiceAccountName != "default" || s.DeprecatedServiceAccount != "default" || len(s.ImagePullSecrets) != 1 {
		t.Errorf("account %q %q, pull secrets %v", s.ServiceAccountName, s.DeprecatedServiceAccount, s.ImagePullSecrets)
	}
	if len(s.Volumes) != 1 || !strings.HasPrefix(s.Volumes[0].Name, "kube-api-access-") || len(s.Volumes[0].Name) != len("kube-api-access-")+5 {
		t.Fatalf("volumes %v", s.Volumes)
	}
	for _, c := range []corev1.Container{s.Containers[0], s.InitContainers[0]} {
		if len(c.VolumeMounts) != 1 || c.VolumeMounts[0].Name != s.Volumes[0].Name || !c.VolumeMounts[0].ReadOnly {
			t.Errorf("%s mounts %v", c.Name, c.VolumeMounts)
		}
	}
	if len(s.InitContainers[1].VolumeMounts) != 1 {
		t.Error("a container with its own mount got another")
	}
	if *s.Priority != 5 || s.PriorityClassName != "usual" || *s.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority %d of %q, %s", *s.Priority, s.PriorityClassName, *s.PreemptionPolicy)
	}
	if len(s.Tolerations) != 2 || *s.Tolerations[0].TolerationSeconds != 300 || s.Tolerations[1].Key != corev1.TaintNodeUnreachable {
		t.Errorf("tolerations %v", s.Tolerations)
	}
}

func TestTolerationSecondsAreConfigured(t *testing.T) {
	pod := simplePod("default")
	chain := New(Config{Reader: world(), Tolerations: &TolerationSeconds{NotReady: 0, Unreachable: 7}})
	if err := chain.Mutate(t.Context(), podRequest(pod)); err != nil {
		t.Fatal(err)
	}
	if s := pod.Spec.Tolerations; len(s) != 2 || *s[0].TolerationSeconds != 0 || s[0].Key != corev1.TaintNodeNotReady || *s[1].TolerationSeconds != 7 {
		t.Errorf("tolerations %v", s)
	}
}

func TestPodChoosesItself(t *testing.T) {
	pod := simplePod("default")
	pod.Spec.DeprecatedServiceAccount = "quiet"
	pod.Spec.PriorityClassName = "high"
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	if err := admit(t, podRequest(pod)); err != nil {
		t.Fatal(err)
	}
	if s := pod.Spec; s.ServiceAccountName != "quiet" || len(s.Volumes) != 0 || *s.Priority != 1000 || *s.PreemptionPolicy != corev1.PreemptNever || len(s.Tolerations) != 1 {
		t.Errorf("%+v", s)
	}
	pod = simplePod("default")
	pod.Spec.ServiceAccountName, pod.Spec.AutomountServiceAccountToken = "quiet", ptr.To(true)
	if err := admit(t, podRequest(pod)); err != nil || len(pod.Spec.Volumes) != 1 {
		t.Errorf("the pod's own flag must win: %v, %v", pod.Spec.Volumes, err)
	}
}

func TestRefusals(t *testing.T) {
	pod := func(ns string, change func(*corev1.Pod)) *Request {
		p := simplePod(ns)
		change(p)
		return podRequest(p)
	}
	ns := func(name string) *Request {
		return &Request{Operation: Delete, Resource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, Name: name}
	}
	cases := []struct {
		name string
		r    *Request
		code int32
		text string
	}{
		{"namespace missing", pod("nope", func(*corev1.Pod) {}), 404, `namespaces "nope" not found`},
		{"namespace going", pod("going", func(*corev1.Pod) {}), 403, `pods "p" is forbidden: unable to create new content in namespace going because it is being terminated`},
		{"namespace immortal", ns("kube-system"), 403, `namespaces "kube-system" is forbidden: this namespace may not be deleted`},
		{"account missing", pod("default", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "ghost" }), 403, `pods "p" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found`},
		{"generated name", pod("default", func(p *corev1.Pod) { p.Name, p.GenerateName, p.Spec.ServiceAccountName = "", "gen-", "ghost" }), 403, `pods "gen-" is forbidden`},
		{"class missing", pod("default", func(p *corev1.Pod) { p.Spec.PriorityClassName = "ghost" }), 403, `no PriorityClass with name ghost was found`},
		{"priority by hand", pod("default", func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](7) }), 403, "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 5 from the given PriorityClass name"},
		{"preemption by hand", pod("default", func(p *corev1.Pod) {
			p.Spec.PriorityClassName, p.Spec.PreemptionPolicy = "high", ptr.To(corev1.PreemptLowerPriority)
		}), 403, "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided"},
		{"secret not listed", pod("default", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "no"}}}}
		}), 403, `container c with envFrom referencing secret.secretName="no" is not allowed because service account strict does not reference that secret`},
		{"second default class", &Request{Operation: Create, Resource: schema.GroupVersionResource{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"},
			Name: "more", Object: &schedulingv1.PriorityClass{ObjectMeta: om("", "more"), GlobalDefault: true}}, 403, "PriorityClass usual is already marked as default. Only one default can exist"},
		{"mirror pod with an account", pod("default", func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.ServiceAccountName = "default"
		}), 403, "a mirror pod may not reference service accounts"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := admit(t, c.r)
			var status apierrors.APIStatus
			if !errors.As(err, &status) || status.Status().Code != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v", err)
			}
		})
	}
	err := admit(t, cases[1].r)
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Error("the cause of a terminating namespace is missing")
	}
}

func TestDefaultAccountIsWaitedFor(t *testing.T) {
	w := world()
	p := serviceAccount{reader: w, patience: 60 * time.Millisecond, poll: 5 * time.Millisecond}
	r := podRequest(simplePod("bare"))
	start := time.Now()
	err := p.Mutate(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), `error looking up service account bare/default: serviceaccount "default" not found`) || time.Since(start) < p.patience {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func nodeRequest(op Operation, gr schema.GroupResource, sub, ns, name string, obj, old runtime.Object) *Request {
	return &Request{Operation: op, Resource: gr.WithVersion("v1"), Subresource: sub, Namespace: ns, Name: name, Object: obj, Old: old,
		User: &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}}
}

func TestNodeRestriction(t *testing.T) {
	nodes, leases, accounts := schema.GroupResource{Resource: "nodes"}, schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}, schema.GroupResource{Resource: "serviceaccounts"}
	node := func(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	token := func(pod string, uid types.UID, audiences ...string) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: uid}}}
	}
	own := map[string]string{"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "mine": "z", "topology.kubernetes.io/zone": "a"}
	role := map[string]string{"node-role.kubernetes.io/control-plane": ""}
	mine, theirs := world()["pods"][0].(*corev1.Pod), world()["pods"][1].(*corev1.Pod)
	relabelled := mine.DeepCopy()
	relabelled.Labels = map[string]string{"app": "db"}
	cases := []struct {
		name, refusal string
		r             *Request
	}{
		{"own node", "", nodeRequest(Create, nodes, "", "", "n1", node("n1", own), nil)},
		{"another node", `node "n1" is not allowed to modify node "n2"`, nodeRequest(Create, nodes, "", "", "n2", node("n2", nil), nil)},
		{"a role", "node-role.kubernetes.io/control-plane", nodeRequest(Create, nodes, "", "", "n1", node("n1", role), nil)},
		{"a role later", "is not allowed to modify labels: node-role.kubernetes.io/control-plane", nodeRequest(Update, nodes, "", "", "n1", node("n1", role), node("n1", nil))},
		{"dropping a role", "is not allowed to modify labels", nodeRequest(Update, nodes, "", "", "n1", node("n1", nil), node("n1", role))},
		{"keeping a role", "", nodeRequest(Update, nodes, "status", "", "n1", node("n1", role), node("n1", role))},
		{"taints", "is not allowed to modify taints", nodeRequest(Update, nodes, "", "", "n1", node("n1", nil), node("n1", nil, corev1.Taint{Key: "a"}))},
		{"own status", "", nodeRequest(Update, pods, "status", "default", "mine", mine, mine)},
		{"labels by status", "cannot update labels through pod status", nodeRequest(Update, pods, "status", "default", "mine", relabelled, mine)},
		{"another's status", "can only update pod status for pods with spec.nodeName set to itself", nodeRequest(Update, pods, "status", "default", "theirs", theirs, theirs)},
		{"own pod deleted", "", nodeRequest(Delete, pods, "", "default", "mine", nil, mine)},
		{"another's deleted", "can only delete pods with spec.nodeName set to itself", nodeRequest(Delete, pods, "", "default", "theirs", nil, theirs)},
		{"exec", `unexpected pod subresource "exec", only 'status' and 'eviction' are allowed`, nodeRequest(Connect, pods, "exec", "default", "mine", nil, nil)},
		{"own lease", "", nodeRequest(Create, leases, "", "kube-node-lease", "", &coordinationv1.Lease{ObjectMeta: om("kube-node-lease", "n1")}, nil)},
		{"another's lease", "can only access node lease with the same name as the requesting node", nodeRequest(Create, leases, "", "kube-node-lease", "", &coordinationv1.Lease{ObjectMeta: om("kube-node-lease", "n2")}, nil)},
		{"lease elsewhere", "can only access leases in the", nodeRequest(Update, leases, "", "default", "n1", nil, nil)},
		{"token", "", nodeRequest(Create, accounts, "token", "default", "default", token("mine", "u1"), nil)},
		{"token not bound", "node requested token not bound to a pod", nodeRequest(Create, accounts, "token", "default", "default", &authenticationv1.TokenRequest{}, nil)},
		{"token without uid", "with a pod binding without a uid", nodeRequest(Create, accounts, "token", "default", "default", token("mine", ""), nil)},
		{"token of another life", "does not match the UID in record", nodeRequest(Create, accounts, "token", "default", "default", token("mine", "u2"), nil)},
		{"token of another audience", `audience "vault" not found in pod spec volume`, nodeRequest(Create, accounts, "token", "default", "default", token("mine", "u1", "vault"), nil)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := nodeRestriction{reader: world()}.Mutate(t.Context(), c.r)
			if c.refusal == "" && err != nil || c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)) {
				t.Errorf("got %v", err)
			}
		})
	}
	nameless := nodeRequest(Create, nodes, "", "", "n1", node("n1", nil), nil)
	nameless.User = &user.DefaultInfo{Name: "n1", Groups: []string{"system:nodes"}}
	if err := (nodeRestriction{reader: world()}).Mutate(t.Context(), nameless); err == nil {
		t.Error("a member of system:nodes without a node's name was let through")
	}
}

func TestNewNodeIsTainted(t *testing.T) {
	n := &corev1.Node{ObjectMeta: om("", "n1")}
	r := nodeRequest(Create, schema.GroupResource{Resource: "nodes"}, "", "", "n1", n, nil)
	for range 2 {
		if err := admit(t, r); err != nil || len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
			t.Fatalf("%v, %v", n.Spec.Taints, err)
		}
	}
}
