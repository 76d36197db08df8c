package controllers_test

//lint:file-ignore SA1019 Endpoints are deprecated, and served for as long as the API has them.

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func (c *cluster) slices(service, managedBy string) []discoveryv1.EndpointSlice {
	c.Helper()
	list, err := c.client.DiscoveryV1().EndpointSlices("default").List(c.ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service + "," + discoveryv1.LabelManagedBy + "=" + managedBy,
	})
	c.must(err)
	return list.Items
}

// endpoints waits until the service's slices hold so many endpoints in all.
func (c *cluster) endpoints(service, managedBy string, want int) []discoveryv1.EndpointSlice {
	c.Helper()
	var list []discoveryv1.EndpointSlice
	c.eventually("slices of "+service, func() error {
		n := 0
		list = c.slices(service, managedBy)
		for _, s := range list {
			for _, e := range s.Endpoints {
				if ptr.Deref(e.Conditions.Ready, true) {
					n++
				}
			}
		}
		if n != want || len(list) == 0 {
			return fmt.Errorf("%d endpoints in %d slices, want %d", n, len(list), want)
		}
		return nil
	})
	return list
}

func TestServiceEndpoints(t *testing.T) {
	const managed = "endpointslice-controller.k8s.io"
	c := start(t, nil)
	c.node("n1")
	_, err := c.client.CoreV1().Services("default").Create(c.ctx, service("web"), metav1.CreateOptions{})
	c.must(err)
	c.endpoints("web", managed, 0)
	c.deploy(deployment(3))
	s := c.endpoints("web", managed, 3)[0]
	if *s.Ports[0].Port != 8080 || *s.Endpoints[0].NodeName != "n1" || s.Endpoints[0].TargetRef.Kind != "Pod" || s.OwnerReferences[0].Name != "web" {
		t.Fatalf("%+v", s)
	}
	c.eventually("Endpoints", func() error {
		e, err := c.client.CoreV1().Endpoints("default").Get(c.ctx, "web", metav1.GetOptions{})
		c.must(err)
		if len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 3 || e.Subsets[0].Ports[0].Port != 8080 {
			return fmt.Errorf("%+v", e.Subsets)
		}
		return nil
	})
	c.change("web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](1) })
	c.endpoints("web", managed, 1)
	c.must(c.client.CoreV1().Services("default").Delete(c.ctx, "web", metav1.DeleteOptions{}))
	c.eventually("end of slices", func() error {
		if n := len(c.slices("web", managed)); n != 0 {
			return fmt.Errorf("%d slices", n)
		}
		if _, err := c.client.CoreV1().Endpoints("default").Get(c.ctx, "web", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("the Endpoints object is still there")
		}
		return nil
	})
}

func TestMirroring(t *testing.T) {
	const managed = "endpointslicemirroring-controller.k8s.io"
	c := start(t, nil)
	s := service("db")
	s.Spec.Selector = nil
	_, err := c.client.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}, {IP: "192.0.2.2"}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.3"}},
		Ports: []corev1.EndpointPort{{Name: "http", Port: 5432, Protocol: corev1.ProtocolTCP}},
	}}}
	e, err = c.client.CoreV1().Endpoints("default").Create(c.ctx, e, metav1.CreateOptions{})
	c.must(err)
	list := c.endpoints("db", managed, 2)
	if len(list[0].Endpoints) != 3 || *list[0].Ports[0].Port != 5432 || list[0].OwnerReferences[0].Kind != "Endpoints" {
		t.Fatalf("%+v", list[0])
	}
	e.Subsets[0].Addresses = e.Subsets[0].Addresses[:1]
	_, err = c.client.CoreV1().Endpoints("default").Update(c.ctx, e, metav1.UpdateOptions{})
	c.must(err)
	if again := c.endpoints("db", managed, 1); again[0].Name != list[0].Name {
		t.Fatal("a change made a new slice")
	}
	time.Sleep(200 * time.Millisecond) // until nothing that the controller wrote itself wakes it again
	lost := c.slices("db", managed)[0]
	lost.Labels[discoveryv1.LabelServiceName] = "another"
	_, err = c.client.DiscoveryV1().EndpointSlices("default").Update(c.ctx, &lost, metav1.UpdateOptions{})
	c.must(err)
	c.endpoints("db", managed, 1) // a stranger gave it away: there is one again
	c.must(c.client.CoreV1().Services("default").Delete(c.ctx, "db", metav1.DeleteOptions{}))
	c.eventually("end of mirror", func() error {
		if n := len(c.slices("db", managed)); n != 0 {
			return fmt.Errorf("%d slices", n)
		}
		return nil
	})
}

func TestNamespaceLife(t *testing.T) {
	c := start(t, nil)
	c.node("n1")
	core := c.client.CoreV1()
	_, err := core.Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	c.must(err)
	c.eventually("defaults", func() error {
		if _, err := core.ServiceAccounts("team").Get(c.ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		ca, err := core.ConfigMaps("team").Get(c.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && ca.Data["ca.crt"] != "PEM" {
			return fmt.Errorf("%v", ca.Data)
		}
		return err
	})
	c.must(core.ServiceAccounts("team").Delete(c.ctx, "default", metav1.DeleteOptions{}))
	c.eventually("the account again", func() error {
		_, err := core.ServiceAccounts("team").Get(c.ctx, "default", metav1.GetOptions{})
		return err
	})
	_, err = core.ConfigMaps("team").Update(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "forged"}}, metav1.UpdateOptions{})
	c.must(err)
	c.eventually("the CA again", func() error {
		ca, err := core.ConfigMaps("team").Get(c.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && ca.Data["ca.crt"] != "PEM" {
			return fmt.Errorf("%v", ca.Data)
		}
		return err
	})
	_, err = c.client.AppsV1().Deployments("team").Create(c.ctx, deployment(3), metav1.CreateOptions{})
	c.must(err)
	held, err := core.ConfigMaps("team").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/hold"}}}, metav1.CreateOptions{})
	c.must(err)
	c.eventually("pods", func() error {
		list, err := core.Pods("team").List(c.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != 3 {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
	c.must(core.Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}))
	c.eventually("conditions", func() error {
		ns, err := core.Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		c.must(err)
		i := slices.IndexFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == corev1.NamespaceFinalizersRemaining })
		want := "Some content in the namespace has finalizers remaining: example.org/hold in 1 resource instances"
		if ns.Status.Phase != corev1.NamespaceTerminating || i < 0 || ns.Status.Conditions[i].Message != want {
			return fmt.Errorf("%+v", ns.Status)
		}
		return nil
	})
	held, err = core.ConfigMaps("team").Get(c.ctx, held.Name, metav1.GetOptions{})
	c.must(err)
	held.Finalizers = nil
	_, err = core.ConfigMaps("team").Update(c.ctx, held, metav1.UpdateOptions{})
	c.must(err)
	c.eventually("the end", func() error {
		if _, err := core.Namespaces().Get(c.ctx, "team", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("still there")
		}
		return nil
	})
}
