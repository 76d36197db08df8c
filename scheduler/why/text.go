package why

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/coracle-dev/coracle/scheduler/decide"
)

const (
	// width is that of lines, but for words that are longer.
	width = 100
	// mostNodes is how many nodes' scores stand side by side.
	mostNodes = 4
	// mostNameWidth is how much of a node's name heads a column.
	mostNameWidth = 15
)

// Write writes the report as text. now is for ages.
func (r *Report) Write(w io.Writer, now time.Time) error {
	t := &text{now: now}
	t.line(0, "%s/%s: %s%s", r.Namespace, r.Name, r.State, after(" ", r.Summary))
	for _, d := range r.Details {
		t.line(2, "%s", d)
	}
	for _, c := range r.Containers {
		t.container(c)
	}
	for _, c := range r.Claims {
		t.line(2, "claim %s is %s%s", c.Name, c.State, after(": ", c.Why))
	}
	placed := len(r.Steps) > 1
	if placed {
		t.steps(r.Steps)
		t.messages(r)
	}
	t.filters(r)
	if r.Preemption != "" {
		t.section("Preemption %s", r.Preemption)
	}
	t.scores(r.Scores)
	if !placed {
		t.messages(r)
	}
	if len(r.Unread) > 0 {
		t.section("Not read")
		for _, u := range r.Unread {
			t.line(2, "%s: %s", u.What, u.Why)
		}
	}
	_, err := w.Write(t.Bytes())
	return err
}

type text struct {
	bytes.Buffer
	now time.Time
}

func (t *text) section(format string, args ...any) {
	t.WriteString("\n")
	t.line(0, format, args...)
}

// line writes words, broken at the width; what follows the first line is indented by two more.
func (t *text) line(indent int, format string, args ...any) {
	column := 0
	for word := range strings.SplitSeq(strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " "), " ") {
		switch {
		case column == 0:
			column, _ = fmt.Fprintf(t, "%*s%s", indent, "", word)
			continue
		case column+1+len(word) > width:
			n, _ := fmt.Fprintf(t, "\n%*s%s", indent+2, "", word)
			column = n - 1
			continue
		}
		n, _ := fmt.Fprintf(t, " %s", word)
		column += n
	}
	t.WriteString("\n")
}

func after(separator, s string) string {
	if s == "" {
		return ""
	}
	return separator + s
}

func (t *text) ago(at time.Time) string {
	return duration.HumanDuration(max(0, t.now.Sub(at)))
}

func (t *text) container(c Container) {
	words := fmt.Sprintf("%s %s: %s", c.Kind, c.Name, c.State)
	if c.Restarts > 0 {
		words += fmt.Sprintf(", restarted %d times", c.Restarts)
		if c.Restarts == 1 {
			words = strings.TrimSuffix(words, "1 times") + "once"
		}
	}
	t.line(2, "%s%s", words, after(": ", c.Message))
	if e := c.Last; e != nil {
		words := fmt.Sprintf("ended last with exit code %d", e.ExitCode)
		if e.Signal != 0 {
			words = fmt.Sprintf("ended last by signal %d", e.Signal)
		}
		words += after(", ", e.Reason)
		if !e.At.IsZero() {
			words += fmt.Sprintf(", %s ago", t.ago(e.At))
		}
		if e.Ran > 0 {
			words += fmt.Sprintf(", after %s", duration.HumanDuration(e.Ran))
		}
		t.line(4, "%s%s", words, after(": ", e.Message))
	}
	if !c.Until.IsZero() {
		if left := c.Until.Sub(t.now); left > 0 {
			t.line(4, "is started again in %s, at %s", duration.HumanDuration(left), clock(c.Until))
		} else {
			t.line(4, "is due to be started again")
		}
	}
}

func (t *text) filters(r *Report) {
	f := r.Filters
	if f == nil || f.Total == 0 {
		return
	}
	inexact := ""
	if len(f.Inexact) > 0 {
		inexact = "; inexact, without the " + strings.Join(f.Inexact, " and the ")
	}
	state := ""
	if r.Scores != nil && r.Scores.Node != "" {
		state = " now, the pod taken out"
	}
	t.section("Filters: %d of %d nodes pass%s%s", f.Passing, f.Total, state, inexact)
	if f.Whole != nil {
		t.line(2, "no node is looked at: %s (%s)", strings.Join(f.Whole.Reasons, ", "), f.Whole.Filter)
	}
	for _, g := range f.Groups {
		alone := ""
		switch {
		case g.Alone == len(g.Nodes) && len(g.Nodes) == 1:
			alone = "; nothing else"
		case g.Alone == len(g.Nodes):
			alone = "; nothing else on any"
		case g.Alone > 0:
			alone = fmt.Sprintf("; nothing else on %d of them", g.Alone)
		}
		t.line(2, "%s: %s (%s)%s", count(len(g.Nodes), "node"), g.Reason, g.Filter, alone)
		if g.Detail != "" {
			t.line(4, "%s", g.Detail)
		}
		t.line(4, "%s", oneLine(g.Nodes, width-4))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// oneLine lists as many names as fit, and how many more there are.
func oneLine(names []string, room int) string {
	line := ""
	for i, name := range names {
		more := ""
		if left := len(names) - i - 1; left > 0 {
			more = fmt.Sprintf(" and %d more", left)
		}
		if i > 0 && len(line)+1+len(name)+len(more) > room {
			return fmt.Sprintf("%s and %d more", line, len(names)-i)
		}
		line += after(" ", name)
		if i == 0 {
			line = name
		}
	}
	return line
}

// scores shows the best nodes and the pod's own side by side, one line for each scorer that tells them apart.
func (t *text) scores(s *Scores) {
	if s == nil || len(s.Nodes) == 0 && s.Rejected == nil {
		return
	}
	top := slices.Clone(s.Nodes[:min(len(s.Nodes), mostNodes)])
	where := ""
	switch {
	case s.Rejected != nil:
		where = fmt.Sprintf("; %s, where it is, would not pass", s.Node)
	case s.Rank > 0:
		where = fmt.Sprintf("; %s, where it is, is number %d", s.Node, s.Rank)
	}
	if s.Rank > len(top) {
		top[len(top)-1] = s.Nodes[s.Rank-1]
	}
	t.section("Scores now: %s%s", count(len(s.Nodes), "node"), where)
	for _, v := range s.Rejected {
		t.line(2, "%s: %s (%s)", s.Node, strings.Join(v.Reasons, ", "), v.Filter)
	}
	if len(top) == 0 {
		return
	}
	row := func(name string, cell func(i int) string) {
		fmt.Fprintf(t, "  %-32s", name)
		for i := range top {
			fmt.Fprintf(t, " %*s", mostNameWidth, cell(i))
		}
		t.WriteString("\n")
	}
	row("", func(i int) string { return short(top[i].Node, mostNameWidth) })
	row("total", func(i int) string { return fmt.Sprint(top[i].Total) })
	var same []string
	for _, scorer := range slices.Sorted(maps.Keys(top[0].Scores)) {
		value := top[0].Scores[scorer]
		if len(top) > 1 && !slices.ContainsFunc(s.Nodes, func(n decide.NodeReport) bool { return n.Scores[scorer] != value }) {
			same = append(same, fmt.Sprintf("%s %d", scorer, value))
			continue
		}
		row(scorer, func(i int) string { return fmt.Sprint(top[i].Scores[scorer]) })
	}
	if len(same) > 0 {
		t.line(2, "the same on all: %s", strings.Join(same, ", "))
	}
}

// short cuts a long name in its middle: both ends tell nodes apart.
func short(name string, most int) string {
	if len(name) <= most {
		return name
	}
	head := (most - 2) / 2
	return name[:head] + ".." + name[len(name)-(most-2-head):]
}

func (t *text) steps(list []Step) {
	begin, before := list[0].At, list[0].At
	t.section("Steps since %s", clock(begin))
	for _, s := range list {
		if s.At.IsZero() {
			t.line(2, "%7s  %7s  %s: unknown when, no event tells", "?", "", s.What)
			continue
		}
		// Objects have whole seconds only, so that fractions of events would compare unlike things.
		at := s.At.Truncate(time.Second)
		t.line(2, "%7s  %7s  %s", span(at.Sub(begin)), "+"+span(at.Sub(before)), s.What)
		if at.After(before) {
			before = at
		}
	}
}

func span(d time.Duration) string { return duration.HumanDuration(max(0, d)) }

func (t *text) messages(r *Report) {
	if len(r.Messages) == 0 {
		return
	}
	t.section("Last said")
	for _, m := range r.Messages {
		times, about := "", ""
		if m.Count > 1 {
			times = fmt.Sprintf(", %d times", m.Count)
		}
		if m.About != "Pod/"+r.Name {
			about = after(" of ", m.About)
		}
		t.line(2, "%s ago%s, %s%s: %s: %s", t.ago(m.At), times, m.From, about, m.Reason, m.Text)
	}
}
