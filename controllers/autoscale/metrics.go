package autoscale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/coracle-dev/coracle/controllers/autoscale/recommend"
)

// customGroup is the API that adapters of monitoring systems serve for metrics of objects. Version v1beta2 is asked for first.
const customGroup = "custom.metrics.k8s.io"

var (
	customNew = schema.GroupVersion{Group: customGroup, Version: "v1beta2"}
	customOld = schema.GroupVersion{Group: customGroup, Version: "v1beta1"}
)

// wholeWindow is what a custom metric was measured over, unless it says so.
const wholeWindow = time.Minute

// metrics reads the three metrics APIs. All of them are asked in JSON, which every server of them speaks.
type metrics struct {
	resources, external, customNew, customOld rest.Interface
	groups                                    discovery.ServerGroupsInterface
	mapper                                    meta.RESTMapper
}

func newMetrics(cfg *rest.Config, groups discovery.ServerGroupsInterface, mapper meta.RESTMapper) (*metrics, error) {
	var failed error
	client := func(gv schema.GroupVersion) rest.Interface {
		c := rest.CopyConfig(cfg)
		c.APIPath, c.GroupVersion, c.NegotiatedSerializer = "/apis", &gv, scheme.Codecs.WithoutConversion()
		c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
		r, err := rest.RESTClientFor(c)
		failed = errors.Join(failed, err)
		return r
	}
	m := &metrics{
		resources: client(metricsv1beta1.SchemeGroupVersion), external: client(externalv1beta1.SchemeGroupVersion),
		customNew: client(customNew), customOld: client(customOld), groups: groups, mapper: mapper,
	}
	return m, failed
}

// read asks for one document and decodes it.
func read[T any](ctx context.Context, r *rest.Request, selector labels.Selector) (T, error) {
	var into T
	if !selector.Empty() {
		r = r.Param("labelSelector", selector.String())
	}
	data, err := r.Do(ctx).Raw()
	if err != nil {
		return into, err
	}
	return into, json.Unmarshal(data, &into)
}

// ofResource reads how much of a resource each of the pods uses, or one container of each.
func (m *metrics) ofResource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) (recommend.Samples, error) {
	list, err := read[metricsv1beta1.PodMetricsList](ctx, m.resources.Get().Namespace(namespace).Resource("pods"), pods)
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	samples := recommend.Samples{}
	for i := range list.Items {
		pod := &list.Items[i]
		if v, ok := usage(pod, name, container); ok {
			samples[pod.Name] = recommend.Sample{Value: v, At: pod.Timestamp.Time, Window: pod.Window.Duration}
		}
	}
	return samples, nil
}

// usage sums up what a pod's containers use; not ok when one of them has not been measured.
func usage(pod *metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (int64, bool) {
	var sum int64
	found := false
	for i := range pod.Containers {
		c := &pod.Containers[i]
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Usage[name]
		if !ok {
			return 0, false
		}
		sum, found = sum+q.MilliValue(), true
	}
	return sum, found
}

// customValues are the list of both versions of custom metrics, of which they read what is needed.
type customValues struct {
	Items []struct {
		DescribedObject corev1.ObjectReference `json:"describedObject"`
		Timestamp       metav1.Time            `json:"timestamp"`
		WindowSeconds   *int64                 `json:"windowSeconds"`
		Window          *int64                 `json:"window"`
		Value           resource.Quantity      `json:"value"`
	} `json:"items"`
}

// custom reads a custom metric by the path that at makes.
func (m *metrics) custom(ctx context.Context, at func(*rest.Request) *rest.Request, objects, labelled labels.Selector) (*customValues, error) {
	ask := func(client rest.Interface) (customValues, error) {
		r := at(client.Get())
		if !labelled.Empty() {
			r = r.Param("metricLabelSelector", labelled.String())
		}
		return read[customValues](ctx, r, objects)
	}
	values, err := ask(m.customNew)
	if apierrors.IsNotFound(err) {
		old, known := m.customVersions()
		if known != nil {
			err = known
		} else if old {
			values, err = ask(m.customOld)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return &values, nil
}

// customVersions tells whether only the older version is served. Its error says that none is.
func (m *metrics) customVersions() (old bool, err error) {
	groups, err := m.groups.ServerGroups()
	if err != nil {
		return false, err
	}
	for i := range groups.Groups {
		if groups.Groups[i].Name != customGroup {
			continue
		}
		served := map[string]bool{}
		for _, v := range groups.Groups[i].Versions {
			served[v.Version] = true
		}
		return served[customOld.Version] && !served[customNew.Version], nil
	}
	return false, fmt.Errorf("no custom metrics API (%s) registered", customGroup)
}

// ofPods reads a metric of each of the pods.
func (m *metrics) ofPods(ctx context.Context, namespace, metric string, pods, labelled labels.Selector) (recommend.Samples, error) {
	list, err := m.custom(ctx, func(r *rest.Request) *rest.Request {
		return r.Namespace(namespace).Resource("pods").Name("*").SubResource(metric)
	}, pods, labelled)
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	samples := recommend.Samples{}
	for i := range list.Items {
		v := &list.Items[i]
		window := wholeWindow
		if v.WindowSeconds != nil {
			window = time.Duration(*v.WindowSeconds) * time.Second
		} else if v.Window != nil {
			window = time.Duration(*v.Window) * time.Second
		}
		samples[v.DescribedObject.Name] = recommend.Sample{Value: v.Value.MilliValue(), At: v.Timestamp.Time, Window: window}
	}
	return samples, nil
}

// ofObject reads a metric of one object, in thousandths.
func (m *metrics) ofObject(ctx context.Context, namespace, metric string, ref *autoscalingv2.CrossVersionObjectReference, labelled labels.Selector) (int64, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return 0, err
	}
	gk := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	at := func(r *rest.Request) *rest.Request { return r.Namespace(ref.Name).Resource("metrics").Name(metric) }
	if gk != (schema.GroupKind{Kind: "Namespace"}) {
		mapping, err := m.mapper.RESTMapping(gk)
		if err != nil {
			return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: unable to map kind %s to resource: %w", gk, err)
		}
		at = func(r *rest.Request) *rest.Request {
			return r.Namespace(namespace).Resource(mapping.Resource.GroupResource().String()).Name(ref.Name).SubResource(metric)
		}
	}
	list, err := m.custom(ctx, at, labels.Everything(), labelled)
	if err != nil {
		return 0, err
	}
	if len(list.Items) != 1 {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: the custom metrics API server returned %d results when we asked for exactly one", len(list.Items))
	}
	return list.Items[0].Value.MilliValue(), nil
}

// fromOutside reads a metric that belongs to no object, summed up over its series, in thousandths.
func (m *metrics) fromOutside(ctx context.Context, namespace, metric string, labelled labels.Selector) (int64, error) {
	list, err := read[externalv1beta1.ExternalMetricValueList](ctx, m.external.Get().Namespace(namespace).Resource(metric), labelled)
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return 0, errors.New("no metrics returned from external metrics API")
	}
	var sum int64
	for i := range list.Items {
		sum += list.Items[i].Value.MilliValue()
	}
	return sum, nil
}
