package inprocess_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coracle-dev/coracle/apiserver/inprocess"
)

func client(h http.HandlerFunc) *http.Client {
	return &http.Client{Transport: &inprocess.Transport{
		Handler: h, Context: func(ctx context.Context) context.Context { return ctx },
	}}
}

func get(t *testing.T, c *http.Client, body string) *http.Response {
	t.Helper()
	resp, err := c.Post("http://local/path?q=1", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestAnswer(t *testing.T) {
	c := client(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s", req.RequestURI, b)
	})
	resp := get(t, c, "hello")
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Answer") != "yes" || string(b) != "/path?q=1 hello" || err != nil {
		t.Errorf("%d %v %q %v", resp.StatusCode, resp.Header, b, err)
	}
	empty := get(t, client(func(http.ResponseWriter, *http.Request) {}), "")
	if b, _ := io.ReadAll(empty.Body); empty.StatusCode != http.StatusOK || len(b) != 0 {
		t.Errorf("%d %q", empty.StatusCode, b)
	}
}

// TestStream: what is flushed arrives while the handler goes on.
func TestStream(t *testing.T) {
	more := make(chan struct{})
	c := client(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "one")
		w.(http.Flusher).Flush()
		<-more
		fmt.Fprint(w, "two")
	})
	resp := get(t, c, "")
	first := make([]byte, 10)
	if n, err := resp.Body.Read(first); string(first[:n]) != "one" || err != nil {
		t.Errorf("%q %v", first[:n], err)
	}
	close(more)
	if b, err := io.ReadAll(resp.Body); string(b) != "two" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

// TestBackPressure: a handler writes no further ahead than the buffer reaches, and loses nothing.
func TestBackPressure(t *testing.T) {
	const chunk, chunks = 100 << 10, 100
	written := make(chan int, chunks)
	c := client(func(w http.ResponseWriter, _ *http.Request) {
		for i := range chunks {
			if _, err := w.Write(bytes.Repeat([]byte{byte(i)}, chunk)); err != nil {
				t.Error(err)
			}
			written <- i
		}
	})
	resp := get(t, c, "")
	time.Sleep(20 * time.Millisecond)
	if n := len(written); n > 20 {
		t.Errorf("the handler is %d chunks ahead", n)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || len(b) != chunk*chunks || b[len(b)-1] != chunks-1 || b[chunk] != 1 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestEnds(t *testing.T) {
	ended := make(chan error, 1)
	handler := func(w http.ResponseWriter, req *http.Request) {
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		_, err := w.Write([]byte("too late"))
		ended <- err
	}
	resp := get(t, client(handler), "")
	resp.Body.Close()
	if err := <-ended; err == nil {
		t.Error("a write to a closed body worked")
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
		t.Error("a read of a closed body worked")
	}

	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://local/", nil)
	resp, err := client(handler).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("the body of a cancelled request ended with %v", err)
	}
	<-ended

	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	req, _ = http.NewRequestWithContext(ctx, "GET", "http://local/", nil)
	if _, err := client(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }).Do(req); !errors.Is(err, context.DeadlineExceeded) {
		// The handler may have ended, with an empty answer, in the same moment.
		if err != nil {
			t.Errorf("a request without an answer ended with %v", err)
		}
	}
}

// TestPanic: a handler that panics breaks its body off, and nothing else.
func TestPanic(t *testing.T) {
	resp := get(t, client(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "half")
		panic(http.ErrAbortHandler)
	}), "")
	if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(b) != "half" {
		t.Errorf("%q %v", b, err)
	}
}

func TestConcurrent(t *testing.T) {
	c := client(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		for range 100 {
			_, _ = w.Write(b)
			w.(http.Flusher).Flush()
		}
	})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			resp, err := c.Post("http://local/", "text/plain", strings.NewReader(fmt.Sprint(i)))
			if err != nil {
				t.Error(err)
				return
			}
			b, err := io.ReadAll(resp.Body)
			if want := strings.Repeat(fmt.Sprint(i), 100); string(b) != want || err != nil {
				t.Errorf("%q %v", b, err)
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
}
