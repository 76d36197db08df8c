// Package client makes API clients that all look alike: protobuf on the wire, the component in the user
// agent, and no client-side rate limit, for the API server is the one that protects itself.
package client

import (
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/internal/version"
)

// Config says how a component reaches the API server: by a kubeconfig's path, or by a finished configuration
// (in one process with the server), which wins.
type Config struct {
	Kubeconfig string
	RestConfig *rest.Config
	// Component names the client, as "scheduler"; the user agent is coracle-<component>/<version>.
	Component string
}

// REST is the client configuration, private to the caller.
func (c Config) REST() (*rest.Config, error) {
	cfg, err := c.base()
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = c.userAgent()
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.QPS = -1
	cfg.RateLimiter = nil
	return cfg, nil
}

func (c Config) base() (*rest.Config, error) {
	if c.RestConfig != nil {
		return rest.CopyConfig(c.RestConfig), nil
	}
	if c.Kubeconfig == "" {
		return nil, errors.New("no kubeconfig given: name one with --kubeconfig")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig, err)
	}
	return cfg, nil
}

func (c Config) userAgent() string {
	return "coracle-" + c.Component + "/" + version.Version
}

// Clientset is a typed client of REST's configuration.
func (c Config) Clientset() (kubernetes.Interface, error) {
	cfg, err := c.REST()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// Informers is a factory whose objects carry no managedFields, which starts from the newest state, and which never resyncs: state
// decides, and a periodic replay only costs. Options may narrow or replace that.
func Informers(client kubernetes.Interface, opts ...informers.SharedInformerOption) informers.SharedInformerFactory {
	opts = append([]informers.SharedInformerOption{informers.WithTransform(DropManagedFields), informers.WithTweakListOptions(Newest)}, opts...)
	return informers.NewSharedInformerFactoryWithOptions(client, 0, opts...)
}

// Newest makes a list that any version would do for a list of what there is now. An informer's first list asks for any: who counts on
// it knows less than the process that did its work before, and would do that work again.
func Newest(o *metav1.ListOptions) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = ""
	}
}

// DropManagedFields is an informer transform. It never changes what it is given, which inside the server's process may be
// an object that others share: the copy it returns differs in that one field and shares the rest.
func DropManagedFields(obj any) (any, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil || accessor.GetManagedFields() == nil {
		return obj, nil // tombstones pass as they are
	}
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return obj, nil
	}
	dup := reflect.New(v.Elem().Type())
	dup.Elem().Set(v.Elem())
	if _, unstructured := dup.Interface().(runtime.Unstructured); unstructured {
		return obj, nil // its fields live in a shared map
	}
	if accessor, err = meta.Accessor(dup.Interface()); err != nil {
		return obj, nil
	}
	accessor.SetManagedFields(nil)
	return dup.Interface(), nil
}
