package admission

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

const psa = "pod-security.kubernetes.io/"

func labelled(name string, labels ...string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for i := 0; i < len(labels); i += 2 {
		ns.Labels[psa+labels[i]] = labels[i+1]
	}
	return ns
}

func security(r Reader) Plugin { return newPodSecurity(r) }

func bad(ns string) *corev1.Pod {
	pod := simplePod(ns)
	pod.Spec.HostNetwork = true
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	return pod
}

func TestPodSecurityOfPods(t *testing.T) {
	namespaces := objects{"namespaces": {
		labelled("open"), labelled("base", "enforce", "baseline", "enforce-version", "v1.20"),
		labelled("strict", "enforce", "restricted"), labelled("soft", "warn", "baseline", "audit", "restricted"),
		labelled("both", "enforce", "baseline", "warn", "restricted"),
	}}
	const restricted = `allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		text string
		warn []string
	}{
		{"open", bad("open"), "", nil},
		{"base", bad("base"), `pods "p" is forbidden: violates PodSecurity "baseline:v1.20": host namespaces (hostNetwork=true), privileged (container "c" must not set securityContext.privileged=true)`, nil},
		{"base, harmless", simplePod("base"), "", nil},
		{"strict", simplePod("strict"), `pods "p" is forbidden: violates PodSecurity "restricted:latest": ` + restricted, nil},
		{"soft", bad("soft"), "", []string{`would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true), privileged (container "c" must not set securityContext.privileged=true)`}},
		{"both", simplePod("both"), "", []string{`would violate PodSecurity "restricted:latest": ` + restricted}},
	} {
		t.Run(c.name, func(t *testing.T) {
			warnings, err := in(t, namespaces, security, podRequest(c.pod))
			wantText(t, err, c.text)
			if err != nil && !apierrors.IsForbidden(err) {
				t.Errorf("%v", err)
			}
			if !slices.Equal(warnings, c.warn) {
				t.Errorf("warnings %q, want %q", warnings, c.warn)
			}
		})
	}
	update := podRequest(bad("base"))
	update.Operation, update.Old = Update, bad("base")
	_, err := in(t, namespaces, security, update)
	wantText(t, err, "")
	update.Object.(*corev1.Pod).Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}}}
	update.Subresource = "ephemeralcontainers"
	if _, err = in(t, namespaces, security, update); !apierrors.IsForbidden(err) {
		t.Errorf("a new ephemeral container: %v", err)
	}
}

func TestPodSecurityOfWorkloads(t *testing.T) {
	namespaces := objects{"namespaces": {labelled("strict", "enforce", "baseline"), labelled("open")}}
	for ns, want := range map[string]int{"strict": 1, "open": 0} {
		d := &appsv1.Deployment{ObjectMeta: om(ns, "d"), Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: bad(ns).Spec}}}
		r := &Request{Operation: Create, Resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, Namespace: ns, Name: "d", Object: d}
		warnings, err := in(t, namespaces, security, r)
		wantText(t, err, "")
		if len(warnings) != want {
			t.Errorf("%s: %q", ns, warnings)
		}
	}
}

func TestPodSecurityLabels(t *testing.T) {
	change := func(old, ns *corev1.Namespace) *Request {
		r := &Request{Operation: Update, Resource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, Kind: corev1.SchemeGroupVersion.WithKind("Namespace"), Namespace: ns.Name, Name: ns.Name, Object: ns}
		if old == nil {
			r.Operation = Create
		} else {
			r.Old = old
		}
		return r
	}
	owned := func(name, owner string) *corev1.Pod {
		pod := bad("n")
		pod.Name = name
		pod.OwnerReferences = []metav1.OwnerReference{{UID: "u", Name: owner, Controller: ptr.To(true)}}
		return pod
	}
	other := simplePod("n")
	other.Spec.HostPID = true
	pods := objects{"pods": {owned("b", "rs"), owned("a", "rs"), owned("c", "rs"), other}}

	_, err := in(t, pods, security, change(nil, labelled("n", "enforce", "harsh")))
	wantText(t, err, `Namespace "n" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "harsh": must be one of privileged, baseline, restricted`)
	_, err = in(t, pods, security, change(labelled("n", "enforce", "harsh"), labelled("n", "enforce", "harsh")))
	wantText(t, err, "")
	warnings, err := in(t, pods, security, change(labelled("n"), labelled("n", "enforce", "baseline")))
	wantText(t, err, "")
	want := []string{
		`existing pods in namespace "n" violate the new PodSecurity enforce level "baseline:latest"`,
		`a (and 2 other pods): host namespaces, privileged`,
		`p: host namespaces`,
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("%q\nwant %q", warnings, want)
	}
	for _, quiet := range []*Request{
		change(labelled("n", "enforce", "restricted"), labelled("n", "enforce", "baseline")),
		change(labelled("n", "enforce", "baseline"), labelled("n", "enforce", "baseline", "warn", "restricted")),
		change(labelled("n", "enforce", "baseline"), labelled("n")),
	} {
		if warnings, err := in(t, pods, security, quiet); err != nil || len(warnings) > 0 {
			t.Errorf("%v %q", err, warnings)
		}
	}
}
