package integration

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

const registers = 3

// registerCall is a call on one ConfigMap. Every value is written at most once, so that a value stands for the
// version it was written with: expected is the value at the version that the call requires.
type registerCall struct {
	op              string
	key             int
	value, expected string
}

// registerOutcome is what came back. Unknown: the call may have had its effect, at any time after it began.
type registerOutcome struct {
	unknown, done bool
	value         string // of reads; empty: it does not exist
}

// registerModel is one ConfigMap: its state is its value, empty where it does not exist.
var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, registers)
		for _, o := range history {
			k := o.Input.(registerCall).key
			parts[k] = append(parts[k], o)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		now, c, out := state.(string), input.(registerCall), output.(registerOutcome)
		if c.op == "get" || c.op == "list" {
			return out.value == now, now
		}
		after, can := c.value, now == "" // of a create
		if c.op != "create" {
			can = now != "" && now == c.expected // a delete's value is empty
		}
		switch {
		case out.unknown && can:
			return true, after
		case out.unknown: // it was refused, or never arrived
			return true, now
		case out.done:
			return can, after
		}
		return !can, now
	},
}

// registerClient makes calls through one server, and remembers the versions it saw.
type registerClient struct {
	maps  typedcorev1.ConfigMapInterface
	known [registers]*corev1.ConfigMap
}

var errNotSent = errors.New("the call had no effect")

// call performs c. The error is errNotSent where the call is no part of the history.
func (r *registerClient) call(c *registerCall) (registerOutcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	name := fmt.Sprint("k", c.key)
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"register": "yes"}}, Data: map[string]string{"v": c.value}}
	version := "1" // of nothing
	if k := r.known[c.key]; k != nil {
		c.expected, version = k.Data["v"], k.ResourceVersion
	}
	var got *corev1.ConfigMap
	var err error
	switch c.op {
	case "get":
		got, err = r.maps.Get(ctx, name, metav1.GetOptions{})
	case "list":
		got, err = r.find(ctx, name)
	case "create":
		got, err = r.maps.Create(ctx, obj, metav1.CreateOptions{})
	case "update":
		obj.ResourceVersion = version
		got, err = r.maps.Update(ctx, obj, metav1.UpdateOptions{})
	case "delete":
		c.value = ""
		err = r.maps.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	}
	read := c.op == "get" || c.op == "list"
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		r.known[c.key] = nil
		return registerOutcome{}, nil
	case err != nil && (read || utilnet.IsConnectionRefused(err)):
		return registerOutcome{}, errNotSent
	case err != nil:
		return registerOutcome{unknown: true}, nil
	}
	r.known[c.key] = got
	if got == nil {
		return registerOutcome{done: !read}, nil
	}
	return registerOutcome{done: true, value: got.Data["v"]}, nil
}

// find is a get by way of a list.
func (r *registerClient) find(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	l, err := r.maps.List(ctx, metav1.ListOptions{LabelSelector: "register=yes"})
	if err != nil {
		return nil, err
	}
	for i := range l.Items {
		if l.Items[i].Name == name {
			return &l.Items[i], nil
		}
	}
	return nil, nil
}

// registerHistory is what all clients did.
type registerHistory struct {
	mu    sync.Mutex
	start time.Time
	calls []porcupine.Operation
}

// drive makes calls at random until stop is closed.
func (h *registerHistory) drive(r *registerClient, id int, seed uint64, stop <-chan struct{}) {
	random := rand.New(rand.NewPCG(seed, uint64(id)))
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
		}
		c := registerCall{op: []string{"get", "list", "create", "update", "update", "delete"}[random.IntN(6)], key: random.IntN(registers), value: fmt.Sprint(id, "-", n)}
		begin := time.Since(h.start)
		out, err := r.call(&c)
		end := int64(time.Since(h.start))
		if out.unknown {
			end = math.MaxInt64
		}
		if err == nil {
			h.mu.Lock()
			h.calls = append(h.calls, porcupine.Operation{ClientId: id, Input: c, Call: int64(begin), Output: out, Return: end})
			h.mu.Unlock()
		}
		if err != nil || out.unknown { // the server is away; porcupine wants a client's calls one after the other
			id += 100
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// registerWatch follows the ConfigMaps as informers do, and checks that no watch goes back.
type registerWatch struct {
	maps     typedcorev1.ConfigMapInterface
	revision int64
	state    map[string]string // values by name
	seen     map[string]bool   // values
	relists  int
}

// follow takes events until the state and the server's agree after settled is closed.
func (w *registerWatch) follow(ctx context.Context, settled <-chan struct{}) error {
	for ctx.Err() == nil {
		events, err := w.maps.Watch(ctx, metav1.ListOptions{LabelSelector: "register=yes", ResourceVersion: fmt.Sprint(w.revision)})
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) { // a server that has come back knows no history
			w.relist(ctx)
			continue
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for open := true; open; {
			select {
			case e, ok := <-events.ResultChan():
				m, isMap := e.Object.(*corev1.ConfigMap)
				if open = ok && isMap; !open {
					if status, isStatus := e.Object.(*metav1.Status); isStatus && status.Reason == metav1.StatusReasonExpired {
						w.relist(ctx)
					}
					break
				}
				if err := w.take(string(e.Type), m); err != nil {
					events.Stop()
					return err
				}
			case <-time.After(100 * time.Millisecond):
				if done(settled) && w.agrees(ctx) {
					events.Stop()
					return nil
				}
			}
		}
		events.Stop()
	}
	return fmt.Errorf("the watch holds %v, which is not what there is", w.state)
}

// relist starts anew from a list, where one is to be had.
func (w *registerWatch) relist(ctx context.Context) {
	l, err := w.maps.List(ctx, metav1.ListOptions{LabelSelector: "register=yes"})
	if err != nil {
		return
	}
	if revision, err := strconv.ParseInt(l.ResourceVersion, 10, 64); err == nil {
		w.revision = revision
		w.relists++
	}
	w.state = map[string]string{}
	for i := range l.Items {
		w.state[l.Items[i].Name] = l.Items[i].Data["v"]
	}
}

func done(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (w *registerWatch) take(kind string, m *corev1.ConfigMap) error {
	revision, err := strconv.ParseInt(m.ResourceVersion, 10, 64)
	if err != nil || revision <= w.revision {
		return fmt.Errorf("%s of %s at %s after %d", kind, m.Name, m.ResourceVersion, w.revision)
	}
	w.revision = revision
	w.seen[m.Data["v"]] = true
	if w.state[m.Name] = m.Data["v"]; kind == "DELETED" {
		delete(w.state, m.Name)
	}
	return nil
}

func (w *registerWatch) agrees(ctx context.Context) bool {
	l, err := w.maps.List(ctx, metav1.ListOptions{LabelSelector: "register=yes"})
	if err != nil || len(l.Items) != len(w.state) {
		return false
	}
	for i := range l.Items {
		if w.state[l.Items[i].Name] != l.Items[i].Data["v"] {
			return false
		}
	}
	return true
}

// TestLinearizable has clients of one server, and of two on one etcd, read and write while a server is killed and
// comes back: there must be an order of their calls that a single client could have made and that agrees with real
// time, and watches that go on must show every write, in order.
func TestLinearizable(t *testing.T) {
	for _, servers := range []int{1, 2} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			t.Parallel()
			linearizable(t, servers)
		})
	}
}

func linearizable(t *testing.T, servers int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var clusters []*cluster.Cluster
	var first *cluster.Process
	var args []string
	for range servers {
		clusters = append(clusters, cluster.New(t))
	}
	if servers > 1 { // the etcd of a third, which nobody asks anything else
		host := cluster.New(t)
		host.StartServer()
		args = []string{"--etcd-endpoints=unix://" + host.Layout.EtcdSocket()}
	}
	for i, c := range clusters {
		if p := c.StartServer(args...); i == 0 {
			first = p
		}
	}
	l, err := clusters[0].Client().CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "register=yes"})
	if err != nil {
		t.Fatal(err)
	}
	from, err := strconv.ParseInt(l.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	h := &registerHistory{start: time.Now()}
	stop, settled := make(chan struct{}), make(chan struct{})
	var clients, watches sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var followed []*registerWatch
	for _, c := range clusters {
		w := &registerWatch{maps: c.Client().CoreV1().ConfigMaps("default"), revision: from, state: map[string]string{}, seen: map[string]bool{}}
		followed = append(followed, w)
		watches.Go(func() {
			if err := w.follow(ctx, settled); err != nil {
				t.Error(err)
			}
		})
	}
	for id := range 6 {
		r := &registerClient{maps: clusters[id%servers].Client().CoreV1().ConfigMaps("default")}
		clients.Go(func() { h.drive(r, id, seed, stop) })
	}
	time.Sleep(2 * time.Second)
	first.Kill()
	clusters[0].StartServer(args...)
	time.Sleep(2 * time.Second)
	close(stop)
	clients.Wait()
	close(settled)
	watches.Wait()
	h.check(t, followed)
}

// check looks for an order of the calls, and for every write that was answered in what was watched.
func (h *registerHistory) check(t *testing.T, watches []*registerWatch) {
	t.Helper()
	writes, unknown := 0, 0
	for _, o := range h.calls {
		c, out := o.Input.(registerCall), o.Output.(registerOutcome)
		if out.unknown {
			unknown++
		}
		if !out.done || c.op != "create" && c.op != "update" {
			continue
		}
		writes++
		for i, w := range watches {
			if w.relists == 0 && !w.seen[c.value] {
				t.Errorf("watch %d did not show %s of %s", i, c.op, c.value)
			}
		}
	}
	t.Logf("%d calls, %d writes, %d of unknown outcome", len(h.calls), writes, unknown)
	if last := watches[len(watches)-1]; len(watches) > 1 && last.relists > 0 {
		t.Errorf("the watch of the server that stayed began anew %d times", last.relists)
	}
	if writes < 20 {
		t.Errorf("only %d writes happened", writes)
	}
	if got := porcupine.CheckOperationsTimeout(registerModel, h.calls, 20*time.Second); got != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", got)
	}
}
