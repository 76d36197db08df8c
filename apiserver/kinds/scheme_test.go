package kinds

import (
	"net/url"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestParameters(t *testing.T) {
	codec := runtime.NewParameterCodec(Scheme())
	decode := func(query string, gv schema.GroupVersion, into runtime.Object) error {
		t.Helper()
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		return codec.DecodeParameters(values, gv, into)
	}
	v1 := schema.GroupVersion{Version: "v1"}
	for query, c := range map[string]struct{ into, want runtime.Object }{
		"container=c&follow=true&previous=false&tailLines=5&limitBytes=7&timestamps&sinceSeconds=3&stream=Stdout&insecureSkipTLSVerifyBackend=1": {
			&corev1.PodLogOptions{}, &corev1.PodLogOptions{
				Container: "c", Follow: true, TailLines: ptr(int64(5)), LimitBytes: ptr(int64(7)), Timestamps: true,
				SinceSeconds: ptr(int64(3)), Stream: ptr("Stdout"), InsecureSkipTLSVerifyBackend: true,
			},
		},
		"command=sh&command=-c&stdin=true&tty=TRUE&stdout=False&container=c": {
			&corev1.PodExecOptions{}, &corev1.PodExecOptions{Command: []string{"sh", "-c"}, Stdin: true, TTY: true, Container: "c"},
		},
		"stdout=1&stderr=0":   {&corev1.PodAttachOptions{}, &corev1.PodAttachOptions{Stdout: true}},
		"ports=80,81&ports=9": {&corev1.PodPortForwardOptions{}, &corev1.PodPortForwardOptions{Ports: []int32{80, 81, 9}}},
		"path=/a":             {&corev1.ServiceProxyOptions{}, &corev1.ServiceProxyOptions{Path: "/a"}},
		"labelSelector=a%3Db&limit=5&watch=1&timeoutSeconds=9": {
			&metav1.ListOptions{}, &metav1.ListOptions{LabelSelector: "a=b", Limit: 5, Watch: true, TimeoutSeconds: ptr(int64(9))},
		},
		"dryRun=All&fieldManager=me": {&metav1.CreateOptions{}, &metav1.CreateOptions{DryRun: []string{"All"}, FieldManager: "me"}},
	} {
		if err := decode(query, v1, c.into); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if !reflect.DeepEqual(c.into, c.want) {
			t.Errorf("%s: %+v", query, c.into)
		}
	}
	list := &metav1.ListOptions{}
	if err := decode("limit=3", schema.GroupVersion{Group: "apps", Version: "v1"}, list); err != nil || list.Limit != 3 {
		t.Errorf("list options in apps/v1: %+v, %v", list, err)
	}
	for _, query := range []string{"tailLines=x", "sinceTime=yesterday"} {
		if err := decode(query, v1, &corev1.PodLogOptions{}); err == nil {
			t.Errorf("%s is accepted", query)
		}
	}
}

func TestSchemeKnowsCommonTypes(t *testing.T) {
	scheme := Scheme()
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "Status"}, {Version: "v1", Kind: "APIResourceList"},
		{Group: "meta.k8s.io", Version: "v1", Kind: "Table"}, {Group: "meta.k8s.io", Version: "v1", Kind: "PartialObjectMetadataList"},
		{Group: "autoscaling", Version: "v1", Kind: "Scale"}, {Group: "policy", Version: "v1", Kind: "Eviction"},
		{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}, {Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectAccessReview"},
		{Group: "apps", Version: "v1", Kind: "DeleteOptions"},
	} {
		if !scheme.Recognizes(gvk) {
			t.Errorf("%v is not in the scheme", gvk)
		}
	}
}

// FuzzParameters: any query either decodes or is refused.
func FuzzParameters(f *testing.F) {
	for _, query := range []string{"tailLines=5&follow", "sinceTime=2030-01-02T03:04:05Z", "ports=1,2&ports=", "command=a&command=b", "stdin=%00"} {
		f.Add(query)
	}
	codec := runtime.NewParameterCodec(Scheme())
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, into := range []runtime.Object{&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodPortForwardOptions{}, &metav1.ListOptions{}} {
			_ = codec.DecodeParameters(values, schema.GroupVersion{Version: "v1"}, into)
		}
	})
}
