package main

import (
	"encoding/json"
	"flag"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tally is what load prints each second and at its end, all since its start.
type tally struct {
	At      time.Time
	Asked   int
	Answers map[string]int // by the first line of the answer: who gave it
	Failed  int
	Slowest string // the longest answer of those that came
}

// miss is what load prints of a question that got no answer, and when it was asked. Target is who answered before on a connection that was kept.
type miss struct {
	At                         time.Time
	Error, Local, Target, Took string
}

// loader asks and counts.
type loader struct {
	every time.Duration
	new   func() *asker

	mu      sync.Mutex
	out     *json.Encoder
	asked   int
	failed  int
	answers map[string]int
	slowest time.Duration
}

// load asks a URL again and again, counts by who answers, and tells of each failure, as lines of JSON, until it is ended.
func load(e env, args []string) int {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	every := fs.Duration("every", 50*time.Millisecond, "how long each client waits from one question to the next")
	clients := fs.Int("clients", 1, "how many ask side by side")
	keep := fs.Bool("keep", false, "keep each client's connection; else each question has its own")
	wait := fs.Duration("T", 3*time.Second, "how long to wait for an answer")
	length := fs.Duration("for", 0, "end after this time; 0: at SIGTERM")
	if fs.Parse(args) != nil || fs.NArg() != 1 {
		return 2
	}
	if _, err := newAsker(fs.Arg(0), *wait, *keep); err != nil {
		return e.fail("load", err)
	}
	sequence := &portSequence{}
	l := &loader{every: *every, out: json.NewEncoder(e.stdout), answers: map[string]int{}, new: func() *asker {
		a, _ := newAsker(fs.Arg(0), *wait, *keep)
		a.ports = sequence
		return a
	}}
	end := make(chan struct{})
	var all sync.WaitGroup
	for i := range *clients {
		all.Go(func() { l.client(i, *clients, end) })
	}
	l.report(*length)
	close(end)
	all.Wait()
	l.print()
	return 0
}

// report prints the tally each second until it is time to end.
func (l *loader) report(length time.Duration) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	var over <-chan time.Time
	if length > 0 {
		over = time.After(length)
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-term:
			return
		case <-over:
			return
		case <-second.C:
			l.print()
		}
	}
}

func (l *loader) print() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.Encode(tally{time.Now().UTC(), l.asked, l.answers, l.failed, l.slowest.Round(100 * time.Microsecond).String()})
}

// client asks at its own beat; the clients' beats are spread.
func (l *loader) client(n, of int, end <-chan struct{}) {
	a := l.new()
	defer a.close()
	time.Sleep(l.every * time.Duration(n) / time.Duration(of))
	beat := time.NewTicker(l.every)
	defer beat.Stop()
	target := ""
	for {
		select {
		case <-end:
			return
		case <-beat.C:
		}
		if a.conn == nil {
			target = ""
		}
		begin := time.Now()
		x, err := a.ask()
		target = l.count(x, err, target, time.Since(begin))
	}
}

// count notes an answer or its failure, and gives who answered.
func (l *loader) count(x exchange, err error, target string, took time.Duration) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if err != nil {
		l.failed++
		_ = l.out.Encode(miss{time.Now().Add(-took).UTC(), err.Error(), x.local, target, took.Round(time.Millisecond).String()})
		return ""
	}
	who, _, _ := strings.Cut(strings.TrimSpace(x.answer), "\n")
	l.answers[who]++
	l.slowest = max(l.slowest, took)
	return who
}
