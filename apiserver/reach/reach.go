// Package reach connects the API server with pods and Services. Its invariant: a pod is reached only through the tunnel of the
// node that it runs on, so that a control plane needs no route to pods.
package reach

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Nodes opens a connection to a node's API through its tunnel.
type Nodes interface {
	DialNode(ctx context.Context, node string) (net.Conn, error)
}

// Reader looks at live objects, which are not to be changed.
type Reader interface {
	Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error)
	List(ctx context.Context, gr schema.GroupResource, namespace string) ([]runtime.Object, metav1.ListMeta, error)
}

// Endpoint is one place where a pod, a node or a Service listens.
type Endpoint struct {
	// Node whose tunnel leads there; empty: it is dialled from here.
	Node string
	// Namespace and Pod name the pod; empty is the node itself, or what is no pod.
	Namespace, Pod string
	// Host is an IP address, or the name of a Service of type ExternalName.
	Host string
	Port int
}

// Address is the endpoint as host:port.
func (e Endpoint) Address() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// Dialer makes connections. Reader is needed for Services alone, Nodes for what is on nodes.
type Dialer struct {
	Nodes  Nodes
	Reader Reader
}

// answerTimeout bounds how long a node may take to connect to its pod.
const answerTimeout = 15 * time.Second

// Dial connects to an endpoint. ctx bounds the dialling alone.
func (d *Dialer) Dial(ctx context.Context, e Endpoint) (net.Conn, error) {
	if e.Node == "" {
		return (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, "tcp", e.Address())
	}
	if d.Nodes == nil {
		return nil, errors.New("this server has no way to reach nodes")
	}
	conn, err := d.Nodes.DialNode(ctx, e.Node)
	if err != nil {
		return nil, fmt.Errorf("node %q cannot be reached: %w", e.Node, err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	joined, err := connect(conn, e)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("dial tcp %s: %w", e.Address(), err)
	}
	return joined, nil
}

// connect asks a node to switch the connection to the endpoint's port.
func connect(conn net.Conn, e Endpoint) (net.Conn, error) {
	u := &url.URL{Scheme: "http", Host: e.Node, Path: "/connect", RawQuery: url.Values{"ip": {e.Host}, "port": {strconv.Itoa(e.Port)}}.Encode()}
	if e.Pod != "" {
		u.Path += "/" + e.Namespace + "/" + e.Pod
	}
	req := &http.Request{Method: http.MethodGet, URL: u, Host: e.Node, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return &readAhead{Conn: conn, in: in}, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var status metav1.Status
	if json.Unmarshal(b, &status) == nil && status.Message != "" {
		return nil, errors.New(status.Message)
	}
	return nil, errors.New(resp.Status)
}

// readAhead is a connection of which some has been read already.
type readAhead struct {
	net.Conn
	in *bufio.Reader
}

func (c *readAhead) Read(b []byte) (int, error) { return c.in.Read(b) }

// UnavailableError tells why nothing can be reached by a Service now.
type UnavailableError struct{ Text string }

func (e *UnavailableError) Error() string { return e.Text }

func unavailable(format string, args ...any) error {
	return &UnavailableError{fmt.Sprintf(format, args...)}
}

// Service finds a ready endpoint of a Service's port, which is given by name or number; empty is the port without a name.
// The errors are UnavailableError, or what the Reader says.
func (d *Dialer) Service(ctx context.Context, namespace, name, port string) (Endpoint, error) {
	obj, err := d.Reader.Get(ctx, schema.GroupResource{Resource: "services"}, namespace, name)
	if err != nil {
		return Endpoint{}, err
	}
	service, ok := obj.(*corev1.Service)
	if !ok {
		return Endpoint{}, fmt.Errorf("unexpected object: %T", obj)
	}
	number, _ := strconv.Atoi(port)
	if service.Spec.Type == corev1.ServiceTypeExternalName && number != 0 {
		return Endpoint{Host: service.Spec.ExternalName, Port: number}, nil
	}
	if number != 0 {
		found := false
		for _, p := range service.Spec.Ports {
			if int(p.Port) == number {
				port, found = p.Name, true
				break
			}
		}
		if !found {
			return Endpoint{}, unavailable("no service port %d found for service %q", number, name)
		}
	}
	slices, err := d.Slices(ctx, namespace, name)
	if err != nil {
		return Endpoint{}, err
	}
	if all := endpoints(slices, port); len(all) > 0 {
		return all[rand.IntN(len(all))], nil
	}
	return Endpoint{}, unavailable("no endpoints available for service %q", name)
}

// DialService connects to a ready endpoint of a Service's port. Errors are those of Service and of Dial.
func (d *Dialer) DialService(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	e, err := d.Service(ctx, namespace, name, strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	return d.Dial(ctx, e)
}

// Slices are the EndpointSlices of a Service.
func (d *Dialer) Slices(ctx context.Context, namespace, name string) ([]*discoveryv1.EndpointSlice, error) {
	objs, _, err := d.Reader.List(ctx, schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"}, namespace)
	if err != nil {
		return nil, err
	}
	var out []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelServiceName] == name {
			out = append(out, s)
		}
	}
	return out, nil
}

// endpoints lists the ready endpoints of a named port.
func endpoints(slices []*discoveryv1.EndpointSlice, port string) []Endpoint {
	var all []Endpoint
	for _, s := range slices {
		number := 0
		for _, p := range s.Ports {
			if p.Port != nil && (p.Name == nil && port == "" || p.Name != nil && *p.Name == port) {
				number = int(*p.Port)
			}
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if number == 0 || len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			found := Endpoint{Host: e.Addresses[0], Port: number}
			if ref := e.TargetRef; ref != nil && ref.Kind == "Pod" && e.NodeName != nil {
				found.Node, found.Namespace, found.Pod = *e.NodeName, s.Namespace, ref.Name
			}
			all = append(all, found)
		}
	}
	return all
}
