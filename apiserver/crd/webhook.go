package crd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// webhookTimeout bounds one conversion; upstream's clients wait as long.
	webhookTimeout = 30 * time.Second
	// webhookAnswer is the largest answer read, in bytes.
	webhookAnswer = 64 << 20
)

// ServiceDialer connects to a port of a Service.
type ServiceDialer func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)

// webhooks converts objects by asking servers outside.
type webhooks struct {
	service ServiceDialer
}

// endpoint is one webhook as it is called.
type endpoint struct {
	url    string
	client *http.Client
}

// converter calls the webhook that a definition names.
func (h *webhooks) converter(w *apiextensionsv1.WebhookConversion) converter {
	open := sync.OnceValues(func() (*endpoint, error) { return h.endpoint(w.ClientConfig) })
	return func(all []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
		if len(all) == 1 && len(all[0].Object) <= 2 { // kind and apiVersion alone
			return rename(all, apiVersion)
		}
		gvk := all[0].GroupVersionKind()
		if !slices.Contains(w.ConversionReviewVersions, "v1") {
			return nil, errors.New("no supported conversion review versions")
		}
		e, err := open()
		if err != nil {
			return nil, fmt.Errorf("conversion webhook for %v failed: %w", gvk, err)
		}
		out, err := e.convert(all, apiVersion)
		if err != nil {
			return nil, fmt.Errorf("conversion webhook for %v failed: %w", gvk, err)
		}
		if len(out) != len(all) {
			return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", gvk, len(out), len(all))
		}
		for i, u := range out {
			if err := accept(all[i], u, apiVersion); err != nil {
				return nil, fmt.Errorf("conversion webhook for %v returned invalid converted object: %w", gvk, err)
			}
			if err := restore(all[i], u); err != nil {
				return nil, fmt.Errorf("conversion webhook for %v returned invalid metadata: %w", gvk, err)
			}
		}
		return out, nil
	}
}

// endpoint builds the client for a URL or a Service, whose certificate must be for <name>.<namespace>.svc.
func (h *webhooks) endpoint(cc *apiextensionsv1.WebhookClientConfig) (*endpoint, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca := bytes.TrimSpace(cc.CABundle); len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	transport := &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}
	e := &endpoint{client: &http.Client{Transport: transport, Timeout: webhookTimeout}}
	if cc.URL != nil {
		e.url = *cc.URL
		return e, nil
	}
	s := cc.Service
	if s == nil {
		return nil, errors.New("webhook configuration must have either service or URL")
	}
	if h.service == nil {
		return nil, errors.New("this server has no way to reach Services")
	}
	port := int32(443)
	if s.Port != nil {
		port = *s.Port
	}
	host := s.Name + "." + s.Namespace + ".svc"
	e.url = "https://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
	if s.Path != nil {
		e.url += "/" + strings.TrimPrefix(*s.Path, "/")
	}
	config.ServerName, transport.Proxy = host, nil
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return h.service(ctx, s.Namespace, s.Name, port)
	}
	return e, nil
}

// convert asks for objects in another version, in apiextensions.k8s.io/v1 ConversionReview.
func (e *endpoint) convert(all []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(context.Background(), webhookTimeout)
	defer cancel()
	review := &apiextensionsv1.ConversionReview{
		TypeMeta: metav1.TypeMeta{Kind: "ConversionReview", APIVersion: apiextensionsv1.SchemeGroupVersion.String()},
		Request: &apiextensionsv1.ConversionRequest{
			UID: uuid.NewUUID(), DesiredAPIVersion: apiVersion,
		},
	}
	for _, u := range all {
		review.Request.Objects = append(review.Request.Objects, runtime.RawExtension{Object: u})
	}
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, webhookAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("the server responded with the status code %d: %s", resp.StatusCode, bytes.TrimSpace(answer[:min(len(answer), 1024)]))
	}
	return readReview(answer, review.Request.UID)
}

// readReview takes the converted objects out of an answer.
func readReview(answer []byte, uid types.UID) ([]*unstructured.Unstructured, error) {
	var review apiextensionsv1.ConversionReview
	if err := json.Unmarshal(answer, &review); err != nil {
		return nil, err
	}
	want := apiextensionsv1.SchemeGroupVersion.WithKind("ConversionReview")
	r := review.Response
	switch have := review.GroupVersionKind(); {
	case have != want:
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want.String(), have.String())
	case r == nil:
		return nil, errors.New("no response provided")
	case r.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	case r.Result.Status != metav1.StatusSuccess && r.Result.Message != "":
		return nil, errors.New(r.Result.Message)
	case r.Result.Status != metav1.StatusSuccess:
		return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
	}
	out := make([]*unstructured.Unstructured, len(r.ConvertedObjects))
	for i, o := range r.ConvertedObjects {
		out[i] = &unstructured.Unstructured{}
		if err := out[i].UnmarshalJSON(o.Raw); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// accept checks that a conversion gave the same object in the version asked for.
func accept(in, out *unstructured.Unstructured, apiVersion string) error {
	switch {
	case out.GetAPIVersion() != apiVersion:
		return fmt.Errorf("invalid groupVersion (expected %v, received %v)", apiVersion, out.GetAPIVersion())
	case out.GetKind() != in.GetKind():
		return fmt.Errorf("must have the same kind: %v != %v", in.GetKind(), out.GetKind())
	case out.GetName() != in.GetName():
		return fmt.Errorf("must have the same name: %v != %v", in.GetName(), out.GetName())
	case out.GetNamespace() != in.GetNamespace():
		return fmt.Errorf("must have the same namespace: %v != %v", in.GetNamespace(), out.GetNamespace())
	case out.GetUID() != in.GetUID():
		return fmt.Errorf("must have the same UID: %v != %v", in.GetUID(), out.GetUID())
	}
	return nil
}

// restore gives the converted object the metadata of the one it was made from, but for labels and annotations, which a
// conversion may change.
func restore(in, out *unstructured.Unstructured) error {
	answered, ok := out.Object["metadata"].(map[string]any)
	switch {
	case out.Object["metadata"] == nil:
		return errors.New("missing metadata in converted object")
	case !ok:
		return fmt.Errorf("invalid metadata of type %T in converted object", out.Object["metadata"])
	}
	m, _ := runtime.DeepCopyJSONValue(in.Object["metadata"]).(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	out.Object["metadata"] = m
	for _, name := range []string{"labels", "annotations"} {
		if answered[name] == nil {
			delete(m, name)
			continue
		}
		values, err := texts(name, answered[name])
		if err != nil {
			return err
		}
		if apiequality.Semantic.DeepEqual(m[name], answered[name]) {
			continue
		}
		errs := metavalidation.ValidateLabels(values, field.NewPath("metadata", "labels"))
		if name == "annotations" {
			errs = apivalidation.ValidateAnnotations(values, field.NewPath("metadata", "annotation"))
		}
		if len(errs) > 0 {
			return errs.ToAggregate()
		}
		m[name] = answered[name]
	}
	return nil
}

// texts reads a map of strings.
func texts(name string, value any) (map[string]string, error) {
	values, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid metadata.%s of type %T in converted object", name, value)
	}
	out := make(map[string]string, len(values))
	for k, v := range values {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
		}
		out[k] = text
	}
	return out, nil
}
