package conformance

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/dynamic"
)

var aggregationTests = map[string]func(*env){
	"another server serves a group": aggregate,
}

// extension is an API server of one kind of another group, which knows the aggregator by its certificate.
type extension struct {
	group string
	roots *x509.CertPool
}

func (x *extension) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if len(req.TLS.PeerCertificates) == 0 {
		http.Error(w, "no certificate", http.StatusUnauthorized)
		return
	}
	if _, err := req.TLS.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: x.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	version := x.group + "/v1"
	path, ok := strings.CutPrefix(req.URL.Path, "/apis/"+version)
	switch {
	case !ok:
		http.NotFound(w, req)
	case path == "":
		_ = json.NewEncoder(w).Encode(metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version,
			APIResources: []metav1.APIResource{{Name: "flunders", SingularName: "flunder", Namespaced: true, Kind: "Flunder", Verbs: metav1.Verbs{"get", "list", "create"}}}})
	default:
		namespace := strings.Split(strings.TrimPrefix(path, "/namespaces/"), "/")[0]
		_, _ = fmt.Fprintf(w, `{"apiVersion":%q,"kind":"FlunderList","metadata":{},"items":[{"apiVersion":%q,"kind":"Flunder","metadata":{"name":"one","namespace":%q,"annotations":{"user":%q,"groups":%q}}}]}`,
			version, version, namespace, req.Header.Get("X-Remote-User"), strings.Join(req.Header.Values("X-Remote-Group"), ","))
	}
}

// frontProxyCA is how other servers know the aggregator.
func (e *env) frontProxyCA() *x509.CertPool {
	e.Helper()
	m, err := e.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(e.ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	e.must(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(m.Data["requestheader-client-ca-file"])) {
		e.Fatalf("no certificate in %v", m.Data)
	}
	return pool
}

// address gives the cluster's namespace an address that is no loopback's, as Services may have endpoints at.
func (e *env) address(ip string) string {
	e.Helper()
	if out, err := e.cluster.Command("ip", "address", "replace", ip+"/32", "dev", "lo").CombinedOutput(); err != nil {
		e.Fatalf("ip address: %v: %s", err, out)
	}
	return ip
}

// serviceAt is a Service with one endpoint, which is no pod.
func (e *env) serviceAt(name, ip string, port int32) {
	e.Helper()
	_, err := e.kube.CoreV1().Services(e.ns).Create(e.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
	}, metav1.CreateOptions{})
	e.must(err)
	https, ready := "https", true
	_, err = e.kube.DiscoveryV1().EndpointSlices(e.ns).Create(e.ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &https, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}, metav1.CreateOptions{})
	e.must(err)
}

func aggregate(e *env) {
	x := &extension{group: "w" + rand.String(6) + ".example.com", roots: e.frontProxyCA()}
	ip := e.address("10.213.0.1")
	port, ca := e.server(ip, x, "api."+e.ns+".svc")
	e.serviceAt("api", ip, port)
	services := e.dynamic.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	name := "v1." + x.group
	_, err := services.Create(e.ctx, e.object(`{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":%q,"labels":{"of":%q}},"spec":{"group":%q,"version":"v1",
		"groupPriorityMinimum":2000,"versionPriority":200,"caBundle":%q,"service":{"namespace":%q,"name":"api","port":443}}}`,
		name, e.ns, x.group, base64.StdEncoding.EncodeToString(ca), e.ns), metav1.CreateOptions{})
	e.must(err)
	e.eventually(func() error {
		got, err := services.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions")
		if !slices.ContainsFunc(conditions, func(c any) bool {
			m, _ := c.(map[string]any)
			return m["type"] == "Available" && m["status"] == "True"
		}) {
			return fmt.Errorf("conditions %v", conditions)
		}
		return nil
	})
	flunders := schema.GroupVersionResource{Group: x.group, Version: "v1", Resource: "flunders"}
	e.aggregated(flunders)
	e.changeAPIService(services, name)
	e.must(services.DeleteCollection(e.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=" + e.ns}))
	e.eventually(func() error {
		_, err := e.dynamic.Resource(flunders).Namespace(e.ns).List(e.ctx, metav1.ListOptions{})
		if err == nil || !strings.Contains(err.Error(), "could not find the requested resource") {
			return fmt.Errorf("still served: %v", err)
		}
		return nil
	})
}

// aggregated uses the group as its clients do.
func (e *env) aggregated(gvr schema.GroupVersionResource) {
	e.Helper()
	e.eventually(func() error {
		l, err := e.dynamic.Resource(gvr).Namespace(e.ns).List(e.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		return same(l.Items[0].GetAnnotations()["user"], "kubernetes-admin")
	})
	e.grantCluster("looker", gvr.Group, gvr.Resource)
	config := e.impersonating("looker")
	other, err := dynamic.NewForConfig(config)
	e.must(err)
	e.eventually(func() error {
		l, err := other.Resource(gvr).Namespace(e.ns).List(e.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		equal(e, "user", l.Items[0].GetAnnotations()["user"], "system:serviceaccount:"+e.ns+":looker")
		return same(l.Items[0].GetAnnotations()["groups"], "system:serviceaccounts,system:serviceaccounts:"+e.ns+",system:authenticated")
	})
	stranger, err := dynamic.NewForConfig(e.impersonating("stranger"))
	e.must(err)
	_, err = stranger.Resource(gvr).Namespace(e.ns).List(e.ctx, metav1.ListOptions{})
	e.refused(err, `cannot list resource "flunders" in API group "`+gvr.Group+`"`)
	e.eventually(func() error {
		lists, err := e.kube.Discovery().ServerPreferredResources()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
			return l.GroupVersion == gvr.GroupVersion().String() && len(l.APIResources) == 1 && l.APIResources[0].Kind == "Flunder"
		}) {
			return fmt.Errorf("discovery does not show %v", gvr)
		}
		return nil
	})
	e.kubectlSays("", []string{"get", gvr.Resource + "." + gvr.Group, "-o", "name"}, "flunder."+gvr.Group+"/one")
}

func (e *env) changeAPIService(services dynamic.ResourceInterface, name string) {
	e.Helper()
	got, err := services.Patch(e.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), metav1.PatchOptions{})
	e.must(err)
	equal(e, "annotation", got.GetAnnotations()["patched"], "yes")
	got, err = services.Patch(e.ctx, name, types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True","reason":"E2E","message":"by a test"}]}}`), metav1.PatchOptions{}, "status")
	e.must(err)
	conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions")
	equal(e, "conditions", len(conditions), 1)
	e.eventually(func() error {
		got, err := services.Get(e.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := unstructured.SetNestedField(got.Object, int64(300), "spec", "versionPriority"); err != nil {
			return err
		}
		_, err = services.Update(e.ctx, got, metav1.UpdateOptions{})
		return err
	})
	if _, err := services.Get(e.ctx, name, metav1.GetOptions{}, "status"); err != nil {
		e.Errorf("get status: %v", err)
	}
}
