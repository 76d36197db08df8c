package apiserver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/coracle-dev/coracle/apiserver"
	"github.com/coracle-dev/coracle/apiserver/apiservertest"
	"github.com/coracle-dev/coracle/apiserver/store"
	"github.com/coracle-dev/coracle/apiserver/store/memory"
)

// sideBySide starts servers on one store and gives a client of each.
func sideBySide(t *testing.T, count int) []kubernetes.Interface {
	t.Helper()
	st := memory.New()
	var clients []kubernetes.Interface
	for range count {
		client, err := kubernetes.NewForConfig(apiservertest.StartServer(t, apiserver.Config{Store: st}).LocalConfig(apiservertest.Admin))
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	return clients
}

// objectCall is an operation on one ConfigMap, and its outcome the resourceVersion that was found or left.
type objectCall struct {
	op       string
	key      int
	expected string
}

type objectOutcome struct {
	done    bool
	version string // empty: it does not exist, or a refusal does not tell
}

func (c objectCall) perform(ctx context.Context, maps typedcorev1.ConfigMapInterface) (objectOutcome, error) {
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("k", c.key), ResourceVersion: c.expected}, Data: map[string]string{"r": fmt.Sprint(rand.Int64())}}
	var got *corev1.ConfigMap
	var err error
	switch c.op {
	case "get":
		got, err = maps.Get(ctx, obj.Name, metav1.GetOptions{})
	case "list":
		var l *corev1.ConfigMapList
		if l, err = maps.List(ctx, metav1.ListOptions{}); err == nil {
			for i := range l.Items {
				if l.Items[i].Name == obj.Name {
					got = &l.Items[i]
				}
			}
		}
	case "create":
		obj.ResourceVersion = ""
		got, err = maps.Create(ctx, obj, metav1.CreateOptions{})
	case "update":
		got, err = maps.Update(ctx, obj, metav1.UpdateOptions{})
	case "delete":
		err = maps.Delete(ctx, obj.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &c.expected}})
	}
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		return objectOutcome{}, nil
	case err != nil:
		return objectOutcome{}, fmt.Errorf("%s: %w", c.op, err)
	case got == nil:
		return objectOutcome{done: c.op == "delete"}, nil
	}
	return objectOutcome{done: true, version: got.ResourceVersion}, nil
}

// objectModel is one ConfigMap: its state is its resourceVersion, empty where it does not exist.
var objectModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, 3)
		for _, o := range history {
			k := o.Input.(objectCall).key
			parts[k] = append(parts[k], o)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		now, c, out := state.(string), input.(objectCall), output.(objectOutcome)
		switch {
		case c.op == "get" || c.op == "list":
			return out.version == now, now
		case c.op == "create" && out.done:
			return now == "", out.version
		case c.op == "create":
			return now != "", now
		case !out.done:
			return now == "" || now != c.expected, now
		case c.op == "update":
			return now != "" && now == c.expected, out.version
		}
		return now != "" && now == c.expected, ""
	},
}

func TestReadsAndWritesAreLinearizable(t *testing.T) {
	for _, servers := range []int{1, 2} {
		t.Run(fmt.Sprint(servers, " servers"), func(t *testing.T) {
			clients := sideBySide(t, servers)
			var mu sync.Mutex
			var history []porcupine.Operation
			var wg sync.WaitGroup
			start := time.Now()
			for id := range 6 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(id), 7))
					known := [3]string{"1", "1", "1"}
					for range 50 {
						c := objectCall{key: r.IntN(3), op: []string{"get", "list", "create", "update", "update", "delete"}[r.IntN(6)]}
						c.expected = known[c.key]
						begin := time.Since(start)
						out, err := c.perform(context.Background(), clients[id%servers].CoreV1().ConfigMaps("default"))
						end := time.Since(start)
						if err != nil {
							t.Error(err)
							return
						}
						if out.version != "" {
							known[c.key] = out.version
						}
						mu.Lock()
						history = append(history, porcupine.Operation{ClientId: id, Input: c, Call: int64(begin), Output: out, Return: int64(end)})
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if got := porcupine.CheckOperationsTimeout(objectModel, history, 10*time.Second); got != porcupine.Ok {
				t.Errorf("the history of %d calls is not linearizable: %v", len(history), got)
			}
		})
	}
}

func TestServersSideBySideAgree(t *testing.T) {
	ctx := context.Background()
	clients := sideBySide(t, 2)
	w, err := clients[1].CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 20 {
		name := fmt.Sprint("n", i)
		made, err := clients[i%2].CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		other := clients[(i+1)%2].CoreV1().ConfigMaps("default")
		if l, err := other.List(ctx, metav1.ListOptions{}); err != nil || len(l.Items) != i+1 {
			t.Fatal(err, "the other server lists", len(l.Items))
		}
		event := <-w.ResultChan()
		if seen, ok := event.Object.(*corev1.ConfigMap); !ok || seen.Name != name || seen.ResourceVersion != made.ResourceVersion {
			t.Fatalf("event %+v", event)
		}
		made.Data = map[string]string{"by": "one"}
		if _, err := other.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		<-w.ResultChan()
		if _, err := clients[i%2].CoreV1().ConfigMaps("default").Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Fatal("an old version was taken", err)
		}
	}
}

// TestServersAreEndpoints: default/kubernetes leads to all servers that live; one that ends leaves at once, one that dies when its key expires.
func TestServersAreEndpoints(t *testing.T) {
	t.Parallel()
	st := memory.New()
	start := func(t *testing.T, last byte) kubernetes.Interface {
		s := apiservertest.StartServer(t, apiserver.Config{Store: st, ServiceIP: []byte{10, 96, 0, 1}, Advertise: []byte{192, 0, 2, last}, Several: true})
		return kubernetes.NewForConfigOrDie(s.LocalConfig(apiservertest.Admin))
	}
	one := start(t, 1)
	servers := func(want ...string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for {
			var inSlice, inEndpoints []string
			slice, err := one.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
			if err == nil {
				for _, e := range slice.Endpoints {
					inSlice = append(inSlice, e.Addresses...)
				}
			}
			endpoints, err := one.CoreV1().Endpoints("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
			if err == nil {
				for _, a := range endpoints.Subsets[0].Addresses {
					inEndpoints = append(inEndpoints, a.IP)
				}
			}
			if slices.Equal(inSlice, want) && slices.Equal(inEndpoints, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("slice %v, endpoints %v, want %v", inSlice, inEndpoints, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	servers("192.0.2.1")
	t.Run("another", func(t *testing.T) {
		start(t, 12)
		start(t, 3)
		servers("192.0.2.1", "192.0.2.12", "192.0.2.3")
	})
	servers("192.0.2.1")
	const dies = "/registry/masterleases/192.0.2.9"
	if _, err := st.Create(t.Context(), dies, []byte("x"), store.CreateOptions{TTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	servers("192.0.2.1", "192.0.2.9")
	servers("192.0.2.1")
}
