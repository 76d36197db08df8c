package conformance

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

var watchTests = map[string]func(*env){
	"observes changes of what a selector matches": watchSelectors,
	"starts behind a revision":                    watchFromRevision,
	"restarts where another watch ended":          watchRestart,
	"concurrent watches see one order":            watchOrder,
}

var chunkingTests = map[string]func(*env){
	"returns a list in chunks": chunks,
}

func version(o runtime.Object) string { return o.(*corev1.ConfigMap).ResourceVersion }

func watchSelectors(e *env) {
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	start := func(selector string) watch.Interface {
		w, err := maps.Watch(e.ctx, metav1.ListOptions{LabelSelector: selector, TimeoutSeconds: new(int64(60))})
		e.must(err)
		e.Cleanup(w.Stop)
		return w
	}
	a, b, both := start("group=a"), start("group=b"), start("group in (a,b)")
	m := e.configMap("one", map[string]string{"group": "a"})
	e.sees(a, watch.Added)
	e.sees(both, watch.Added)
	m.Data["n"] = "1"
	m, err := maps.Update(e.ctx, m, metav1.UpdateOptions{})
	e.must(err)
	e.sees(a, watch.Modified)
	e.sees(both, watch.Modified)
	m.Labels["group"] = "b"
	_, err = maps.Update(e.ctx, m, metav1.UpdateOptions{})
	e.must(err)
	e.sees(a, watch.Deleted)
	e.sees(b, watch.Added)
	e.sees(both, watch.Modified)
	e.must(maps.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	e.sees(b, watch.Deleted)
	e.sees(both, watch.Deleted)
	e.quiet(a)
}

func watchFromRevision(e *env) {
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	m := e.configMap("one", map[string]string{"watch": "from"})
	m.Data["n"] = "1"
	first, err := maps.Update(e.ctx, m, metav1.UpdateOptions{})
	e.must(err)
	first.Data["n"] = "2"
	second, err := maps.Update(e.ctx, first, metav1.UpdateOptions{})
	e.must(err)
	e.must(maps.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	w, err := maps.Watch(e.ctx, metav1.ListOptions{LabelSelector: "watch=from", ResourceVersion: first.ResourceVersion})
	e.must(err)
	defer w.Stop()
	equal(e, "the first event's revision", version(e.sees(w, watch.Modified)), second.ResourceVersion)
	e.sees(w, watch.Deleted)
}

func watchRestart(e *env) {
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	selector := metav1.ListOptions{LabelSelector: "watch=again"}
	w, err := maps.Watch(e.ctx, selector)
	e.must(err)
	m := e.configMap("one", map[string]string{"watch": "again"})
	last := version(e.sees(w, watch.Added))
	w.Stop()
	m.Data["n"] = "1"
	m, err = maps.Update(e.ctx, m, metav1.UpdateOptions{})
	e.must(err)
	e.must(maps.Delete(e.ctx, "one", metav1.DeleteOptions{}))
	selector.ResourceVersion = last
	w, err = maps.Watch(e.ctx, selector)
	e.must(err)
	defer w.Stop()
	equal(e, "the next revision", version(e.sees(w, watch.Modified)), m.ResourceVersion)
	e.sees(w, watch.Deleted)
}

// watchOrder starts a watch behind every event of the first one: all of them must agree on what follows.
func watchOrder(e *env) {
	maps := e.kube.CoreV1().ConfigMaps(e.ns)
	first, err := maps.Watch(e.ctx, metav1.ListOptions{LabelSelector: "order=yes"})
	e.must(err)
	defer first.Stop()
	const writes = 30
	go func() {
		for i := range writes {
			m, err := maps.Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i), Labels: map[string]string{"order": "yes"}}}, metav1.CreateOptions{})
			if err != nil {
				return
			}
			if i%3 == 0 {
				_ = maps.Delete(e.ctx, m.Name, metav1.DeleteOptions{})
			}
		}
	}()
	var order []string
	var others []watch.Interface
	for range writes + writes/3 {
		rv := version(e.next(first).Object)
		order = append(order, rv)
		w, err := maps.Watch(e.ctx, metav1.ListOptions{LabelSelector: "order=yes", ResourceVersion: rv})
		e.must(err)
		others = append(others, w)
	}
	for i, w := range others {
		for _, want := range order[i+1:] {
			equal(e, "revision", version(e.next(w).Object), want)
		}
		w.Stop()
	}
}

func chunks(e *env) {
	const total, size = 40, 7
	templates := e.kube.CoreV1().PodTemplates(e.ns)
	for i := range total {
		_, err := templates.Create(e.ctx, &corev1.PodTemplate{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("template-%03d", i)},
			Template:   corev1.PodTemplateSpec{Spec: pod("").Spec},
		}, metav1.CreateOptions{})
		e.must(err)
	}
	opts := metav1.ListOptions{Limit: size}
	seen, at := 0, ""
	for {
		l, err := templates.List(e.ctx, opts)
		e.must(err)
		if at == "" {
			at = l.ResourceVersion
		}
		equal(e, "the chunk's revision", l.ResourceVersion, at)
		for _, item := range l.Items {
			equal(e, "name", item.Name, fmt.Sprintf("template-%03d", seen))
			seen++
		}
		if l.Continue == "" {
			break
		}
		equal(e, "chunk size", len(l.Items), size)
		equal(e, "remaining", *l.RemainingItemCount, int64(total-seen))
		opts.Continue = l.Continue
	}
	equal(e, "items seen", seen, total)
	l, err := templates.List(e.ctx, metav1.ListOptions{})
	e.must(err)
	equal(e, "items at once", len(l.Items), total)
	_, err = templates.List(e.ctx, metav1.ListOptions{Limit: 1, Continue: "not a token"})
	e.refused(err, "continue key is not valid")
}
