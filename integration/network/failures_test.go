package network

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// testFailures takes nodes away and gives them back, some rounds long: a power cut and a partition first, then what chance says. CORACLE_TEST_ROUNDS
// says how many (3), CORACLE_TEST_SEED makes one run like another.
func (s *suite) testFailures() {
	rounds, seed := number("CORACLE_TEST_ROUNDS", 3), number("CORACLE_TEST_SEED", time.Now().UnixNano())
	s.Logf("CORACLE_TEST_SEED=%d", seed)
	chance := rand.New(rand.NewPCG(uint64(seed), 0))
	s.deployment("web", 6)
	s.service("web", "web", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	identities := s.stateful("db")
	all := []struct {
		what string
		do   func(t traffic, victim string) excuse
	}{
		{"power cut", s.powerCut}, {"partition", s.partition},
		{"agent killed", func(_ traffic, victim string) excuse { s.killPart(victim, "agent"); return excuse{} }},
		{"containerd killed", func(_ traffic, victim string) excuse { s.killPart(victim, "containerd"); return excuse{} }},
		{"control plane killed", func(traffic, string) excuse { s.restartServer(); return excuse{} }},
		{"short partition", s.shortPartition},
	}
	for i := range int(rounds) {
		pods := s.pods("web")
		victim := pods[chance.IntN(len(pods))].Spec.NodeName
		one := all[chance.IntN(len(all))]
		if i < 2 {
			one = all[i]
		}
		begin := time.Now()
		t := s.asking("web", slices.DeleteFunc(slices.Clone(s.lab.Nodes), func(n string) bool { return n == victim })...)
		t.flows(s)
		e := one.do(t, victim)
		s.calm()
		t.flows(s)
		t.lost(s, one.what, e)
		for _, l := range t {
			l.stop()
		}
		s.Logf("round %d, %s of %s: %v", i+1, one.what, victim, time.Since(begin).Round(100*time.Millisecond))
		if s.Failed() {
			return
		}
	}
	identities.check(s)
	s.noLeaks()
}

func number(variable string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(os.Getenv(variable), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// calm waits until everything is as it was before a round: all nodes, all pods, no more than these.
func (s *suite) calm() {
	s.Helper()
	back := time.Now()
	s.readyNodes(s.lab.Nodes...)
	ready := time.Since(back)
	s.rolled("web")
	s.eventually(func() error {
		pods, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=db"})
		if err == nil && (len(pods.Items) != 3 || !slices.Equal(names(s.pods("db")), []string{"db-0", "db-1", "db-2"})) {
			err = fmt.Errorf("of db are ready %v", names(s.pods("db")))
		}
		return err
	})
	s.Logf("all nodes are ready after %v, all pods after %v", ready.Round(100*time.Millisecond), time.Since(back).Round(100*time.Millisecond))
}

// powerCut ends a node at once. Its pods are made anew elsewhere in time, and of the connections only those to them are lost.
func (s *suite) powerCut(t traffic, victim string) excuse {
	gone, begin := s.podsOn(victim), time.Now()
	s.lab.MustLab("kill", victim)
	until := s.replaced(t, victim, begin)
	s.lab.MustLab("start", victim)
	return excuse{gone, until}
}

// partition cuts a node off from all others for longer than it may be silent.
func (s *suite) partition(t traffic, victim string) excuse {
	gone, begin := s.podsOn(victim), time.Now()
	s.lab.MustLab("partition", victim)
	until := s.replaced(t, victim, begin)
	s.stays(gone)
	s.lab.MustLab("heal")
	return excuse{gone, until}
}

// shortPartition ends before the node counts as lost: nothing is replaced.
func (s *suite) shortPartition(t traffic, victim string) excuse {
	before, cut := names(s.pods("web")), s.podsOn(victim)
	s.lab.MustLab("partition", victim)
	time.Sleep(2 * time.Second)
	s.lab.MustLab("heal")
	until := time.Now()
	s.readyNodes(s.lab.Nodes...)
	t.flows(s)
	if after := names(s.pods("web")); !slices.Equal(before, after) {
		s.Errorf("after two seconds of partition the pods are %v, were %v", after, before)
	}
	return excuse{cut, until}
}

// podsOn are all pods of the namespace on a node.
func (s *suite) podsOn(node string) []corev1.Pod {
	s.Helper()
	l, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	s.must(err)
	return l.Items
}

// replaced waits for the Deployment's pods elsewhere, and gives the moment from which no node's rules may lead to the others.
func (s *suite) replaced(t traffic, victim string, begin time.Time) time.Time {
	s.Helper()
	var left time.Duration
	s.eventually(func() error {
		found, err := s.kube.DiscoveryV1().EndpointSlices(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
		if err != nil {
			return err
		}
		elsewhere := 0
		for _, e := range found.Items[0].Endpoints {
			if ready := e.Conditions.Ready != nil && *e.Conditions.Ready; ready && *e.NodeName == victim {
				return fmt.Errorf("%s is still an endpoint", e.TargetRef.Name)
			} else if ready {
				elsewhere++
			}
		}
		if left == 0 {
			left = time.Since(begin)
		}
		return cluster.Want("endpoints elsewhere", fmt.Sprint(elsewhere), "6")
	})
	took := time.Since(begin)
	s.Logf("%s: its pods left the Service after %v, and were replaced after %v", victim, left.Round(100*time.Millisecond), took.Round(100*time.Millisecond))
	// The node may have renewed its Lease right before; pods take their time to start.
	if most := grace + leaseSeconds*time.Second/4 + toleration + 20*time.Second; took > most {
		s.Errorf("it took %v, at most %v", took, most)
	}
	t.flows(s)
	const settled = time.Second // from the API to the rules of every node
	return begin.Add(left + settled)
}

// stays expects that no pod of a StatefulSet is replaced while its node cannot be asked.
func (s *suite) stays(gone []corev1.Pod) {
	s.Helper()
	for i := range gone {
		if !strings.HasPrefix(gone[i].Name, "db-") {
			continue
		}
		now, err := s.kube.CoreV1().Pods(s.ns).Get(s.ctx, gone[i].Name, metav1.GetOptions{})
		if err != nil || now.UID != gone[i].UID {
			s.Errorf("%s is replaced while the old one may run: %v", gone[i].Name, err)
		}
	}
}

// identities watches how many processes there are of each pod of a StatefulSet, on all nodes together.
type identities struct {
	mu   sync.Mutex
	most map[string]int
	seen int
	end  chan struct{}
	done chan struct{}
}

// stateful makes one of three, whose processes tell by their arguments which they are.
func (s *suite) stateful(app string) *identities {
	s.Helper()
	t := template(app)
	c := &t.Spec.Containers[0]
	c.Command, c.Args, c.Ports, c.ReadinessProbe = []string{"sh", "-c", "sleep 100000; true", identityMark + "$(NAME)"}, nil, nil, nil
	c.Env = []corev1.EnvVar{{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	t.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
	_, err := s.kube.AppsV1().StatefulSets(s.ns).Create(s.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To[int32](3), ServiceName: app, PodManagementPolicy: appsv1.ParallelPodManagement, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t}}, metav1.CreateOptions{})
	s.must(err)
	s.count(app, 3)
	i := &identities{most: map[string]int{}, end: make(chan struct{}), done: make(chan struct{})}
	go i.watch()
	s.Cleanup(func() { i.stop() })
	return i
}

// identityMark begins the argument by which a process is known.
const identityMark = "identity-"

func (i *identities) watch() {
	defer close(i.done)
	for {
		now := map[string]int{}
		cluster.Processes(func(_ int, dir string) {
			line, _ := os.ReadFile(dir + "/cmdline")
			if _, name, ok := strings.Cut(string(line), "\x00"+identityMark); ok && strings.HasPrefix(string(line), "sh\x00") {
				now[strings.Trim(name, "\x00")]++
			}
		})
		i.mu.Lock()
		i.seen++
		for name, n := range now {
			i.most[name] = max(i.most[name], n)
		}
		i.mu.Unlock()
		select {
		case <-i.end:
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (i *identities) stop() {
	select {
	case <-i.end:
	default:
		close(i.end)
	}
	<-i.done
}

// check complains of an identity that ran twice.
func (i *identities) check(s *suite) {
	s.Helper()
	i.stop()
	if len(i.most) != 3 || i.seen < 10 {
		s.Errorf("seen were %v, in %d looks", i.most, i.seen)
	}
	for name, n := range i.most {
		if n > 1 {
			s.Errorf("%s ran %d times at the same moment", name, n)
		}
	}
}
