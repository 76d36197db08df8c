// Package clients runs programs written with controller-runtime and client-go against the real server.
package clients

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/coracle-dev/coracle/integration/cluster"
)

var berthVersion = schema.GroupVersion{Group: "harbour.example.org", Version: "v1"}

// Berth is the operator's kind: a ConfigMap is kept for each.
type Berth struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BerthSpec   `json:"spec"`
	Status            BerthStatus `json:"status,omitempty"`
}

// BerthSpec is what the user asks for.
type BerthSpec struct {
	Length int    `json:"length"`
	Ship   string `json:"ship,omitempty"`
}

// BerthStatus is what the operator says.
type BerthStatus struct {
	Ready              bool  `json:"ready"`
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// BerthList is a list of them.
type BerthList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Berth `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (b *Berth) DeepCopyObject() runtime.Object {
	c := *b
	b.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *BerthList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = nil
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*Berth))
	}
	return &c
}

func berthDefinition() *apiextensionsv1.CustomResourceDefinition {
	one := 1.0
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "berths.harbour.example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: berthVersion.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "berths", Singular: "berth", Kind: "Berth", ListKind: "BerthList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Required: []string{"spec"},
					Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"spec": {Type: "object", Required: []string{"length"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
							"length": {Type: "integer", Minimum: &one}, "ship": {Type: "string"},
						}},
						"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
							"ready": {Type: "boolean"}, "observedGeneration": {Type: "integer", Format: "int64"},
						}},
					},
				}},
			}},
		},
	}
}

const finalizer = "harbour.example.org/moored"

// operator keeps a ConfigMap for each Berth, and clears up by a finalizer.
type operator struct{ client.Client }

// Reconcile implements reconcile.Reconciler.
func (o *operator) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var berth Berth
	if err := o.Get(ctx, req.NamespacedName, &berth); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !berth.DeletionTimestamp.IsZero() {
		gone := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cleared-" + berth.Name, Namespace: berth.Namespace}}
		if err := o.Create(ctx, gone); err != nil && !apierrors.IsAlreadyExists(err) {
			return ctrl.Result{}, err
		}
		controllerutil.RemoveFinalizer(&berth, finalizer)
		return ctrl.Result{}, o.Update(ctx, &berth)
	}
	if controllerutil.AddFinalizer(&berth, finalizer) {
		return ctrl.Result{}, o.Update(ctx, &berth)
	}
	child := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: berth.Name, Namespace: berth.Namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, o.Client, child, func() error {
		child.Data = map[string]string{"ship": berth.Spec.Ship, "length": fmt.Sprint(berth.Spec.Length)}
		return controllerutil.SetControllerReference(&berth, child, o.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	if berth.Status.Ready && berth.Status.ObservedGeneration == berth.Generation {
		return ctrl.Result{}, nil
	}
	berth.Status = BerthStatus{Ready: true, ObservedGeneration: berth.Generation}
	return ctrl.Result{}, o.Status().Update(ctx, &berth)
}

// Default implements admission.Defaulter.
func (o *operator) Default(_ context.Context, b *Berth) error {
	if b.Spec.Ship == "" {
		b.Spec.Ship = "nobody's"
	}
	return nil
}

// ValidateCreate implements admission.Validator.
func (o *operator) ValidateCreate(_ context.Context, b *Berth) (admission.Warnings, error) {
	if b.Spec.Length > 100 {
		return admission.Warnings{"the quay is short"}, fmt.Errorf("no ship is %d long", b.Spec.Length)
	}
	return nil, nil
}

// ValidateUpdate implements admission.Validator.
func (o *operator) ValidateUpdate(ctx context.Context, _, b *Berth) (admission.Warnings, error) {
	return o.ValidateCreate(ctx, b)
}

// ValidateDelete implements admission.Validator.
func (o *operator) ValidateDelete(context.Context, *Berth) (admission.Warnings, error) {
	return nil, nil
}

// TestOperator runs an operator with finalizer, owner references, leader election and two webhooks.
func TestOperator(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.StartServer()
	config, err := c.REST()
	if err != nil {
		t.Fatal(err)
	}
	scheme := berthScheme(t)
	direct, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must(t, direct.Create(ctx, berthDefinition()))
	runOperator(t, c, config, scheme, direct)
	berth := &Berth{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "default"}, Spec: BerthSpec{Length: 5}}
	cluster.Eventually(t, 30*time.Second, func() error { return direct.Create(ctx, berth) })
	if berth.Spec.Ship != "nobody's" {
		t.Errorf("the webhook's default is missing: %+v", berth.Spec)
	}
	key := client.ObjectKeyFromObject(berth)
	cluster.Eventually(t, 30*time.Second, func() error { return moored(ctx, direct, key, "nobody's") })
	berth.Spec.Length = 500
	if err := direct.Update(ctx, berth.DeepCopyObject().(*Berth)); !apierrors.IsForbidden(err) && !apierrors.IsConflict(err) {
		t.Errorf("a berth that the webhook refuses: %v", err)
	}
	bad := &Berth{ObjectMeta: metav1.ObjectMeta{Name: "bad", Namespace: "default"}, Spec: BerthSpec{Length: 500}}
	if err := direct.Create(ctx, bad); err == nil || !strings.Contains(err.Error(), `admission webhook "validate.harbour.example.org" denied the request: no ship is 500 long`) {
		t.Errorf("refusal: %v", err)
	}
	invalid := &Berth{ObjectMeta: metav1.ObjectMeta{Name: "bad", Namespace: "default"}}
	if err := direct.Create(ctx, invalid); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.length") {
		t.Errorf("a berth of no length: %v", err)
	}
	must(t, direct.Patch(ctx, &Berth{ObjectMeta: berth.ObjectMeta}, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"ship":"Argo"}}`))))
	cluster.Eventually(t, 30*time.Second, func() error { return moored(ctx, direct, key, "Argo") })
	must(t, direct.Delete(ctx, berth))
	cluster.Eventually(t, 30*time.Second, func() error { return cleared(ctx, direct, key) })
}

func berthScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, apiextensionsv1.AddToScheme(scheme))
	must(t, admissionregistrationv1.AddToScheme(scheme))
	scheme.AddKnownTypes(berthVersion, &Berth{}, &BerthList{})
	metav1.AddToGroupVersion(scheme, berthVersion)
	return scheme
}

// runOperator starts the manager and its webhooks, and stops them at the test's end.
func runOperator(t *testing.T, c *cluster.Cluster, config *rest.Config, scheme *runtime.Scheme, direct client.Client) {
	t.Helper()
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: "harbour", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true,
	})
	must(t, err)
	o := &operator{mgr.GetClient()}
	must(t, ctrl.NewControllerManagedBy(mgr).For(&Berth{}).Owns(&corev1.ConfigMap{}).Complete(o))
	serveWebhooks(t, c, scheme, direct, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the manager: %v", err)
		}
	})
}

// serveWebhooks serves the operator's webhooks over TLS inside the cluster's network, and registers them.
func serveWebhooks(t *testing.T, c *cluster.Cluster, scheme *runtime.Scheme, direct client.Client, o *operator) {
	t.Helper()
	mux := http.NewServeMux()
	for path, hook := range map[string]*admission.Webhook{
		"/default": admission.WithDefaulter[*Berth](scheme, o), "/validate": admission.WithValidator[*Berth](scheme, o),
	} {
		handler, err := admission.StandaloneWebhook(hook, admission.StandaloneOptions{})
		must(t, err)
		mux.Handle(path, handler)
	}
	l, err := c.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := httptest.NewUnstartedServer(mux)
	must(t, server.Listener.Close())
	server.Listener = l
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	fail, none, scope := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.NamespacedScope
	rules := []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{berthVersion.Group}, APIVersions: []string{"v1"}, Resources: []string{"berths"}, Scope: &scope},
	}}
	config := func(path string) admissionregistrationv1.WebhookClientConfig {
		url := "https://" + l.Addr().String() + path
		return admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: pemOf(server.Certificate())}
	}
	must(t, direct.Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "harbour"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "default.harbour.example.org", ClientConfig: config("/default"), Rules: rules, FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		}},
	}))
	must(t, direct.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "harbour"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "validate.harbour.example.org", ClientConfig: config("/validate"), Rules: rules, FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		}},
	}))
}

// moored tells what is missing until the berth is ready and its ConfigMap names the ship.
func moored(ctx context.Context, c client.Client, key client.ObjectKey, ship string) error {
	var berth Berth
	if err := c.Get(ctx, key, &berth); err != nil {
		return err
	}
	if !berth.Status.Ready || berth.Status.ObservedGeneration != berth.Generation {
		return fmt.Errorf("status %+v at generation %d", berth.Status, berth.Generation)
	}
	var child corev1.ConfigMap
	if err := c.Get(ctx, key, &child); err != nil {
		return err
	}
	if child.Data["ship"] != ship || len(child.OwnerReferences) != 1 || child.OwnerReferences[0].UID != berth.UID {
		return fmt.Errorf("child %+v of %v", child.Data, child.OwnerReferences)
	}
	return nil
}

// cleared tells what is left of a berth that was deleted.
func cleared(ctx context.Context, c client.Client, key client.ObjectKey) error {
	if err := c.Get(ctx, key, &Berth{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("the berth: %v", err)
	}
	if err := c.Get(ctx, key, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("its ConfigMap: %v", err)
	}
	return c.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: "cleared-" + key.Name}, &corev1.ConfigMap{})
}
