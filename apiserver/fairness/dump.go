package fairness

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The dumps are tables of upstream's columns, one row a line.

func table(w io.Writer, header ...string) (row func(...any), end func() error) {
	t := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
	row = func(cells ...any) {
		texts := make([]string, len(cells))
		for i, c := range cells {
			texts[i] = fmt.Sprint(c)
		}
		_, _ = fmt.Fprintln(t, strings.Join(texts, ",\t"))
	}
	_, _ = fmt.Fprintln(t, strings.Join(header, ",\t"))
	return row, t.Flush
}

// each visits the levels by name, each with its lock held.
func (c *Controller) each(visit func(*level)) {
	levels := c.config.Load().levels
	for _, name := range slices.Sorted(maps.Keys(levels)) {
		l := levels[name]
		l.mu.Lock()
		visit(l)
		l.mu.Unlock()
	}
}

// sortedQueues are a level's queues by index.
func (l *level) sortedQueues() []*queue {
	return slices.SortedFunc(slices.Values(l.busy), func(a, b *queue) int { return cmp.Compare(a.index, b.index) })
}

// DumpLevels writes what the priority levels do.
func (c *Controller) DumpLevels(w io.Writer) error {
	row, end := table(w, "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
		"DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests")
	c.each(func(l *level) {
		active := 0
		for _, q := range l.busy {
			if q.waiting.n > 0 {
				active++
			}
		}
		row(l.name, active, l.idle(), l.gone, l.waiting, l.executing, l.dispatched, l.rejected, l.late, l.left)
	})
	return end()
}

// DumpQueues writes the queues that have requests.
func (c *Controller) DumpQueues(w io.Writer) error {
	row, end := table(w, "PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
		"InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum")
	c.each(func(l *level) {
		for _, q := range l.sortedQueues() {
			initial, widest := 0, 0
			for t := q.waiting.first; t != nil; t = t.next {
				initial += t.work.seats
				widest += t.work.width()
			}
			row(l.name, q.index, q.waiting.n, q.executing, q.seats, fmt.Sprintf("%.8fss", q.start), initial, widest, fmt.Sprintf("%.8fss", q.work))
		}
	})
	return end()
}

// DumpRequests writes the requests that wait and those that are served; details tell as well what they ask for.
func (c *Controller) DumpRequests(w io.Writer, details bool) error {
	header := []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
		"InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
	if details {
		header = append(header, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
	}
	row, end := table(w, header...)
	give := func(l *level, t *ticket, queue, index int) {
		cells := []any{l.name, t.flow.schema, queue, index, t.distinguisher, t.arrived.UTC().Format(time.RFC3339Nano),
			t.work.seats, t.work.final, t.work.linger, t.started.UTC().Format(time.RFC3339Nano)}
		if details {
			i := t.request.Info
			cells = append(cells, t.request.User.GetName(), i.Verb, i.Path, i.Namespace, i.Name,
				schema.GroupVersion{Group: i.APIGroup, Version: i.APIVersion}, i.Resource, i.Subresource)
		}
		row(cells...)
	}
	c.each(func(l *level) {
		for _, q := range l.sortedQueues() {
			index := 0
			for t := q.waiting.first; t != nil; t = t.next {
				give(l, t, q.index, index)
				index++
			}
		}
		for t := l.running.first; t != nil; t = t.next {
			queue := -1
			if t.queue != nil {
				queue = t.queue.index
			}
			give(l, t, queue, -1)
		}
	})
	return end()
}
