package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

// byZone rejects nodes that are not in zone a and scores the others by a label; it needs the nodes.
func byZone(s *server, name string) *scheduling.NodeVerdict {
	node := s.nodes[name]
	switch {
	case node == nil:
		return reject("unknown node")
	case node.Labels["zone"] != "a":
		return reject("not in zone a")
	}
	return points(49.6)
}

func TestAnswers(t *testing.T) {
	for _, encoding := range []Encoding{Protobuf, JSON} {
		for _, objects := range []scheduling.ObjectFormat{scheduling.ObjectFormat_JSON, scheduling.ObjectFormat_PROTOBUF} {
			t.Run(fmt.Sprintf("%s/%v", encoding, objects), func(t *testing.T) {
				s := &server{about: both(), judge: each(byZone)}
				s.about.Nodes, s.about.Objects = true, objects
				path := socket(t)
				var options []grpc.ServerOption
				if encoding == JSON {
					options = append(options, grpc.ForceServerCodecV2(jsonCodec{}))
				}
				s.serve(t, path, options...)
				c := client(t, path, func(cfg *Config) { cfg.Encoding = encoding })
				list := nodes("n1", "n2")
				list[0].Labels = map[string]string{"zone": "a"}
				answer, err := c.Evaluate(t.Context(), pod("p"), list)
				if err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(answer.Rejected, map[string]string{"n2": "not in zone a"}) || !maps.Equal(answer.Scores, map[string]int64{"n1": 50}) {
					t.Errorf("answer %+v", answer)
				}
				if got := c.Counts(); got != (Counts{Answered: 1}) {
					t.Errorf("counts %+v", got)
				}
			})
		}
	}
}

func TestWholePodRejected(t *testing.T) {
	s := &server{about: both(), judge: func(_ context.Context, _ *server, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
		p := &corev1.Pod{}
		if err := p.Unmarshal(r.Pods[0].Object); err != nil {
			return nil, err
		}
		return &scheduling.EvaluateResponse{Pods: []*scheduling.PodAnswer{{Uid: r.Pods[0].Uid, Reject: "no licence for " + p.Name, RetryAfterSeconds: 7}}}, nil
	}}
	s.about.Objects = scheduling.ObjectFormat_PROTOBUF
	path := socket(t)
	s.serve(t, path)
	answer, err := client(t, path).Evaluate(t.Context(), pod("p"), nodes("n1"))
	if err != nil || answer.PodRejected != "no licence for p" || answer.RetryAfter != 7*time.Second {
		t.Errorf("%+v, %v", answer, err)
	}
}

// TestNodesAreSentOnce: afterwards only what changed goes over the wire, and everything again to a plug-in that lost it.
func TestNodesAreSentOnce(t *testing.T) {
	s := &server{about: both(), judge: each(byZone)}
	s.about.Nodes = true
	path := socket(t)
	s.serve(t, path)
	c := client(t, path)
	list := nodes("n1", "n2", "n3")
	evaluate := func(want string) {
		t.Helper()
		s.mu.Lock()
		s.syncs = nil
		s.mu.Unlock()
		if _, err := c.Evaluate(t.Context(), pod("p"), list); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		var got []string
		for _, r := range s.syncs {
			got = append(got, fmt.Sprintf("%d:+%d-%d", r.Base.Version, len(r.Set), len(r.Removed)))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("sent %q, want %q", text, want)
		}
	}
	if err := c.Sync(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	evaluate("")
	changed := list[1].DeepCopy()
	changed.ResourceVersion = "2"
	list[1] = changed
	evaluate("1:+1-0")
	list[0] = list[0].DeepCopy() // the same in another place
	evaluate("")
	c.Forget("n3")
	c.Forget("n3")
	list = list[:2]
	evaluate("2:+0-1")
	s.mu.Lock()
	s.state = nil // as a plug-in that was started anew
	s.mu.Unlock()
	evaluate("0:+2-0")
	changed = changed.DeepCopy()
	changed.ResourceVersion = "3"
	list[1] = changed
	s.mu.Lock()
	s.state.Version = 17
	s.mu.Unlock()
	evaluate("1:+1-0 0:+2-0")
}

func TestManyNodesComeInChunks(t *testing.T) {
	s := &server{about: both(), judge: each(func(s *server, name string) *scheduling.NodeVerdict {
		if s.nodes[name] == nil {
			return reject("unknown node")
		}
		return nil
	})}
	s.about.Nodes = true
	path := socket(t)
	s.serve(t, path)
	c := client(t, path)
	var list []*corev1.Node
	for i := range 100 {
		n := nodes(fmt.Sprintf("n%d", i))[0]
		n.Annotations = map[string]string{"big": strings.Repeat("x", 100<<10)}
		list = append(list, n)
	}
	answer, err := c.Evaluate(t.Context(), pod("p"), list)
	if err != nil || len(answer.Rejected) > 0 || len(s.syncs) < 5 {
		t.Errorf("%v, %d rejected, %d requests", err, len(answer.Rejected), len(s.syncs))
	}
}

// TestSlowToTakeNodes: a plug-in that takes longer for the nodes than a pod waits gets them once all the same, and meanwhile pods
// are not held up.
func TestSlowToTakeNodes(t *testing.T) {
	s := &slowSync{server: &server{about: both(), judge: each(func(*server, string) *scheduling.NodeVerdict { return nil })}, takes: 150 * time.Millisecond}
	s.about.Nodes = true
	path := socket(t)
	defer serveAs(t, s, path)()
	c := client(t, path, func(cfg *Config) { cfg.Deadline = 100 * time.Millisecond })
	var list []*corev1.Node
	for i := range 10 {
		n := nodes(fmt.Sprintf("n%d", i))[0]
		n.Annotations = map[string]string{"big": strings.Repeat("x", 900<<10)}
		list = append(list, n)
	}
	calls := 0
	eventually(t, "answer", func() bool {
		calls++
		_, err := c.Evaluate(t.Context(), pod("p"), list)
		return err == nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.syncs) != len(list) {
		t.Errorf("%d requests for %d nodes", len(s.syncs), len(list))
	}
	if calls < 10 {
		t.Errorf("%d calls while nodes were sent: they were held up", calls)
	}
}

// TestNonsense: an answer that breaks the contract is named, counted, and counts as none.
func TestNonsense(t *testing.T) {
	answer := func(pods ...*scheduling.PodAnswer) *scheduling.EvaluateResponse {
		return &scheduling.EvaluateResponse{Pods: pods}
	}
	judged := func(verdicts ...*scheduling.NodeVerdict) *scheduling.EvaluateResponse {
		return answer(&scheduling.PodAnswer{Uid: "uid-p", Nodes: verdicts})
	}
	on := func(node string, v *scheduling.NodeVerdict) *scheduling.NodeVerdict { v.Node = node; return v }
	tests := []struct {
		name     string
		response *scheduling.EvaluateResponse
		want     string
		change   func(*Config, *scheduling.DescribeResponse)
	}{
		{name: "nothing", response: answer(), want: "invalid answer: none for the pod"},
		{name: "another pod", response: answer(&scheduling.PodAnswer{Uid: "x"}), want: "invalid answer: none for the pod"},
		{name: "twice", response: answer(&scheduling.PodAnswer{Uid: "x"}, &scheduling.PodAnswer{Uid: "x"}), want: `invalid answer: two answers for pod "x"`},
		{name: "unknown node", response: judged(on("n1", points(1)), on("n9", points(1))), want: `invalid answer: verdict on node "n9", which is no candidate`},
		{name: "missing node", response: judged(on("n1", points(1))), want: `invalid answer: no verdict on node "n2"`},
		{name: "node twice", response: judged(on("n1", points(1)), on("n1", points(1))), want: `invalid answer: two verdicts on node "n1"`},
		{name: "too much", response: judged(on("n1", points(100.5)), on("n2", points(1))), want: `invalid answer: score 100.5 of node "n1" is not between 0 and 100`},
		{name: "negative", response: judged(on("n1", points(-1)), on("n2", points(1))), want: `score -1 of node "n1"`},
		{name: "NaN", response: judged(on("n1", points(math.NaN())), on("n2", points(1))), want: `score NaN of node "n1"`},
		{name: "infinite", response: judged(on("n1", points(math.Inf(1))), on("n2", points(1))), want: `score +Inf of node "n1"`},
		{name: "no reason", response: judged(on("n1", reject("")), on("n2", points(1))), want: "invalid answer: a rejection without reason"},
		{name: "a novel", response: judged(on("n1", reject(strings.Repeat("x", 2000))), on("n2", points(1))), want: "invalid answer: a reason of 2000 bytes"},
		{name: "both", response: answer(&scheduling.PodAnswer{Uid: "uid-p", Reject: "no", Nodes: []*scheduling.NodeVerdict{on("n1", points(1))}}), want: "rejected as a whole"},
		{name: "ask in a year", response: answer(&scheduling.PodAnswer{Uid: "uid-p", Reject: "no", RetryAfterSeconds: 1 << 25}), want: "more than an hour"},
		{name: "oversize", response: judged(on("n1", reject(strings.Repeat("x", 5<<20)))), want: "received message larger than max"},
		{name: "lost nodes that it did not want", response: &scheduling.EvaluateResponse{UnknownState: true}, want: "misses nodes that it did not ask for"},
		{name: "no filter", response: judged(on("n1", reject("no")), on("n2", points(1))), want: "describes itself as no filter",
			change: func(_ *Config, d *scheduling.DescribeResponse) { d.Filter = false }},
		{name: "no scorer", response: judged(on("n1", reject("no")), on("n2", points(1))), want: "describes itself as giving none",
			change: func(_ *Config, d *scheduling.DescribeResponse) { d.Score = false }},
		{name: "scores only", response: judged(on("n1", reject("no")), on("n2", points(1))), want: "enabled for scores only",
			change: func(c *Config, _ *scheduling.DescribeResponse) { c.Score = true }},
		{name: "good for nothing", response: answer(), want: "neither filters nor scores",
			change: func(_ *Config, d *scheduling.DescribeResponse) { d.Filter, d.Score = false, false }},
		{name: "good for something else", response: answer(), want: "does not do what it is enabled for",
			change: func(c *Config, d *scheduling.DescribeResponse) { c.Filter, d.Filter = true, false }},
		{name: "format", response: answer(), want: "objects in unknown format 9",
			change: func(_ *Config, d *scheduling.DescribeResponse) { d.Objects = 9 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &server{about: both(), judge: func(context.Context, *server, *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
				return test.response, nil
			}}
			path := socket(t)
			c := client(t, path, func(cfg *Config) {
				if test.change != nil {
					test.change(cfg, &s.about)
				}
			})
			s.serve(t, path)
			_, err := c.Evaluate(t.Context(), pod("p"), nodes("n1", "n2"))
			var down *Unavailable
			if !errors.As(err, &down) || !strings.HasPrefix(err.Error(), `plug-in "test" is not available: `) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if down != nil && down.RetryAfter <= 0 {
				t.Errorf("retry after %v", down.RetryAfter)
			}
			want := Counts{Invalid: 1}
			if test.name == "oversize" {
				want = Counts{Failed: 1}
			}
			if got := c.Counts(); got != want {
				t.Errorf("counts %+v", got)
			}
		})
	}
}

// TestScoresThatNobodyWants are ignored where the plug-in is enabled as a filter only.
func TestScoresThatNobodyWants(t *testing.T) {
	s := &server{about: both(), judge: each(func(*server, string) *scheduling.NodeVerdict { return points(5) })}
	path := socket(t)
	s.serve(t, path)
	answer, err := client(t, path, func(c *Config) { c.Filter = true }).Evaluate(t.Context(), pod("p"), nodes("n1"))
	if err != nil || answer.Scores != nil || s.requests[0].Score || !s.requests[0].Filter {
		t.Errorf("%+v, %v, asked %v", answer, err, s.requests[0])
	}
}

// TestHang: no call outlasts the deadline, after three nothing is asked, and nothing piles up; when the plug-in answers again,
// so does the client.
func TestHang(t *testing.T) {
	hang, stuck := make(chan struct{}), true
	var mu sync.Mutex
	s := &server{about: both()}
	s.judge = func(ctx context.Context, s *server, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
		mu.Lock()
		wait := stuck
		mu.Unlock()
		if wait {
			<-hang // whatever the client does
		}
		return each(func(*server, string) *scheduling.NodeVerdict { return nil })(ctx, s, r)
	}
	path := socket(t)
	s.serve(t, path)
	t.Cleanup(func() { close(hang) })
	c := client(t, path, func(cfg *Config) { cfg.Deadline = 300 * time.Millisecond })
	before := runtime.NumGoroutine()
	for i := range tolerated {
		start := time.Now()
		_, err := c.Evaluate(t.Context(), pod("p"), nodes("n1"))
		if !errors.Is(err, ErrDeadline) || time.Since(start) > 10*c.cfg.Deadline {
			t.Fatalf("call %d: %v after %v", i, err, time.Since(start))
		}
	}
	start := time.Now()
	for i := range 10_000 {
		_, err := c.Evaluate(t.Context(), pod("p"), nodes("n1"))
		var down *Unavailable
		if !errors.As(err, &down) || down.RetryAfter <= 0 || down.RetryAfter > longestWait {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("10,000 calls while it is down took %v", took)
	}
	if counts := c.Counts(); counts.Refused < 9_900 {
		t.Errorf("counts %+v", counts)
	}
	if after := runtime.NumGoroutine(); after > before+50 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	mu.Lock()
	stuck = false
	mu.Unlock()
	eventually(t, "answer again", func() bool {
		_, err := c.Evaluate(t.Context(), pod("p"), nodes("n1"))
		return err == nil
	})
}

// TestHangInSync: a plug-in that takes no nodes costs no call more than its deadline.
func TestHangInSync(t *testing.T) {
	s := &hangingSync{server: &server{about: both()}, release: make(chan struct{})}
	s.about.Nodes = true
	path := socket(t)
	s.server.judge = each(byZone)
	stop := serveAs(t, s, path)
	defer stop()
	defer close(s.release)
	c := client(t, path, func(cfg *Config) { cfg.Deadline = 200 * time.Millisecond })
	start := time.Now()
	for range 10 {
		if _, err := c.Evaluate(t.Context(), pod("p"), nodes("n1")); err == nil {
			t.Fatal("an answer without nodes")
		}
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("10 calls took %v", took)
	}
}

func TestCrashMidCall(t *testing.T) {
	path := socket(t)
	var stop func()
	crash := true
	s := &server{about: both()}
	s.about.Nodes = true
	s.judge = func(ctx context.Context, s *server, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
		if crash {
			crash = false
			go stop()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return each(byZone)(ctx, s, r)
	}
	stop = s.serve(t, path)
	c := client(t, path)
	if _, err := c.Evaluate(t.Context(), pod("p"), nodes("n1")); err == nil || errors.Is(err, ErrDeadline) {
		t.Fatalf("error %v of a plug-in that died", err)
	}
	stop()
	again := &server{about: both(), judge: each(byZone)}
	again.about.Nodes = true
	again.serve(t, path)
	eventually(t, "answer again", func() bool {
		answer, err := c.Evaluate(t.Context(), pod("p"), nodes("n1"))
		return err == nil && answer.Rejected["n1"] == "not in zone a"
	})
}

// TestNotThere: before the plug-in is started its pods fail fast, and are counted in once it is.
func TestNotThere(t *testing.T) {
	path := socket(t)
	c := client(t, path, func(cfg *Config) { cfg.WhenDown = Ignore })
	answer, err := c.Evaluate(t.Context(), pod("p"), nodes("n1"))
	if err != nil || answer.Ignored == nil || answer.Rejected != nil || answer.Scores != nil {
		t.Fatalf("%+v, %v", answer, err)
	}
	if got := answer.Ignored.Error(); got != fmt.Sprintf(`plug-in "test" is not available: dial unix %s: connect: no such file or directory`, path) {
		t.Error(got)
	}
	s := &server{about: both(), judge: each(func(*server, string) *scheduling.NodeVerdict { return points(3) })}
	s.serve(t, path)
	eventually(t, "answer", func() bool {
		answer, err := c.Evaluate(t.Context(), pod("p"), nodes("n1"))
		return err == nil && answer.Scores["n1"] == 3
	})
}

// TestConcurrentCallsGoTogether: pods that wait while others are asked about share a call, each with its own candidates.
func TestConcurrentCallsGoTogether(t *testing.T) {
	gate := make(chan struct{})
	s := &server{about: both()}
	s.judge = func(ctx context.Context, s *server, r *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
		<-gate
		return each(func(_ *server, name string) *scheduling.NodeVerdict { return points(float64(len(name))) })(ctx, s, r)
	}
	path := socket(t)
	s.serve(t, path)
	c := client(t, path)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			list := nodes("n", "nn", "nnn")[i%3:]
			answer, err := c.Evaluate(t.Context(), pod(fmt.Sprintf("p%d", i/2)), list) // each pod twice
			if err != nil || len(answer.Scores) != len(list) || answer.Scores["nnn"] != 3 {
				t.Errorf("%+v, %v", answer, err)
			}
		})
	}
	eventually(t, "wait", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.waiting) >= 100-maxWorkers*maxBatch && c.workers == maxWorkers
	})
	close(gate)
	wg.Wait()
	if len(s.requests) >= 100 {
		t.Errorf("%d calls for 100 pods", len(s.requests))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) > 0 {
		t.Errorf("%d still wait", len(c.waiting))
	}
}

// TestLargePod: it is refused alone, and the plug-in does not pass for one that is down.
func TestLargePod(t *testing.T) {
	s := &server{about: both(), judge: each(func(*server, string) *scheduling.NodeVerdict { return nil })}
	path := socket(t)
	s.serve(t, path)
	c := client(t, path)
	big := pod("big")
	big.Annotations = map[string]string{"a": strings.Repeat("\x01", 1<<20)}
	for range 2 * tolerated {
		if _, err := c.Evaluate(t.Context(), big, nodes("n1")); !errors.Is(err, errTooLarge) {
			t.Fatal(err)
		}
	}
	if _, err := c.Evaluate(t.Context(), pod("p"), nodes("n1")); err != nil {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	path := socket(t)
	s := &server{about: both(), judge: func(ctx context.Context, _ *server, _ *scheduling.EvaluateRequest) (*scheduling.EvaluateResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	s.serve(t, path)
	c := client(t, path, func(cfg *Config) { cfg.WhenDown = Ignore })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := c.Evaluate(ctx, pod("p"), nodes("n1")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c.Close()
	if answer, err := c.Evaluate(t.Context(), pod("p"), nodes("n1")); err != nil || !errors.Is(answer.Ignored, errClosed) {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestAnotherService(t *testing.T) {
	path := socket(t)
	stop := serveAs(t, nil, path)
	defer stop()
	_, err := client(t, path).Evaluate(t.Context(), pod("p"), nodes("n1"))
	if err == nil || !strings.Contains(err.Error(), "it does not serve coracle.scheduling.v1alpha1.SchedulerPlugin") {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not %s", what)
		}
	}
}

// BenchmarkEvaluate is the round trip for one pod with so many candidates, which the plug-in knows.
func BenchmarkEvaluate(b *testing.B) {
	for _, count := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			evaluate, list := benchmark(b, count)
			p := pod("p")
			for b.Loop() {
				evaluate(p, list)
			}
		})
	}
}

// BenchmarkTogether is for one of 64 pods at a time, as many as the scheduler asks about at once.
func BenchmarkTogether(b *testing.B) {
	for _, count := range []int{10, 1000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			evaluate, list := benchmark(b, count)
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			var number atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				p := pod(fmt.Sprint(number.Add(1)))
				for pb.Next() {
					evaluate(p, list)
				}
			})
		})
	}
}
