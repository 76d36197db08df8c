package fairness

import (
	"context"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func ask(name, verb string, groups ...string) *Request {
	return &Request{
		User: &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)},
		Info: &request.RequestInfo{IsResourceRequest: true, Verb: verb, APIVersion: "v1", Resource: "pods", Namespace: "default"},
	}
}

func benchmark(b *testing.B, r *Request) {
	c := New(Config{Seats: 600})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			s, err := c.Begin(ctx, c.Classify(r), r, time.Second)
			if err != nil {
				b.Fatal(err)
			}
			s.Release()
		}
	})
}

// The cost of flow control for a request that does not wait.
func BenchmarkExempt(b *testing.B)  { benchmark(b, ask("admin", "get", user.SystemPrivilegedGroup)) }
func BenchmarkLimited(b *testing.B) { benchmark(b, ask("jane", "get", "a", "b")) }
func BenchmarkCreate(b *testing.B)  { benchmark(b, ask("jane", "create", "a", "b")) }
func BenchmarkNode(b *testing.B)    { benchmark(b, ask("system:node:n", "get", user.NodesGroup)) }
