package conformance

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

var namespaceTests = map[string]func(*env){
	"labels are patched and updated":         namespaceUpdate,
	"status takes conditions":                namespaceStatus,
	"a finalizer of somebody's keeps it":     namespaceFinalizer,
	"pods go before everything else":         namespaceOrder,
	"nothing is created in one that goes":    namespaceTerminating,
	"those of the system cannot be deleted":  namespaceProtected,
	"what is left is told in its conditions": namespaceConditions,
	"pods and services go with it":           namespaceContent,
	"every one has the root certificate":     namespaceCertificate,
}

func (e *env) changeNamespace(name string, change func(*corev1.Namespace) (*corev1.Namespace, error)) *corev1.Namespace {
	e.Helper()
	var got *corev1.Namespace
	e.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ns, err := e.kube.CoreV1().Namespaces().Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got, err = change(ns)
		return err
	}))
	return got
}

func namespaceUpdate(e *env) {
	namespaces := e.kube.CoreV1().Namespaces()
	ns, err := namespaces.Patch(e.ctx, e.ns, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "label", ns.Labels["patched"], "yes")
	equal(e, "its name's label", ns.Labels[corev1.LabelMetadataName], e.ns)
	ns = e.changeNamespace(e.ns, func(ns *corev1.Namespace) (*corev1.Namespace, error) {
		ns.Labels["updated"] = "yes"
		return namespaces.Update(e.ctx, ns, metav1.UpdateOptions{})
	})
	equal(e, "label", ns.Labels["updated"], "yes")
}

func namespaceStatus(e *env) {
	namespaces := e.kube.CoreV1().Namespaces()
	ns, err := namespaces.Get(e.ctx, e.ns, metav1.GetOptions{})
	e.must(err)
	equal(e, "phase", ns.Status.Phase, corev1.NamespaceActive)
	ns, err = namespaces.Patch(e.ctx, e.ns, types.MergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"Patched","status":"True","reason":"E2E","message":"by a test"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	equal(e, "conditions", len(ns.Status.Conditions), 1)
	ns = e.changeNamespace(e.ns, func(ns *corev1.Namespace) (*corev1.Namespace, error) {
		ns.Status.Conditions = append(ns.Status.Conditions, corev1.NamespaceCondition{Type: "Updated", Status: corev1.ConditionTrue})
		return namespaces.UpdateStatus(e.ctx, ns, metav1.UpdateOptions{})
	})
	equal(e, "conditions", len(ns.Status.Conditions), 2)
}

// namespaceFor makes another one, to delete.
func (e *env) namespaceFor(name string) string {
	e.Helper()
	ns, err := e.kube.CoreV1().Namespaces().Create(e.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}, metav1.CreateOptions{})
	e.must(err)
	return ns.Name
}

// namespaceGone waits for the end.
func (e *env) namespaceGone(name string) {
	e.Helper()
	e.eventually(func() error {
		ns, err := e.kube.CoreV1().Namespaces().Get(e.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v: %v", err, ns.Status)
	})
}

func namespaceFinalizer(e *env) {
	const finalizer = "example.org/keep"
	name := e.namespaceFor("kept")
	namespaces := e.kube.CoreV1().Namespaces()
	ns := e.changeNamespace(name, func(ns *corev1.Namespace) (*corev1.Namespace, error) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, finalizer)
		return namespaces.Finalize(e.ctx, ns, metav1.UpdateOptions{})
	})
	if !slices.Contains(ns.Spec.Finalizers, finalizer) {
		e.Fatalf("finalizers %v", ns.Spec.Finalizers)
	}
	e.must(namespaces.Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(func() error {
		ns, err := namespaces.Get(e.ctx, name, metav1.GetOptions{})
		e.must(err)
		if len(ns.Spec.Finalizers) != 1 || ns.Status.Phase != corev1.NamespaceTerminating {
			return fmt.Errorf("%v %v", ns.Spec.Finalizers, ns.Status.Phase)
		}
		return nil
	})
	e.changeNamespace(name, func(ns *corev1.Namespace) (*corev1.Namespace, error) {
		ns.Spec.Finalizers = nil
		return namespaces.Finalize(e.ctx, ns, metav1.UpdateOptions{})
	})
	e.namespaceGone(name)
}

func namespaceOrder(e *env) {
	name := e.namespaceFor("ordered")
	held := pod("held")
	held.Finalizers = []string{"example.org/keep"}
	e.eventually(func() error {
		_, err := e.kube.CoreV1().Pods(name).Create(e.ctx, held, metav1.CreateOptions{})
		return err
	})
	maps := e.kube.CoreV1().ConfigMaps(name)
	_, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last"}}, metav1.CreateOptions{})
	e.must(err)
	e.must(e.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(func() error {
		p, err := e.kube.CoreV1().Pods(name).Get(e.ctx, "held", metav1.GetOptions{})
		e.must(err)
		if p.DeletionTimestamp == nil {
			return fmt.Errorf("the pod is not being deleted")
		}
		return e.namespaceCondition(name, corev1.NamespaceContentRemaining)
	})
	_, err = maps.Get(e.ctx, "last", metav1.GetOptions{})
	e.must(err)
	_, err = e.kube.CoreV1().Pods(name).Patch(e.ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	e.must(err)
	e.namespaceGone(name)
}

func (e *env) namespaceCondition(name string, want corev1.NamespaceConditionType) error {
	ns, err := e.kube.CoreV1().Namespaces().Get(e.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range ns.Status.Conditions {
		if c.Type == want && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("conditions %v", ns.Status.Conditions)
}

func namespaceTerminating(e *env) {
	name := e.namespaceFor("going")
	maps := e.kube.CoreV1().ConfigMaps(name)
	_, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/keep"}}}, metav1.CreateOptions{})
	e.must(err)
	e.must(e.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}))
	_, err = maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	e.refused(err, `configmaps "late" is forbidden: unable to create new content in namespace `+name+` because it is being terminated`)
	_, err = maps.Patch(e.ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	e.must(err)
	e.namespaceGone(name)
}

func namespaceProtected(e *env) {
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		e.refused(e.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}), `namespaces "`+name+`" is forbidden: this namespace may not be deleted`)
	}
}

func namespaceConditions(e *env) {
	name := e.namespaceFor("told")
	maps := e.kube.CoreV1().ConfigMaps(name)
	_, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/keep"}}}, metav1.CreateOptions{})
	e.must(err)
	e.must(e.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(func() error { return e.namespaceCondition(name, corev1.NamespaceFinalizersRemaining) })
	ns, err := e.kube.CoreV1().Namespaces().Get(e.ctx, name, metav1.GetOptions{})
	e.must(err)
	for _, c := range ns.Status.Conditions {
		switch c.Type {
		case corev1.NamespaceFinalizersRemaining:
			equal(e, "message", c.Message, "Some content in the namespace has finalizers remaining: example.org/keep in 1 resource instances")
		case corev1.NamespaceContentRemaining:
			equal(e, "message", c.Message, "Some resources are remaining: configmaps. has 1 resource instances")
		}
	}
	_, err = maps.Patch(e.ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	e.must(err)
	e.namespaceGone(name)
}

func namespaceContent(e *env) {
	name := e.namespaceFor("full")
	e.eventually(func() error {
		_, err := e.kube.CoreV1().Pods(name).Create(e.ctx, pod("one"), metav1.CreateOptions{})
		return err
	})
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err := e.kube.CoreV1().Services(name).Create(e.ctx, service, metav1.CreateOptions{})
	e.must(err)
	e.must(e.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.namespaceGone(name)
	e.eventually(func() error { // the name can be had again, and nothing is in it
		_, err := e.kube.CoreV1().Namespaces().Create(e.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	})
	pods, err := e.kube.CoreV1().Pods(name).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	services, err := e.kube.CoreV1().Services(name).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "objects", len(pods.Items)+len(services.Items), 0)
	e.must(e.kube.CoreV1().Namespaces().Delete(e.ctx, name, metav1.DeleteOptions{}))
}

func namespaceCertificate(e *env) {
	const name = "kube-root-ca.crt"
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	var ca string
	there := func() error {
		m, err := maps.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ca == "" {
			ca = m.Data["ca.crt"]
		}
		return same(m.Data["ca.crt"], ca)
	}
	e.eventually(there)
	if ca == "" {
		e.Error("no certificate")
	}
	e.must(maps.Delete(e.ctx, name, metav1.DeleteOptions{}))
	e.eventually(there)
	_, err := maps.Patch(e.ctx, name, types.MergePatchType, []byte(`{"data":{"ca.crt":"changed"}}`), metav1.PatchOptions{})
	e.must(err)
	e.eventually(there)
}
