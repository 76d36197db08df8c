package network

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coracle-dev/coracle/integration/cluster"
)

// load is a client that asks all the time; it runs outside of pods, in the network of a machine.
type load struct {
	name string
	node string // whose rules its connections meet
	to   string // address and port
	kept bool
	cmd  *exec.Cmd
	done chan struct{}

	mu     sync.Mutex
	lines  []line
	misses []miss
}

// line is what the demo program's load prints: counts since its start, or a miss.
type line struct {
	At      time.Time
	Asked   int
	Answers map[string]int
	Failed  int
	Slowest string
	miss
}

// miss is a question without an answer, and when it was asked; Target is who answered before on a connection that was kept, Local this end of it.
type miss struct {
	Error, Local, Target, Took string
	At                         time.Time `json:"-"`
}

// loadTimeout is how long a client waits for an answer.
const loadTimeout = 3 * time.Second

// pace is how long each of a program's four clients waits between questions. All programs of one network together must stay below the hundred local
// ports a second that the demo program takes by the clock: else it is ahead of the clock, and one program takes a port that another's
// question failed with a moment ago, and the way of which is looked for here.
const pace = "160ms"

// load starts a client somewhere, which asks by way of a node.
func (s *suite) load(from, node string, at *cluster.Cluster, url string, flags ...string) *load {
	s.Helper()
	l := &load{name: fmt.Sprint(from, " by ", node, flags), node: node, kept: slices.Contains(flags, "-keep"), done: make(chan struct{})}
	l.to = strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/hostname")
	args := append([]string{"load", "-T", loadTimeout.String(), "-clients", "4", "-every", pace}, flags...)
	l.cmd = at.Command(s.demo, append(args, url)...)
	out, err := l.cmd.StdoutPipe()
	s.must(err)
	s.must(l.cmd.Start())
	go func() {
		defer close(l.done)
		for in := bufio.NewScanner(out); in.Scan(); {
			l.read(in.Bytes())
		}
		_ = l.cmd.Wait()
	}()
	s.Cleanup(l.stop)
	return l
}

func (l *load) read(text []byte) {
	var got line
	if json.Unmarshal(text, &got) != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if got.Error != "" {
		got.miss.At = got.At
		l.misses = append(l.misses, got.miss)
	} else {
		l.lines = append(l.lines, got)
	}
}

// stop ends the client; it counts to the end.
func (l *load) stop() {
	_ = l.cmd.Process.Signal(unix.SIGTERM)
	<-l.done
}

// fresh are the misses since it was last asked for them.
func (l *load) fresh() []miss {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.misses
	l.misses = nil
	return found
}

// answers are how many answers came so far.
func (l *load) answers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		return 0
	}
	last := l.lines[len(l.lines)-1]
	return last.Asked - last.Failed
}

// summary is the last line.
func (l *load) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		return l.name + ": nothing yet"
	}
	last := l.lines[len(l.lines)-1]
	return fmt.Sprintf("%s: %d asked, %d failed, slowest %s", l.name, last.Asked, last.Failed, last.Slowest)
}

// traffic is all clients of one service.
type traffic []*load

// asking asks an app's Service all the time, by way of some nodes: from each by the cluster address, and from outside by its node port, with a
// connection for each question and with such that are kept.
func (s *suite) asking(app string, nodes ...string) traffic {
	s.Helper()
	service, err := s.kube.CoreV1().Services(s.ns).Get(s.ctx, app, metav1.GetOptions{})
	s.must(err)
	ips := s.nodeIPs()
	var all traffic
	for _, node := range nodes {
		at, inside, outside := s.machine(node), web(service.Spec.ClusterIP, 80), web(ips[node], nodePort(service, "http"))
		s.eventually(func() error {
			_, err := (&place{name: node, at: at}).ask(s, inside)
			_, oerr := s.outside().ask(s, outside)
			return errors.Join(err, oerr)
		})
		all = append(all,
			s.load(node, node, at, inside), s.load(node, node, at, inside, "-keep"),
			s.load("outside", node, s.lab.Cluster, outside), s.load("outside", node, s.lab.Cluster, outside, "-keep"))
	}
	return all
}

// askingFromPods asks an app's Service by its cluster address from a pod on each node, which nothing is done to.
func (s *suite) askingFromPods(app string) traffic {
	s.Helper()
	service, err := s.kube.CoreV1().Services(s.ns).Get(s.ctx, app, metav1.GetOptions{})
	s.must(err)
	inside := web(service.Spec.ClusterIP, 80)
	var all traffic
	for _, pod := range s.everywhere("asker", nil) {
		from, at := "pod on "+pod.Spec.NodeName, s.inPod(&pod)
		all = append(all, s.load(from, pod.Spec.NodeName, at, inside), s.load(from, pod.Spec.NodeName, at, inside, "-keep"))
	}
	return all
}

// inPod gives what runs commands in a pod's network.
func (s *suite) inPod(pod *corev1.Pod) *cluster.Cluster {
	s.Helper()
	m := *s.lab.Cluster
	m.NetNS = ""
	nodes, err := os.Readlink(s.machine(pod.Spec.NodeName).NetNS)
	s.must(err)
	cluster.Processes(func(pid int, dir string) {
		group, _ := os.ReadFile(dir + "/cgroup")
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil && ns != nodes && strings.Contains(string(group), string(pod.UID)) {
			m.NetNS = dir + "/ns/net"
		}
	})
	if m.NetNS == "" {
		s.Fatalf("no process of pod %s", pod.Name)
	}
	return &m
}

// flows waits until every client gets answers again.
func (t traffic) flows(s *suite) {
	s.Helper()
	before := map[*load]int{}
	for _, l := range t {
		before[l] = l.answers()
	}
	s.eventually(func() error {
		for _, l := range t {
			if l.answers() <= before[l] {
				return errors.New(l.summary())
			}
		}
		return nil
	})
}

// excuse says what may be missed: connections that were kept with pods that are gone, and new ones that were sent to them until a moment.
type excuse struct {
	gone  []corev1.Pod
	until time.Time
}

// lost complains of what was missed since the last time without excuse.
func (t traffic) lost(s *suite, what string, e excuse) {
	s.Helper()
	for _, l := range t {
		for _, m := range l.fresh() {
			if l.kept && slices.Contains(names(e.gone), m.Target) {
				continue
			}
			to, known := s.destination(l, m.Local)
			// Of what was begun with an endpoint that is gone, proxies forget where it led once they know.
			if m.At.Before(e.until) && (to == "" || slices.ContainsFunc(e.gone, func(p corev1.Pod) bool { return p.Status.PodIP == to })) {
				continue
			}
			s.Errorf("%s: %s: %s (asked at %s, answered after %s, local %s, with %q, sent to %q; excused are those to %v until %s)\n%s", what, l.name,
				m.Error, m.At.Format(clock), m.Took, m.Local, m.Target, to, names(e.gone), e.until.Format(clock), known)
		}
	}
}

const clock = "15:04:05.000"

// report logs the totals.
func (t traffic) report(s *suite) {
	s.Helper()
	for _, l := range t {
		l.stop()
		s.Log(l.summary())
	}
}

// destination finds where a node's kernel sent a client's connection, by the client's port, and all that it knows of it.
func (s *suite) destination(l *load, local string) (to, known string) {
	_, port, _ := strings.Cut(local, ":")
	host, service, _ := strings.Cut(l.to, ":")
	out, err := s.machine(l.node).Command("conntrack", "-L", "-p", "tcp", "--orig-port-src", port, "--orig-dst", host, "--orig-port-dst", service).Output()
	if err != nil {
		return "", err.Error()
	}
	// tcp 6 110 SYN_SENT src=A dst=B sport=C dport=D [UNREPLIED] src=ENDPOINT dst=...
	_, reply, _ := strings.Cut(string(out), "src=")
	_, reply, _ = strings.Cut(reply, "src=")
	to, _, _ = strings.Cut(reply, " ")
	return to, string(out)
}
