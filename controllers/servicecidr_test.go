package controllers_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/alloc"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/rest"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
	"github.com/coracle-dev/coracle/internal/client"
)

// allocating is an API server that gives Services addresses of a range, with the controllers named.
func allocating(t *testing.T, cidr string, names ...string) *cluster {
	t.Helper()
	t.Parallel()
	st, prefix := memory.New(), netip.MustParsePrefix(cidr)
	watched := apiserver.NewCache(st)
	a, err := alloc.New(alloc.Config{Store: st, Reader: apiserver.NewReader(watched), ServiceCIDR: prefix, FirstNodePort: 30000, LastNodePort: 32767})
	if err != nil {
		t.Fatal(err)
	}
	s := apiservertest.StartServer(t, apiserver.Config{Store: st, Cache: watched, ServiceCIDR: prefix, Hooks: map[schema.GroupResource]rest.Hook{
		{Resource: "services"}:                                {BeginCreate: a.BeginCreate, BeginUpdate: a.BeginUpdate, AfterDelete: a.AfterDelete},
		{Group: "networking.k8s.io", Resource: "ipaddresses"}: {AfterDelete: a.AddressDeleted},
	}})
	config, err := client.Config{RestConfig: s.LocalConfig(apiservertest.Admin), Component: "test"}.REST()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{T: t, ctx: t.Context(), config: config, client: kubernetes.NewForConfigOrDie(config)}
	c.control(names...)
	return c
}

func (c *cluster) service(name, ip string) (*corev1.Service, error) {
	return c.client.CoreV1().Services("default").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
}

// ready waits until a ServiceCIDR is held by its finalizer and says what is wanted.
func (c *cluster) ready(name string, want metav1.ConditionStatus, text string) {
	c.Helper()
	c.eventually("ServiceCIDR "+name, func() error {
		cidr, err := c.client.NetworkingV1().ServiceCIDRs().Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		r := meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		if r == nil || r.Status != want || !strings.Contains(r.Message, text) || !slices.Contains(cidr.Finalizers, "networking.k8s.io/service-cidr-finalizer") {
			return fmt.Errorf("%v %+v", cidr.Finalizers, cidr.Status)
		}
		return nil
	})
}

// TestServiceCIDRLife: the configured range is shown, another one gives addresses, and stays while they are in use.
func TestServiceCIDRLife(t *testing.T) {
	c := allocating(t, "10.0.0.0/30", "servicecidr")
	cidrs := c.client.NetworkingV1().ServiceCIDRs()
	c.ready("kubernetes", metav1.ConditionTrue, "Service CIDR is ready")
	for _, name := range []string{"a", "b"} {
		_, err := c.service(name, "")
		c.must(err)
	}
	if _, err := c.service("c", ""); err == nil || !strings.Contains(err.Error(), "range is full") {
		t.Errorf("%v", err)
	}
	_, err := cidrs.Create(c.ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.1.0.0/28"}}}, metav1.CreateOptions{})
	c.must(err)
	c.ready("more", metav1.ConditionTrue, "Kubernetes Service CIDR is ready")
	svc, err := c.service("c", "")
	c.must(err)
	if !strings.HasPrefix(svc.Spec.ClusterIP, "10.1.0.") {
		t.Errorf("%s", svc.Spec.ClusterIP)
	}
	c.must(cidrs.Delete(c.ctx, "more", metav1.DeleteOptions{}))
	c.ready("more", metav1.ConditionFalse, "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	if _, err := c.service("d", ""); err == nil {
		t.Error("a range on its way out gave an address")
	}
}

// TestIPAddressLife: each Service has its IPAddress, which goes with it and not before.
func TestIPAddressLife(t *testing.T) {
	c := allocating(t, "10.0.0.0/24", "servicecidr")
	addresses := c.client.NetworkingV1().IPAddresses()
	svc, err := c.service("web", "10.0.0.77")
	c.must(err)
	ip, err := addresses.Get(c.ctx, "10.0.0.77", metav1.GetOptions{})
	c.must(err)
	if ip.Spec.ParentRef == nil || *ip.Spec.ParentRef != (networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "web"}) || ip.UID == "" {
		t.Errorf("%+v", ip)
	}
	c.must(addresses.Delete(c.ctx, ip.Name, metav1.DeleteOptions{}))
	again, err := addresses.Get(c.ctx, ip.Name, metav1.GetOptions{})
	if err != nil || again.UID == ip.UID {
		t.Errorf("an address in use did not come back: %v", err)
	}
	_, err = c.service("thief", "10.0.0.77")
	if want := `Service "thief" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.77"]: failed to allocate IP 10.0.0.77: provided IP is already allocated`; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	c.must(c.client.CoreV1().Services("default").Delete(c.ctx, svc.Name, metav1.DeleteOptions{}))
	c.eventually("the address's end", func() error {
		if _, err := addresses.Get(c.ctx, ip.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("still there"), err)
		}
		return nil
	})
}
