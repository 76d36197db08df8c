package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
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
	Addr              string `json:",omitempty"`
	Env               []string
}

// serve answers HTTP on :8080 (PORT overrides) until SIGTERM, then drains.
func serve(e env, args []string) int {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	fs.SetOutput(e.stderr)
	drain := fs.Duration("drain", 5*time.Second, "how long running requests may take after SIGTERM")
	delay := fs.Duration("delay", 0, "wait this long before listening")
	lame := fs.Duration("lame", 0, "keep accepting for this long after SIGTERM")
	if fs.Parse(args) != nil {
		return 2
	}
	time.Sleep(*delay)
	s := &site{log: log.New(e.stdout, "", log.LstdFlags|log.Lmicroseconds), exit: make(chan int, 1)}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	server := &http.Server{Addr: ":" + port, Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
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
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return e.fail("demo", err)
	}
	s.log.Print("bye")
	return 0
}

func (s *site) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", s.text)
	mux.HandleFunc("/json", s.json)
	mux.HandleFunc("/healthz", s.health)
	mux.HandleFunc("/fail", s.fail)
	mux.HandleFunc("/recover", func(w http.ResponseWriter, _ *http.Request) {
		s.failUntil.Store(0)
		fmt.Fprintln(w, "healthy again")
	})
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		s.log.Print(r.FormValue("line"))
		fmt.Fprintln(w, "logged")
	})
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		fmt.Fprintln(w, "exiting with", code)
		time.AfterFunc(50*time.Millisecond, func() { s.exit <- code })
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.FormValue("for"))
		time.Sleep(d)
		fmt.Fprintln(w, "slept", d)
	})
	return s.logged(mux)
}

func (s *site) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &statusRecorder{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(rec, r)
		if r.URL.Path != "/healthz" || rec.code != http.StatusOK {
			s.log.Printf("%s %s %s %d %v", r.RemoteAddr, r.Method, r.URL.RequestURI(), rec.code, time.Since(start).Round(time.Microsecond))
		}
	})
}

type statusRecorder struct {
	http.ResponseWriter
	code int
}

func (r *statusRecorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

func describe() page {
	name, _ := os.Hostname()
	vars := os.Environ()
	slices.Sort(vars)
	return page{Version: os.Getenv("VERSION"), Hostname: name, Env: vars}
}

func (s *site) text(w http.ResponseWriter, _ *http.Request) {
	p := describe()
	fmt.Fprintf(w, "Hello from demo %s on %s\n\n", p.Version, p.Hostname)
	for _, v := range p.Env {
		fmt.Fprintln(w, v)
	}
}

func (s *site) json(w http.ResponseWriter, r *http.Request) {
	p := describe()
	p.Addr = r.RemoteAddr
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p)
}

func (s *site) health(w http.ResponseWriter, _ *http.Request) {
	if time.Now().UnixNano() < s.failUntil.Load() {
		http.Error(w, "failing on request", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// fail makes /healthz fail for a while: /fail?for=10s (an hour without).
func (s *site) fail(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		d = time.Hour
	}
	s.failUntil.Store(time.Now().Add(d).UnixNano())
	fmt.Fprintln(w, "failing for", d)
}
