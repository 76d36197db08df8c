package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Chances are how likely each fault is, from 0 to 1, for a request that it can befall.
type Chances struct {
	// Conflict, Throttle, Fail and Unavailable answer 409 (to changes), 429 with Retry-After, 500 and 503 without passing the request on.
	Conflict, Throttle, Fail, Unavailable float64
	// Drop loses the request, Hang loses it and says so only seconds later, Delay passes it on late.
	Drop, Hang, Delay float64
	// Lose passes the request on and loses the answer; FailAfter answers 500 or 504 in its place.
	Lose, FailAfter float64
	// CutConnection ends the connection with all that is under way on it.
	CutConnection float64
	// CutWatch ends a watch some time or some bytes on, be it within a frame; StallWatch holds it up for a moment.
	CutWatch, StallWatch float64
	// Stale answers a read that asks for any version (resourceVersion=0) with an earlier answer to it.
	Stale float64
	// NoStreaming refuses lists by way of a watch as a server does that does not know them: clients then list.
	NoStreaming float64
}

// Storm is bad weather: about one request in five suffers.
func Storm() Chances {
	return Chances{
		Conflict: .03, Throttle: .01, Fail: .03, Unavailable: .01, Drop: .02, Hang: .005, Delay: .05, Lose: .03, FailAfter: .02,
		CutConnection: .002, CutWatch: .3, StallWatch: .3, Stale: .5, NoStreaming: .2,
	}
}

// How long faults last at most. A request that was delayed has its effect long before a lease that its sender has lost is another's.
const (
	longestDelay = 2 * time.Second
	longestHang  = 6 * time.Second
	longestStall = 1500 * time.Millisecond
	longestWatch = 10 * time.Second
	mostBytes    = 64 << 10 // of a watch before it is cut
	stalest      = 5 * time.Second
)

// errLost is what a client sees of a request that was lost; errCut asks for its connection to be ended too.
var (
	errLost = errors.New("lost by the fault injector")
	errCut  = fmt.Errorf("%w with the connection", errLost)
)

// Injector decides which requests suffer what, by its seed.
type Injector struct {
	off, apart atomic.Bool

	mu      sync.Mutex
	random  *rand.Rand
	chances Chances
	counts  map[string]int
	answers map[string][]answer
}

// answer is what was answered to a read that asked for any version.
type answer struct {
	at     time.Time
	header http.Header
	body   []byte
}

// NewInjector makes one that is at work.
func NewInjector(seed uint64, chances Chances) *Injector {
	return &Injector{random: rand.New(rand.NewPCG(seed, seed^0x5deece66d)), chances: chances, counts: map[string]int{}, answers: map[string][]answer{}}
}

// Off ends or resumes all faults.
func (i *Injector) Off(off bool) { i.off.Store(off) }

// Apart ends or resumes all traffic.
func (i *Injector) Apart(apart bool) { i.apart.Store(apart) }

// Counts tells how often each fault befell a request.
func (i *Injector) Counts() map[string]int {
	i.mu.Lock()
	defer i.mu.Unlock()
	counts := map[string]int{}
	for name, n := range i.counts {
		counts[name] = n
	}
	return counts
}

// Wrap puts the faults between a client and next.
func (i *Injector) Wrap(next http.RoundTripper) http.RoundTripper {
	return transport{Injector: i, next: next}
}

type transport struct {
	*Injector
	next http.RoundTripper
}

// draw picks the fault that befalls a request, and a random number from 0 to 1 for its extent.
func (i *Injector) draw(r *http.Request) (fault string, extent float64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c, p := i.chances, i.random.Float64()
	change, watch := r.Method != http.MethodGet, isWatch(r)
	any := !change && !watch && r.URL.Query().Get("resourceVersion") == "0"
	streaming := watch && r.URL.Query().Get("sendInitialEvents") == "true"
	for _, f := range []struct {
		name   string
		can    bool
		chance float64
	}{
		{"conflict", change && r.Method != http.MethodPost, c.Conflict}, {"throttle", true, c.Throttle}, {"fail", true, c.Fail}, {"unavailable", true, c.Unavailable},
		{"drop", true, c.Drop}, {"hang", true, c.Hang}, {"delay", true, c.Delay}, {"lose", !watch, c.Lose}, {"fail after", change, c.FailAfter},
		{"cut connection", true, c.CutConnection}, {"no streaming", streaming, c.NoStreaming}, {"cut watch", watch, c.CutWatch}, {"stall watch", watch, c.StallWatch},
		{"stale", any, c.Stale},
	} {
		if !f.can {
			continue
		}
		if p < f.chance {
			i.counts[f.name]++
			return f.name, i.random.Float64()
		}
		p -= f.chance
	}
	return "", 0
}

func isWatch(r *http.Request) bool {
	on, err := strconv.ParseBool(r.URL.Query().Get("watch"))
	return err == nil && on
}

// RoundTrip passes the request on, or not, or late, or loses what comes back.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.apart.Load() {
		return t.lose(r, errCut)
	}
	if t.off.Load() {
		return t.next.RoundTrip(r)
	}
	fault, extent := t.draw(r)
	switch fault {
	case "conflict":
		return refuse(r, http.StatusConflict, metav1.StatusReasonConflict), nil
	case "throttle":
		return refuse(r, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests), nil
	case "fail":
		return refuse(r, http.StatusInternalServerError, metav1.StatusReasonInternalError), nil
	case "unavailable":
		return refuse(r, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable), nil
	case "no streaming":
		return refuse(r, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid), nil
	case "drop":
		return t.lose(r, errLost)
	case "cut connection":
		return t.lose(r, errCut)
	case "hang":
		if err := wait(r.Context(), extent, longestHang); err != nil {
			return t.lose(r, err)
		}
		return t.lose(r, errLost)
	case "delay":
		if err := wait(r.Context(), extent, longestDelay); err != nil {
			return t.lose(r, err)
		}
	case "cut watch", "stall watch":
		return t.watch(r, fault, extent)
	case "stale":
		if a := t.earlier(r, extent); a != nil {
			return a, nil
		}
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch fault {
	case "lose":
		return t.swallow(resp, nil, errLost)
	case "fail after":
		if extent < .5 {
			return t.swallow(resp, refuse(r, http.StatusGatewayTimeout, metav1.StatusReasonTimeout), nil)
		}
		return t.swallow(resp, refuse(r, http.StatusInternalServerError, metav1.StatusReasonInternalError), nil)
	}
	return t.remember(r, resp)
}

// lose is the end of a request that is not passed on.
func (t transport) lose(r *http.Request, err error) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return nil, err
}

// swallow takes the true answer and gives another.
func (t transport) swallow(resp, instead *http.Response, err error) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return instead, err
}

func wait(ctx context.Context, extent float64, longest time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(extent * float64(longest))):
		return nil
	}
}

// refuse is an answer as the API server gives it.
func refuse(r *http.Request, code int, reason metav1.StatusReason) *http.Response {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "injected: " + string(reason),
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if code == http.StatusTooManyRequests {
		header.Set("Retry-After", "1")
		status.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	}
	body, err := json.Marshal(status)
	if err != nil {
		panic(err) // a Status always marshals
	}
	return response(r, code, header, body)
}

func response(r *http.Request, code int, header http.Header, body []byte) *http.Response {
	return &http.Response{
		StatusCode: code, Status: fmt.Sprint(code, " ", http.StatusText(code)), Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

// key is what makes two reads the same.
func key(r *http.Request) string {
	q := r.URL.Query()
	q.Del("timeout")
	q.Del("timeoutSeconds")
	return strings.Join([]string{r.URL.Path, q.Encode(), r.Header.Get("Accept"), r.Header.Get("Accept-Encoding")}, " ")
}

// remember keeps answers that may be given again.
func (t transport) remember(r *http.Request, resp *http.Response) (*http.Response, error) {
	if r.Method != http.MethodGet || isWatch(r) || r.URL.Query().Get("resourceVersion") != "0" || resp.StatusCode != http.StatusOK {
		return resp, nil
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	k := key(r)
	t.answers[k] = append(t.fresh(k), answer{at: time.Now(), header: resp.Header.Clone(), body: body})
	t.mu.Unlock()
	return response(r, resp.StatusCode, resp.Header, body), nil
}

// fresh are the answers that are not too stale.
func (i *Injector) fresh(k string) []answer {
	list := i.answers[k]
	for len(list) > 0 && time.Since(list[0].at) > stalest {
		list = list[1:]
	}
	return list
}

// earlier is an earlier answer to the same read; nil where there is none.
func (t transport) earlier(r *http.Request, extent float64) *http.Response {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.fresh(key(r))
	if len(list) == 0 {
		return nil
	}
	a := list[int(extent*float64(len(list)))]
	return response(r, http.StatusOK, a.header.Clone(), a.body)
}

// watch passes a watch on and cuts it some way on, or holds it up once.
func (t transport) watch(r *http.Request, fault string, extent float64) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	body := &shaky{ReadCloser: resp.Body, cancel: cancel, left: -1}
	switch {
	case fault == "stall watch":
		body.stall = time.Duration(extent * float64(longestStall))
	case extent < .4: // after a time, and properly
		body.clean = true
		body.timer = time.AfterFunc(time.Duration(extent/.4*float64(longestWatch)), cancel)
	case extent < .7: // after a time
		body.timer = time.AfterFunc(time.Duration((extent-.4)/.3*float64(longestWatch)), cancel)
	default: // after some bytes
		body.left = int((extent - .7) / .3 * mostBytes)
	}
	resp.Body = body
	return resp, nil
}

// shaky is the body of a watch that does not last.
type shaky struct {
	io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
	clean  bool
	left   int // bytes; -1 for no limit
	stall  time.Duration
}

// Read gives what may still pass.
func (s *shaky) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, errLost
	}
	if s.left > 0 {
		p = p[:min(len(p), s.left)]
	}
	n, err := s.ReadCloser.Read(p)
	if s.left > 0 {
		s.left -= n
	}
	if s.stall > 0 && n > 0 {
		time.Sleep(s.stall)
		s.stall = 0
	}
	if err != nil && s.clean && errors.Is(err, context.Canceled) {
		err = io.EOF
	}
	return n, err
}

// Close ends the watch behind it.
func (s *shaky) Close() error {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.cancel()
	return s.ReadCloser.Close()
}
