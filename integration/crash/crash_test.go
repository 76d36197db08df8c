// Package crash kills the parts of a node at random while pods live on it, and checks what must hold whatever dies when: nothing leaks, no container
// runs twice, statuses converge and never contradict what they said.
package crash

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/coracle-dev/coracle/integration/cluster"
	"github.com/coracle-dev/coracle/internal/testenv"
)

var seedFlag = flag.Uint64("seed", 0, "seed of TestKillAnything; 0 is a random one")

// kills is how many parts TestKillAnything kills.
func kills(t *testing.T) int {
	text := os.Getenv("CORACLE_TEST_KILLS")
	if text == "" {
		return 25
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("CORACLE_TEST_KILLS: %v", err)
	}
	return n
}

// crash is one node, what lives on it, and what was seen.
type crash struct {
	*cluster.Cluster
	ctx     context.Context
	client  kubernetes.Interface
	history *history
	parts   *parts
	seed    uint64
	record  string              // the folder that the containers write to
	cgroup  string              // the name of the pods' cgroup
	bare    map[string][]string // what the node has without pods

	mu   sync.Mutex
	ends []*corev1.Pod // pods that ran to their end
	done map[string]int
}

func TestKillAnything(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	n := kills(t)
	t.Logf("%d kills with seed %d", n, seed)
	c := newCrash(t, seed)
	defer func() {
		if t.Failed() {
			c.keep(t)
			t.Logf("run it again: CORACLE_TEST_KILLS=%d go test ./integration/crash -seed %d", n, seed)
		}
	}()
	stays := c.settle(t)
	began := time.Now()
	c.storm(t, n)
	t.Logf("killed %v in %v; pods lived: %v", c.parts.count, time.Since(began).Round(time.Second), c.done)
	began = time.Now()
	c.converged(t, stays)
	t.Logf("converged in %v", time.Since(began).Round(100*time.Millisecond))
	c.judge(t)
}

func newCrash(t *testing.T, seed uint64) *crash {
	t.Helper()
	testenv.NeedsRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := &crash{Cluster: cluster.New(t), ctx: ctx, history: newHistory(), seed: seed, done: map[string]int{}}
	c.record = filepath.Join(c.Dir, "record")
	logs, err := os.MkdirTemp("", "crash")
	must(t, err)
	c.parts = &parts{c: c.Cluster, history: c.history, logs: logs, random: rand.New(rand.NewPCG(seed, 0)), count: map[string]int{}}
	t.Cleanup(func() {
		cancel()
		c.parts.stop(t)
		if !t.Failed() {
			_ = os.RemoveAll(logs)
		}
	})
	must(t, os.Mkdir(c.record, 0o777))
	build := exec.Command("go", "build", "-o", filepath.Join(c.record, "witness"), "./witness")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.parts.server, err = c.parts.start("server")
	must(t, err)
	cluster.Eventually(t, 30*time.Second, func() error {
		if _, err := os.Stat(c.Kubeconfig); err != nil {
			return err
		}
		c.client = c.Client()
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
	c.parts.agent, err = c.parts.start("agent")
	must(t, err)
	cluster.Eventually(t, 30*time.Second, func() error {
		out, err := c.TryKubectl("", "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		return errors.Join(err, cluster.Want("Ready", out, "True"))
	})
	c.ImportBusybox(second)
	c.bare, err = c.traces()
	must(t, err)
	go c.history.record(ctx, c.client)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// settle makes the pods that are to be there all the time, and finds out what they are in.
func (c *crash) settle(t *testing.T) []*life {
	t.Helper()
	var stays []*life
	for i := range 3 {
		l := c.life(fmt.Sprint("stays-", i), uint64(i))
		l.pod.Spec.InitContainers = []corev1.Container{l.sidecar()}
		l.pod.Spec.Containers = []corev1.Container{l.server("main"), l.container("other")}
		stays = append(stays, l)
		must(t, l.create())
	}
	for _, l := range stays {
		must(t, l.becomesReady())
	}
	cluster.Processes(func(_ int, dir string) {
		line, _ := os.ReadFile(dir + "/cmdline")
		if !strings.Contains(string(line), "\x00"+c.Dir+"\x00") {
			return
		}
		groups, _ := os.ReadFile(dir + "/cgroup")
		if _, after, ok := strings.Cut(string(groups), "/kubepods"); ok {
			after, _, _ = strings.Cut(after, "/")
			c.cgroup = "kubepods" + after
		}
	})
	if c.cgroup == "" {
		t.Fatal("no container is in a cgroup of pods")
	}
	return stays
}

func (c *crash) life(name string, seed uint64) *life {
	return &life{crash: c, random: rand.New(rand.NewPCG(c.seed, seed+1)), pod: c.newPod(name)}
}

// storm kills n parts while pods come and go, and returns when all of those pods' lives have come to their end.
func (c *crash) storm(t *testing.T, n int) {
	t.Helper()
	over := make(chan struct{})
	var living sync.WaitGroup
	kinds := slices.Sorted(maps.Keys(lives))
	for i := range 4 {
		living.Go(func() {
			random := rand.New(rand.NewPCG(c.seed, uint64(i)+100))
			for round := 0; ; round++ {
				select {
				case <-over:
					return
				default:
				}
				kind := kinds[random.IntN(len(kinds))]
				l := c.life(fmt.Sprintf("%s-%d-%d", kind, i, round), random.Uint64())
				if err := lives[kind](l); err != nil {
					t.Error(err)
					return
				}
				c.mu.Lock()
				c.done[kind]++
				c.mu.Unlock()
			}
		})
	}
	for range n {
		wait := 200 + c.parts.random.IntN(1200)
		if c.parts.random.IntN(8) == 0 {
			wait = 4000 // now and then things get far
		}
		time.Sleep(time.Duration(wait) * time.Millisecond)
		if err := c.parts.killOne(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			break
		}
	}
	close(over)
	living.Wait()
}

// converged checks that what should run does, once and for all, that what was deleted has left nothing, and then the same of those that stayed.
func (c *crash) converged(t *testing.T, stays []*life) {
	t.Helper()
	for _, l := range stays {
		if err := l.becomesReady(); err != nil {
			t.Error(err)
		}
	}
	cluster.Eventually(t, patience, func() error { return c.running(stays) })
	for _, l := range stays {
		if err := l.deleteSoon(); err != nil {
			t.Error(err)
		}
	}
	if err := c.left(c.bare, 60*time.Second); err != nil {
		t.Error(err)
	}
}

// running checks that each container of the pods that stay runs once, and nothing else does.
func (c *crash) running(stays []*life) error {
	var want, have []string
	for _, l := range stays {
		for _, name := range []string{"main", "other", "sidecar"} {
			want = append(want, string(l.pod.UID)+" "+name)
		}
	}
	cluster.Processes(func(_ int, dir string) {
		line, _ := os.ReadFile(dir + "/cmdline")
		environ, _ := os.ReadFile(dir + "/environ")
		_, after, ours := bytes.Cut(line, []byte("\x00"+c.Dir+"\x00-name\x00"))
		_, uid, _ := bytes.Cut(environ, []byte("POD_UID="))
		if name, _, _ := bytes.Cut(after, []byte{0}); ours {
			uid, _, _ = bytes.Cut(uid, []byte{0})
			have = append(have, string(uid)+" "+string(name))
		}
	})
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		return fmt.Errorf("these run:\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	return nil
}

// lostShim tells whether the shim of a pod was killed, and with it perhaps the memory of how a container ended.
func (c *crash) lostShim(uid types.UID) bool {
	return slices.ContainsFunc(c.parts.shimsKilled, func(id string) bool {
		owner, ok := c.history.owner(id)
		return !ok || owner == uid
	})
}

func (c *crash) keepEnd(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends = append(c.ends, pod)
}

// entry is one line that a container wrote; see witness.
type entry struct {
	At                       time.Time
	What, UID, Name, Attempt string
	Code                     int
}

func (c *crash) entries(t *testing.T) []entry {
	t.Helper()
	f, err := os.Open(filepath.Join(c.record, "record"))
	must(t, err)
	defer f.Close()
	var list []entry
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e entry
		must(t, json.Unmarshal(lines.Bytes(), &e))
		list = append(list, e)
	}
	return list
}

// judge compares what the containers wrote with what was said of them.
func (c *crash) judge(t *testing.T) {
	t.Helper()
	starts, codes, total := map[string]int{}, map[string]int{}, 0
	for _, e := range c.entries(t) {
		key := attemptKey(e.UID, e.Name, e.Attempt)
		switch e.What {
		case "twice":
			t.Errorf("%s was started while it ran: at %s", key, e.At.Format("15:04:05.000"))
		case "start":
			total++
			if starts[key]++; starts[key] > 1 {
				t.Errorf("%s was started again, at %s", key, e.At.Format("15:04:05.000"))
			}
		case "end":
			codes[key] = e.Code
		}
	}
	t.Logf("containers started %d times", total)
	for _, pod := range c.ends {
		for _, s := range statuses(pod) {
			code, ended := codes[attemptKey(string(pod.UID), s.Name, fmt.Sprint(s.RestartCount))]
			is := s.State.Terminated
			if ended && (is == nil || int(is.ExitCode) != code && !c.lostShim(pod.UID)) {
				t.Errorf("%s ended with %d, its status is %s", s.Name, code, describe(pod))
			}
		}
	}
	for _, text := range c.history.wrong {
		t.Error(text)
	}
}

// keep writes the history beside the logs.
func (c *crash) keep(t *testing.T) {
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	record, _ := os.ReadFile(filepath.Join(c.record, "record"))
	for name, data := range map[string]string{"history": strings.Join(c.history.lines, "\n"), "record": string(record)} {
		if err := os.WriteFile(filepath.Join(c.parts.logs, name), []byte(data), 0o600); err != nil {
			t.Log(err)
		}
	}
	t.Logf("history and logs are in %s", c.parts.logs)
}
