package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"github.com/coracle-dev/coracle/apiserver/cache"
	"github.com/coracle-dev/coracle/apiserver/reach"
)

// proxyTarget is where a proxied request goes.
type proxyTarget struct {
	scheme string
	host   string // as clients there see it
	dial   func(ctx context.Context) (net.Conn, error)
}

// proxy hands a request on to what listens in a pod, behind a Service, or on a node.
func (c *call) proxy() error {
	path, err := c.proxyPath()
	if err != nil {
		return err
	}
	var target proxyTarget
	var options runtime.Object
	switch c.r.gr.Resource {
	case "pods":
		options = &corev1.PodProxyOptions{Path: path}
		target, err = c.podTarget()
	case "services":
		options = &corev1.ServiceProxyOptions{Path: path}
		target, err = c.serviceTarget()
	default:
		options = &corev1.NodeProxyOptions{Path: path}
		target, err = c.nodeTarget()
	}
	if err != nil {
		return err
	}
	if err := c.admitConnect(options); err != nil {
		return err
	}
	c.forward(target, path)
	return nil
}

// proxyPath is what of the path lies behind "proxy"; empty without a slash there.
func (c *call) proxyPath() (string, error) {
	if len(c.info.Parts) < 3 {
		return "", notFoundPath()
	}
	path := strings.Join(c.info.Parts[3:], "/")
	if strings.HasSuffix(c.req.URL.Path, "/") && !strings.HasSuffix(path, "/") {
		path += "/"
	}
	if path != "" && !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if slices.Contains(strings.Split(strings.ReplaceAll(path, `\`, "/"), "/"), "..") {
		return "", apierrors.NewBadRequest("the path of a proxied request must not contain \"..\"")
	}
	return path, nil
}

// targetName splits "https:name:port".
func (c *call) targetName(kind string) (scheme, name, port string, err error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.info.Name)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", kind, c.info.Name))
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme, name, port, nil
}

func (c *call) lookupNamed(name string) (runtime.Object, error) {
	o, err := c.Cache.Get(c.ctx(), c.r.storage, c.r.key(c.info.Namespace, name), newest)
	if err != nil {
		return nil, readError(c.r.gr, name, 0, err)
	}
	return o.Object, nil
}

func (c *call) podTarget() (proxyTarget, error) {
	scheme, name, port, err := c.targetName("pod")
	if err != nil {
		return proxyTarget{}, err
	}
	obj, err := c.lookupNamed(name)
	if err != nil {
		return proxyTarget{}, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return proxyTarget{}, apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", obj))
	}
	if port == "" {
		for i := range pod.Spec.Containers {
			if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
				port = strconv.Itoa(int(ports[0].ContainerPort))
				break
			}
		}
	}
	if err := proxyable(pod.Status.PodIP); err != nil {
		return proxyTarget{}, err
	}
	if pod.Spec.NodeName == "" {
		return proxyTarget{}, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return c.endpointTarget(scheme, port, reach.Endpoint{Node: pod.Spec.NodeName, Namespace: pod.Namespace, Pod: pod.Name, Host: pod.Status.PodIP})
}

// proxyable refuses the addresses by which a request would come back to this machine or its neighbours.
func proxyable(text string) error {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return apierrors.NewBadRequest("no valid addresses for host")
	}
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func (c *call) endpointTarget(scheme, port string, e reach.Endpoint) (proxyTarget, error) {
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return proxyTarget{}, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q", port))
	}
	e.Port = int(number)
	return c.reached(scheme, e), nil
}

func (c *call) reached(scheme string, e reach.Endpoint) proxyTarget {
	d := reach.Dialer{Nodes: c.Nodes}
	return proxyTarget{scheme: scheme, host: e.Address(), dial: func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, e) }}
}

func (c *call) serviceTarget() (proxyTarget, error) {
	scheme, name, port, err := c.targetName("service")
	if err != nil {
		return proxyTarget{}, err
	}
	d := reach.Dialer{Reader: c}
	e, err := d.Service(c.ctx(), c.info.Namespace, name, port)
	var gone *reach.UnavailableError
	if errors.As(err, &gone) {
		return proxyTarget{}, apierrors.NewServiceUnavailable(gone.Text)
	}
	if err != nil {
		return proxyTarget{}, err
	}
	if _, err := netip.ParseAddr(e.Host); err != nil { // a name of the client's choosing leads anywhere
		return proxyTarget{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	return c.reached(scheme, e), proxyable(e.Host)
}

// Get and List implement reach.Reader for a Service and its EndpointSlices.
func (c *call) Get(_ context.Context, _ schema.GroupResource, _, name string) (runtime.Object, error) {
	return c.lookupNamed(name)
}

// List implements reach.Reader.
func (c *call) List(ctx context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error) {
	l, err := c.Cache.List(ctx, gr.String(), cache.ListOptions{Scope: namespace + "/", Consistent: true})
	if err != nil {
		return nil, metav1.ListMeta{}, err
	}
	objs := make([]runtime.Object, len(l.Objects))
	for i, o := range l.Objects {
		objs[i] = o.Object
	}
	return objs, metav1.ListMeta{}, nil
}

// nodeTarget is the node's own API, or another port of the node.
func (c *call) nodeTarget() (proxyTarget, error) {
	scheme, name, port, err := c.targetName("node")
	if err != nil {
		return proxyTarget{}, err
	}
	obj, err := c.lookupNamed(name)
	if err != nil {
		return proxyTarget{}, err
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return proxyTarget{}, apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", obj))
	}
	kubelet := strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	if port == "" || port == kubelet {
		if c.Nodes == nil {
			return proxyTarget{}, apierrors.NewServiceUnavailable("this server has no way to reach nodes")
		}
		return proxyTarget{scheme: "http", host: name, dial: func(ctx context.Context) (net.Conn, error) { return c.Nodes.DialNode(ctx, name) }}, nil
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			if err := proxyable(a.Address); err != nil {
				return proxyTarget{}, err
			}
			return c.endpointTarget(scheme, port, reach.Endpoint{Node: name, Host: a.Address})
		}
	}
	return proxyTarget{}, apierrors.NewBadRequest("no valid addresses for host")
}

// notForwarded are headers that are this server's business, beside the hop-by-hop ones that the proxy drops.
var notForwarded = []string{"Authorization", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding"}

// forward passes the request on and the answer back. Locations and links in the answer are made to lead through the proxy.
func (c *call) forward(target proxyTarget, path string) {
	ctx, end := c.watches.endless(c.ctx())
	defer end()
	transport := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return target.dial(ctx) },
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as upstream: there is no name or CA to check it by
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	defer transport.CloseIdleConnections()
	req := c.req.Clone(ctx)
	for _, name := range notForwarded {
		req.Header.Del(name)
	}
	location := &url.URL{Scheme: target.scheme, Host: target.host, Path: path}
	utilproxy.NewUpgradeAwareHandler(location, transport, true, false, proxyErrors{c}).ServeHTTP(c.w, req)
}

// proxyErrors answers where the other side did not.
type proxyErrors struct{ c *call }

// Error implements utilproxy.ErrorResponder.
func (e proxyErrors) Error(w http.ResponseWriter, req *http.Request, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	WriteError(w, req, err)
}
