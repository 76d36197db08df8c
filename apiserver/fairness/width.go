package fairness

import (
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Upstream's figures of what a seat stands for.
const (
	objectsPerSeat  = 100
	watchersPerSeat = 10
	maxWidth        = 10
	// eventTime is how long the watchers of a seat are served for after a mutation.
	eventTime = 5 * time.Millisecond
)

// work is what a request is taken to cost.
type work struct {
	seats int
	// final is how many seats it keeps for linger after it is answered.
	final  int
	linger time.Duration
}

// width is how many seats a request takes.
func (w *work) width() int { return max(w.seats, w.final) }

// cost is in seat-seconds.
func (w *work) cost() float64 {
	return float64(w.seats)*guess + float64(w.final)*w.linger.Seconds()
}

// estimate tells a request's work, of which nothing is wider than most. objects is how many there are of a resource.
func estimate(r *Request, most int, objects func(schema.GroupResource) int, watches *watches) work {
	switch r.Info.Verb {
	case "list", "watch":
		return work{seats: min(max(1, (toRead(r, objects)+objectsPerSeat-1)/objectsPerSeat), most)}
	case "create", "update", "patch", "delete":
		n := watches.interested(r.Info)
		if n < watchersPerSeat {
			break
		}
		seats := (n + watchersPerSeat - 1) / watchersPerSeat
		final := min(seats, most)
		return work{seats: 1, final: final, linger: eventTime * time.Duration(seats) / time.Duration(final)}
	}
	return work{seats: 1}
}

// toRead is how many objects a list or the beginning of a watch goes through.
func toRead(r *Request, objects func(schema.GroupResource) int) int {
	if r.Info.Name != "" || objects == nil {
		return 1 // a field selector of one name
	}
	n := objects(schema.GroupResource{Group: r.Info.APIGroup, Resource: r.Info.Resource})
	if n <= objectsPerSeat || r.Query == "" {
		return n
	}
	q, err := url.ParseQuery(r.Query)
	if err != nil {
		return n
	}
	if r.Info.Verb == "watch" {
		initial, err := strconv.ParseBool(q.Get("sendInitialEvents"))
		if version := q.Get("resourceVersion"); err != nil { // not said: a watch from nowhere begins with what there is
			initial = version == "" || version == "0"
		}
		if !initial {
			return 1
		}
		return n
	}
	if limit, err := strconv.Atoi(q.Get("limit")); err == nil && limit > 0 && q.Get("labelSelector") == "" && q.Get("fieldSelector") == "" {
		n = min(n, limit)
	}
	return n
}

// watches counts those that are served, by what they are of.
type watches struct {
	mu     sync.RWMutex
	counts map[watched]int
}

type watched struct{ group, resource, namespace, name string }

// narrow tells a watch of pods on one node: few changes of pods are for it.
func narrow(r *Request) bool {
	return r.Info.Resource == "pods" && strings.Contains(r.Query, "spec.nodeName%3D")
}

func (w *watches) add(r *Request) (forget func()) {
	if narrow(r) {
		return func() {}
	}
	of := watched{r.Info.APIGroup, r.Info.Resource, r.Info.Namespace, r.Info.Name}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[of]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.counts[of]--; w.counts[of] == 0 {
			delete(w.counts, of)
		}
	}
}

// interested counts the watches that see a change: of all, of the namespace, and of the object.
func (w *watches) interested(info *request.RequestInfo) int {
	if info.Resource == "serviceaccounts" && info.Subresource == "token" {
		return 0 // changes nothing that is watched
	}
	of := watched{group: info.APIGroup, resource: info.Resource}
	w.mu.RLock()
	defer w.mu.RUnlock()
	n := w.counts[of]
	if info.Namespace != "" {
		of.namespace = info.Namespace
		n += w.counts[of]
	}
	if info.Name != "" {
		of.name = info.Name
		n += w.counts[of]
	}
	return n
}
