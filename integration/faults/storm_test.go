package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/integration/cluster"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of TestStorm; 0 runs a fixed one and a random one")
	forFlag   = flag.Duration("for", 20*time.Second, "how long faults last in TestStorm, for each seed")
	roundFlag = flag.Duration("round", 40*time.Second, "after how long of that all must settle")
)

// settles is how long the cluster may take to be as asked for once the faults are over: a key that has failed often is looked at
// again after a minute at the latest.
const settles = 2 * time.Minute

// TestStorm runs the real parts, two of those that elect a leader, behind proxies that inject faults, kills and stops them at random while objects
// are made, changed and deleted at random, and checks the history of all that was written.
func TestStorm(t *testing.T) {
	seeds := []uint64{*seedFlag}
	if *seedFlag == 0 {
		seeds = []uint64{1, rand.Uint64N(1 << 32)}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := newStorm(t, seed)
			defer func() {
				if t.Failed() {
					s.keep()
					t.Logf("run it again: go test ./integration/faults -run TestStorm -seed %d -for %v", seed, *forFlag)
				}
			}()
			for left := *forFlag; left > 0 && !t.Failed(); left -= *roundFlag {
				s.round(min(left, *roundFlag))
			}
		})
	}
}

// storm is one cluster and what is done to it.
type storm struct {
	*testing.T
	ctx      context.Context
	cluster  *cluster.Cluster
	client   kubernetes.Interface
	random   *rand.Rand
	recorder *Recorder
	world    *World
	parts    map[string]*part
	events   []Event

	jobs, writes int
}

func newStorm(t *testing.T, seed uint64) *storm {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &storm{
		T: t, ctx: ctx, cluster: cluster.New(t), random: rand.New(rand.NewPCG(seed, 1)), world: NewWorld(),
		parts: map[string]*part{},
	}
	t.Cleanup(cancel)
	server := s.add("apiserver", append([]string{"apiserver"}, s.cluster.ServerFlags()...)...)
	cluster.Eventually(t, 60*time.Second, func() error {
		if server.ended() {
			return errors.New(server.log())
		}
		if _, err := os.Stat(s.cluster.Kubeconfig); err != nil {
			return err
		}
		s.client = s.cluster.Client()
		_, err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
	s.recorder = NewRecorder(s.client)
	recorded := make(chan struct{})
	go func() { defer close(recorded); s.recorder.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-recorded })
	_, err := s.client.CoreV1().Namespaces().Create(ctx, namespace(), metav1.CreateOptions{})
	s.must(err)
	for n, of := range []string{"controllers", "controllers", "scheduler", "scheduler", "simulate"} {
		name := fmt.Sprint(of, n)
		args := []string{of, "--config", "/dev/null", "--log-level", "warn", "--kubeconfig", s.through(name, of, seed+uint64(n))}
		if of == "simulate" {
			args = append(args, "--nodes", "6", "--cpu", "4", "--memory", "8Gi", "--pods", "30", "--pending", "50ms", "--ready-delay", "100ms", "--terminate-delay", "200ms", "--lease-interval", "4s")
		}
		if of == "controllers" {
			args = append(args, s.cluster.Flags()...)
		}
		s.add(name, args...)
	}
	return s
}

func (s *storm) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// through starts a proxy for a part and writes the kubeconfig that leads to it.
func (s *storm) through(name, of string, seed uint64) string {
	s.Helper()
	identity := s.cluster.Layout.Kubeconfig(of)
	if of == "simulate" {
		identity = s.cluster.Kubeconfig
	}
	config, err := clientcmd.BuildConfigFromFlags("", identity)
	s.must(err)
	config.Dial, config.QPS = s.cluster.Dial, -1
	listener, err := s.cluster.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	chances := Storm()
	if of == "simulate" {
		chances = Chances{} // its pods are the world that the others are judged by; it is killed, stopped and cut off like them
	}
	proxy, err := NewProxy(config, listener, NewInjector(seed, chances))
	s.must(err)
	s.Cleanup(proxy.Close)
	path := filepath.Join(s.cluster.Dir, name+".kubeconfig")
	s.must(proxy.Kubeconfig(path))
	s.parts[name] = &part{name: name, proxy: proxy}
	return path
}

// part is one process, which is started again when it ends.
type part struct {
	name  string
	proxy *Proxy
	start func() (*exec.Cmd, error)
	file  string

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{}
	held    bool // not to be started
	stopped bool // by SIGSTOP
	starts  int
}

// add starts a part.
func (s *storm) add(name string, args ...string) *part {
	s.Helper()
	p := s.parts[name]
	if p == nil {
		p = &part{name: name}
		s.parts[name] = p
	}
	p.file = filepath.Join(s.cluster.Dir, name+".log")
	p.start = func() (*exec.Cmd, error) {
		out, err := os.OpenFile(p.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		defer out.Close()
		cmd := s.cluster.Command(cluster.Binary(s), args...)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, cmd.Start()
	}
	s.must(p.run())
	s.Cleanup(func() {
		p.kill(true)
		if s.Failed() {
			s.Logf("%s, started %d times, ended its log with:\n%s", name, p.starts, p.log())
		}
	})
	return p
}

func (p *part) run() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.stopped = false, false
	cmd, err := p.start()
	if err != nil {
		return err
	}
	p.starts++
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }()
	return nil
}

func (p *part) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process at once; held, it is not started again.
func (p *part) kill(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	_ = p.cmd.Process.Kill()
	<-p.done
}

// signal sends SIGSTOP or SIGCONT.
func (p *part) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.cmd.Process.Signal(sig)
	p.stopped = sig == syscall.SIGSTOP
}

func (p *part) isStopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// log is the end of what the process printed.
func (p *part) log() string {
	data, err := os.ReadFile(p.file)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-1500):])
}

// supervise starts again what has ended.
func (s *storm) supervise() {
	for _, p := range s.parts {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if !held && p.ended() {
			if err := p.run(); err != nil {
				s.Errorf("start %s: %v", p.name, err)
			}
		}
	}
}

// round is a time of faults, and then of none, in which all must settle.
func (s *storm) round(lasts time.Duration) {
	s.Helper()
	began := time.Now()
	var trouble sync.WaitGroup
	ctx, cancel := context.WithTimeout(s.ctx, lasts)
	defer cancel()
	trouble.Go(func() { s.trouble(ctx, rand.New(rand.NewPCG(s.random.Uint64(), 2))) })
	for ctx.Err() == nil {
		s.change(ctx)
		s.supervise()
		time.Sleep(time.Duration(s.random.IntN(300)) * time.Millisecond)
	}
	trouble.Wait()
	s.calm()
	calm := time.Now()
	s.settle()
	s.Logf("%v of faults, settled %v later, %d changes: %d events", time.Since(began).Round(time.Second), time.Since(calm).Round(time.Second), s.writes, s.world.steps)
}

// settle waits until everything is as asked for, and checks the history meanwhile.
func (s *storm) settle() {
	s.Helper()
	s.ask()
	deadline := time.Now().Add(settles)
	for {
		agrees := s.recorder.Agrees(s.ctx)
		s.check()
		left := s.world.Unsettled()
		if agrees == nil && len(left) == 0 || s.Failed() {
			return
		}
		if time.Now().After(deadline) {
			s.Errorf("not settled %v after the faults: %v", settles, agrees)
			for _, text := range left {
				s.Errorf("  %s", text)
			}
			return
		}
		s.supervise()
		time.Sleep(250 * time.Millisecond)
	}
}

// check holds the rules against what was recorded since the last time.
func (s *storm) check() {
	s.Helper()
	events, gaps, err := s.recorder.Take()
	if err != nil {
		s.Errorf("recorder: %v", err)
	}
	s.events = append(s.events, events...)
	for n, v := range s.world.Check(Rules(), events, gaps...) {
		if n == 10 {
			s.Errorf("and more")
			break
		}
		s.Errorf("%s", v)
	}
}

// keep writes what is known of a failure to a folder of its own: the history, and the logs with what each process was doing.
func (s *storm) keep() {
	dir, err := os.MkdirTemp("", "faults-")
	if err != nil {
		s.Log(err)
		return
	}
	var text strings.Builder
	for _, e := range s.events {
		fmt.Fprintln(&text, e)
	}
	err = os.WriteFile(filepath.Join(dir, "history"), []byte(text.String()), 0o600)
	for _, p := range s.parts {
		p.signal(syscall.SIGQUIT)
		<-p.done
		log, readErr := os.ReadFile(p.file)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(dir, p.name), log, 0o600))
	}
	s.Logf("the history and the logs are in %s %v", dir, err)
}

// calm ends all faults.
func (s *storm) calm() {
	for _, p := range s.parts {
		if p.isStopped() {
			p.signal(syscall.SIGCONT)
		}
		p.mu.Lock()
		p.held = false
		p.mu.Unlock()
		if p.proxy != nil {
			p.proxy.Off(true)
			p.proxy.Apart(false)
		}
	}
	s.supervise()
}

// trouble kills, stops and cuts off parts at random until ctx ends.
func (s *storm) trouble(ctx context.Context, random *rand.Rand) {
	for _, p := range s.parts {
		if p.proxy != nil {
			p.proxy.Off(false)
		}
	}
	names := []string{"controllers0", "controllers1", "scheduler2", "scheduler3", "simulate4", "apiserver"}
	for sleep(ctx, time.Duration(500+random.IntN(4000))*time.Millisecond) {
		p := s.parts[names[random.IntN(len(names))]]
		switch dice := random.IntN(10); {
		case p.proxy == nil && dice > 1: // the API server, seldom
		case dice < 4:
			p.kill(false)
		case dice < 7 && p.proxy != nil:
			p.signal(syscall.SIGSTOP)
			sleep(ctx, time.Duration(random.IntN(20000))*time.Millisecond)
			p.signal(syscall.SIGCONT)
		case p.proxy != nil:
			p.proxy.Apart(true)
			sleep(ctx, time.Duration(random.IntN(20000))*time.Millisecond)
			p.proxy.Apart(false)
		}
	}
}

// sleep is false once ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
