package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// site is the web server's state: until when its health check fails.
type site struct {
	log       *log.Logger
	failUntil atomic.Int64 // Unix nanoseconds
	exit      chan int
}

type page struct {
	Version, Hostname string
	Addr              string // of the client
	Env               []string
}

// serve answers HTTP on :8080 (PORT overrides) until SIGTERM, then drains.
func serve(e env, args []string) int {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	drain := fs.Duration("drain", 5*time.Second, "how long running requests may take after SIGTERM")
	delay := fs.Duration("delay", 0, "wait this long before listening")
	lame := fs.Duration("lame", 0, "keep accepting for this long after SIGTERM")
	udp := fs.Int("udp", 0, "answer datagrams on this port, too; 0: none")
	if fs.Parse(args) != nil {
		return 2
	}
	time.Sleep(*delay)
	s := &site{log: log.New(e.stdout, "", log.LstdFlags|log.Lmicroseconds), exit: make(chan int, 1)}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	server := &server{handle: s.answer}
	failed := make(chan error, 2)
	go func() { failed <- server.listenAndServe(":" + port) }()
	if *udp != 0 {
		datagrams, err := net.ListenPacket("udp", fmt.Sprint(":", *udp))
		if err != nil {
			return e.fail("demo", err)
		}
		defer datagrams.Close()
		go func() { failed <- udpServe(datagrams) }()
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	s.log.Printf("demo %s listens on :%s", os.Getenv("VERSION"), port)
	select {
	case err := <-failed:
		return e.fail("demo", err)
	case code := <-s.exit:
		return code
	case sig := <-term:
		s.log.Printf("%v: draining for at most %v", sig, *drain)
	}
	time.Sleep(*lame)
	ctx, cancel := context.WithTimeout(context.Background(), *drain)
	defer cancel()
	if err := server.shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return e.fail("demo", err)
	}
	s.log.Print("bye")
	return 0
}

// answer is the server's handler; it logs every request but health checks that succeed.
func (s *site) answer(r *request) response {
	start := time.Now()
	resp := s.route(r)
	code := max(resp.code, 200)
	if r.url.Path != "/healthz" || code != 200 {
		s.log.Printf("%s %s %s %d %v", r.remote, r.method, r.url.RequestURI(), code, time.Since(start).Round(time.Microsecond))
	}
	return resp
}

func (s *site) route(r *request) response {
	form := r.url.Query()
	switch r.url.Path {
	case "/":
		p := describe(r)
		return response{body: fmt.Sprintf("Hello from demo %s on %s\n\n%s\n", p.Version, p.Hostname, strings.Join(p.Env, "\n"))}
	case "/json":
		data, _ := json.Marshal(describe(r))
		return response{kind: "application/json", body: string(data) + "\n"}
	case "/hostname":
		return response{body: describe(r).Hostname + "\n"}
	case "/clientip": // the address and port that the question came from
		return response{body: r.remote + "\n"}
	case "/ask": // ?url=, as the command: what this pod sees of the network
		a, err := newAsker(form.Get("url"), 3*time.Second, false)
		if err != nil {
			return response{code: 400, body: err.Error() + "\n"}
		}
		x, err := a.ask()
		if err != nil {
			return response{code: 503, body: err.Error() + "\n"}
		}
		return response{body: x.answer}
	case "/healthz":
		if time.Now().UnixNano() < s.failUntil.Load() {
			return response{code: 503, body: "failing on request\n"}
		}
		return response{body: "ok\n"}
	case "/fail": // ?for=10s, an hour without
		d, err := time.ParseDuration(form.Get("for"))
		if err != nil {
			d = time.Hour
		}
		s.failUntil.Store(time.Now().Add(d).UnixNano())
		return response{body: fmt.Sprintf("failing for %v\n", d)}
	case "/recover":
		s.failUntil.Store(0)
		return response{body: "healthy again\n"}
	case "/log":
		s.log.Print(form.Get("line"))
		return response{body: "logged\n"}
	case "/exit":
		code, _ := strconv.Atoi(form.Get("code"))
		time.AfterFunc(50*time.Millisecond, func() { s.exit <- code })
		return response{body: fmt.Sprintf("exiting with %d\n", code)}
	case "/busy": // ?for=20ms of a core
		d, _ := time.ParseDuration(form.Get("for"))
		return response{body: fmt.Sprintf("worked %v\n", work(min(d, 10*time.Second)))}
	case "/slow":
		d, _ := time.ParseDuration(form.Get("for"))
		time.Sleep(d)
		return response{body: fmt.Sprintf("slept %v\n", d)}
	}
	return response{code: 404, body: "404 page not found\n"}
}

// work keeps the processor busy until d of its time has been used, whatever else runs, and gives that.
func work(d time.Duration) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime()
	for threadTime()-start < d {
		for i := range 10_000 {
			_ = i * i
		}
	}
	return d
}

// threadTime is how long the calling thread has run.
func threadTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_THREAD, &u) != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func describe(r *request) page {
	name, _ := os.Hostname()
	vars := os.Environ()
	slices.Sort(vars)
	return page{Version: os.Getenv("VERSION"), Hostname: name, Addr: r.remote, Env: vars}
}
