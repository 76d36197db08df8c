package conformance

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// TestCompactedList goes on with a list whose revision is no more: the answer offers to go on with what there is now.
func TestCompactedList(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	p := c.StartServer()
	s := newSuite(t, c)
	e := &env{suite: s, T: t, ctx: t.Context(), ns: "default"}
	templates := e.kube.CoreV1().PodTemplates(e.ns)
	create := func(i int) string {
		m, err := templates.Create(e.ctx, &corev1.PodTemplate{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("template-%03d", i)}, Template: corev1.PodTemplateSpec{Spec: pod("").Spec},
		}, metav1.CreateOptions{})
		e.must(err)
		return m.ResourceVersion
	}
	for i := range 30 {
		create(i)
	}
	first, err := templates.List(e.ctx, metav1.ListOptions{Limit: 10})
	e.must(err)
	create(30) // which the list does not have
	e.compact(c)
	p.Stop() // it remembers what etcd forgot
	c.StartServer()

	_, err = templates.List(e.ctx, metav1.ListOptions{Limit: 10, Continue: first.Continue})
	if !apierrors.IsResourceExpired(err) {
		t.Fatalf("went on with %v", err)
	}
	status, _ := err.(apierrors.APIStatus) //nolint:errorlint // the client's own
	token := status.Status().Continue
	if token == "" {
		t.Fatalf("no token to go on with: %v", status.Status())
	}
	next, err := templates.List(e.ctx, metav1.ListOptions{Limit: 10, Continue: token})
	e.must(err)
	equal(e, "items", len(next.Items), 10)
	equal(e, "the first", next.Items[0].Name, "template-010")
	equal(e, "remaining", *next.RemainingItemCount, int64(11))
	if next.ResourceVersion == first.ResourceVersion {
		t.Error("an inconsistent list has the former revision")
	}
	seen, at := 20, next.ResourceVersion
	for token = next.Continue; token != ""; {
		l, err := templates.List(e.ctx, metav1.ListOptions{Limit: 10, Continue: token})
		e.must(err)
		equal(e, "revision", l.ResourceVersion, at)
		seen, token = seen+len(l.Items), l.Continue
	}
	equal(e, "items seen", seen, 31)
	w, err := templates.Watch(e.ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion})
	e.must(err)
	defer w.Stop()
	if ev := e.next(w); ev.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(ev.Object)) {
		t.Errorf("a watch from a revision that is no more: %v %v", ev.Type, ev.Object)
	}
}

// compact makes the cluster's etcd forget all but the newest.
func (e *env) compact(c *cluster.Cluster) {
	e.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + c.Layout.EtcdSocket()}, DialTimeout: 10 * time.Second})
	e.must(err)
	defer client.Close()
	now, err := client.Get(e.ctx, "none")
	e.must(err)
	_, err = client.Compact(e.ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	e.must(err)
}
