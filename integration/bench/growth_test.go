package bench

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// listers read a list at once, to see what that adds to memory.
const listers = 10

// BenchmarkGrowth measures how the API server's figures grow with the number of pods, and what big lists cost in memory.
func BenchmarkGrowth(b *testing.B) {
	c := begin(b)
	startServer(b, c)
	awaitAccount(b, c.Client())
	a := newAPI(b, c)
	have := 0
	for _, pods := range []int{5000, 20_000, 50_000} {
		name := func(what string) string { return fmt.Sprintf("%d pods: %s", pods, what) }
		first := have
		a.load(name("create"), "", pods-first, func(client *http.Client, i int) error {
			_, err := a.do(client, "POST", podsPath, asProtobuf, asJSON, podBody(fmt.Sprintf("pod-%d", first+i)))
			return err
		})
		have = pods
		a.load(name("get"), "", 2*listedPods, func(client *http.Client, i int) error {
			_, err := a.do(client, "GET", fmt.Sprintf("%s/pod-%d", podsPath, i*7919%pods), asProtobuf, "", "")
			return err
		})
		a.load(name("patch"), "", listedPods, func(client *http.Client, i int) error {
			_, err := a.do(client, "PATCH", fmt.Sprintf("%s/pod-%d", podsPath, i*7919%pods), asProtobuf, "application/merge-patch+json",
				fmt.Sprintf(`{"metadata":{"annotations":{"bench":"%d-%d"}}}`, pods, i))
			return err
		})
		figure(b, name("RSS at the end of that load"), memories(b, c)["all"].rss/mb, "MB", "")
		time.Sleep(quietAfterLoad)
		figure(b, name("RSS once quiet"), memories(b, c)["all"].rss/mb, "MB", "")
		goal := ""
		if pods == 50_000 {
			goal = "<= 100"
		}
		for _, form := range []struct{ name, accept string }{{"protobuf", asProtobuf}, {"JSON", asJSON}} {
			a.listsAtOnce(name("list "+form.name), form.accept, goal)
		}
	}
}

// listsAtOnce measures ten lists of everything at once: the longest, and how far memory rises above what it was before.
func (a *api) listsAtOnce(what, accept, goal string) {
	a.b.Helper()
	before := memories(a.b, a.c)["all"].rss
	var done atomic.Bool
	peak := make(chan float64)
	go func() {
		highest := before
		for !done.Load() {
			highest = max(highest, memories(a.b, a.c)["all"].rss)
			time.Sleep(10 * time.Millisecond)
		}
		peak <- highest
	}()
	var wg sync.WaitGroup
	began := time.Now()
	for range listers {
		client := a.client()
		wg.Go(func() {
			if _, err := a.do(client, "GET", podsPath, accept, "", ""); err != nil {
				a.b.Error(err)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	done.Store(true)
	figure(a.b, what+" by ten at once", took.Seconds()*1000, "ms", "")
	figure(a.b, what+" by ten at once, growth of RSS", (<-peak-before)/mb, "MB", goal)
}
