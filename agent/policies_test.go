package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// doublePolicies notes what it is asked for, and refuses at first.
type doublePolicies struct {
	*double
	refusals *atomic.Int32
}

func (p doublePolicies) Protect(_ context.Context, pod *v1.Pod, addrs []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusals.Add(-1) >= 0 {
		return errors.New("policies are not known yet")
	}
	p.note("protect %s %s", pod.Labels["app"], addrs[0])
	return nil
}

func (p doublePolicies) Release(uid string, addr netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note("release %s of %s", addr, uid)
}

// TestPoliciesComeFirst: a pod's containers start once its traffic is kept to what is allowed, and that holds until its network is gone. Pods of the
// host's network are left alone.
func TestPoliciesComeFirst(t *testing.T) {
	e := newEnv(t)
	e.stop()
	policies := doublePolicies{e.node, &atomic.Int32{}}
	policies.refusals.Store(1)
	e.policies = policies
	e.start()
	web, host := simplePod("web"), simplePod("host")
	web.Labels, host.Spec.HostNetwork = map[string]string{"app": "shop"}, true
	e.create(web)
	e.create(host)
	created := e.awaitPod("web", "ready", isReady)
	addr := created.Status.PodIP
	released := "release " + addr + " of " + string(created.UID)
	e.awaitPod("host", "ready", isReady)
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.await("release", func() bool { return slices.Contains(e.node.transcript(), released) })
	var order []string
	for _, note := range e.node.transcript() {
		if !strings.Contains(note, "host") {
			order = append(order, note)
		}
	}
	at := func(note string) int { return slices.Index(order, note) }
	if protect, start := at("protect shop "+addr), at("start web/app-0"); protect < 0 || start < protect || at(released) < at("stop web/app-0") {
		t.Errorf("%s", strings.Join(order, ", "))
	}
	events, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=FailedCreatePodSandBox"})
	if err != nil || len(events.Items) == 0 || !strings.Contains(events.Items[0].Message, "policies are not known yet") {
		t.Errorf("%v, %+v: want an event that says what the pod waited for", err, events.Items)
	}
}
