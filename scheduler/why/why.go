// Package why tells what became of one pod: why it waits, how it came to its node, or how it ended. It runs the scheduler's own
// decisions on what was read of the cluster. Pure: the same facts give the same report.
package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/coracle-dev/coracle/scheduler/decide"
	"github.com/coracle-dev/coracle/scheduler/filter"
)

// Facts is what was read of the cluster. What could not be read is empty and named in Unread.
type Facts struct {
	Now             time.Time
	Namespace, Name string
	// Pod is nil where there is none of that name.
	Pod *corev1.Pod
	// Node is the pod's; nil where the pod has none or the node is gone.
	Node *corev1.Node
	// Events are those of the pod and of its claims; without a pod, all of the namespace.
	Events []corev1.Event

	// Of storage, all is read for a pod with claims, and nothing for others.
	Claims      []corev1.PersistentVolumeClaim
	Classes     []storagev1.StorageClass
	Volumes     []corev1.PersistentVolume
	Drivers     []storagev1.CSIDriver
	CSINodes    []storagev1.CSINode
	Capacities  []storagev1.CSIStorageCapacity
	Attachments []storagev1.VolumeAttachment

	Nodes []corev1.Node
	// Pods are those of all namespaces that have not ended.
	Pods       []corev1.Pod
	Namespaces []corev1.Namespace
	Services   []corev1.Service
	Budgets    []policyv1.PodDisruptionBudget

	// Settings are those of the profile of the pod's schedulerName; NoProfile says that the configuration given has none.
	Settings  decide.Settings
	NoProfile bool
	// PlugIns, where not nil, asks the profile's plug-ins out of process about nodes.
	PlugIns func([]*corev1.Node) []PlugIn
	Unread  []Unread
}

// Unread is a list that could not be read.
type Unread struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Elsewhere follows a kind that was read in the pod's namespace only.
const Elsewhere = " of other namespaces"

func (f *Facts) unread(what string) bool {
	return slices.ContainsFunc(f.Unread, func(u Unread) bool { return u.What == what })
}

// Report is what there is to say. Fields that do not apply are empty.
type Report struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// State is the phase, with what kubectl shows in its place where it does, or Gone.
	State string `json:"state"`
	// Summary continues State to a sentence, Details are what it rests on.
	Summary string   `json:"summary"`
	Details []string `json:"details,omitempty"`

	Containers []Container `json:"containers,omitempty"`
	Claims     []Claim     `json:"claims,omitempty"`
	Filters    *Filters    `json:"filters,omitempty"`
	Preemption string      `json:"preemption,omitempty"`
	Scores     *Scores     `json:"scores,omitempty"`
	Steps      []Step      `json:"steps,omitempty"`
	Messages   []Message   `json:"messages,omitempty"`
	Unread     []Unread    `json:"unread,omitempty"`
}

// Message is an event, or what the scheduler wrote into the pod.
type Message struct {
	From   string    `json:"from"`
	About  string    `json:"about,omitempty"`
	Reason string    `json:"reason"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
	Count  int32     `json:"count,omitempty"`
}

// Explain makes the report. Its error is that the settings name what does not exist.
func Explain(f *Facts) (*Report, error) {
	r := &Report{Namespace: f.Namespace, Name: f.Name, Unread: f.Unread}
	p := f.Pod
	if p == nil {
		explainGone(f, r)
		return r, nil
	}
	r.State = string(p.Status.Phase)
	r.Steps = steps(f)
	r.Containers = containers(f)
	r.Claims = claims(f)
	r.Messages = messages(f)
	switch {
	case p.DeletionTimestamp != nil:
		explainDeletion(f, r)
		return r, nil
	case ended(p):
		explainEnd(f, r)
		return r, nil
	case p.Spec.NodeName == "":
		return r, explainPending(f, r)
	}
	explainRunning(f, r)
	return r, explainPlacement(f, r)
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func (r *Report) detail(format string, args ...any) {
	r.Details = append(r.Details, fmt.Sprintf(format, args...))
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// explainPending says what keeps a pod from a node.
func explainPending(f *Facts, r *Report) error {
	p := f.Pod
	waits := f.ago(p.CreationTimestamp.Time)
	gates := make([]string, 0, len(p.Spec.SchedulingGates))
	for _, gate := range p.Spec.SchedulingGates {
		gates = append(gates, gate.Name)
	}
	if len(gates) > 0 {
		r.State = corev1.PodReasonSchedulingGated
		r.Summary = fmt.Sprintf("for %s: it is held back by scheduling gates", waits)
		r.detail("gates: %s; whoever set them removes them", strings.Join(gates, ", "))
	}
	silent := condition(p, corev1.PodScheduled) == nil && len(gates) == 0
	if f.NoProfile {
		r.detail("the scheduler's configuration has no profile %q", p.Spec.SchedulerName)
	} else if silent && p.Spec.SchedulerName != corev1.DefaultSchedulerName && p.Spec.SchedulerName != "" {
		r.detail("its schedulerName is %q, and no scheduler of that name has said anything of it", p.Spec.SchedulerName)
	}
	if nominated := p.Status.NominatedNodeName; nominated != "" {
		r.detail("the scheduler is freeing %s for it%s", nominated, f.leaving(nominated))
	}
	if err := explainPlacement(f, r); err != nil || r.Summary != "" {
		return err
	}
	switch {
	case r.Filters == nil:
		r.Summary = fmt.Sprintf("for %s: it has no node", waits)
	case r.Filters.Total == 0:
		r.Summary = fmt.Sprintf("for %s: the cluster has no node", waits)
	case r.Filters.Passing == 0:
		r.Summary = fmt.Sprintf("for %s: no node can run it", waits)
	case silent:
		r.Summary = fmt.Sprintf("for %s: %d of %d nodes can run it, and no scheduler has looked at it", waits, r.Filters.Passing, r.Filters.Total)
	default:
		r.Summary = fmt.Sprintf("for %s: %d of %d nodes can run it now", waits, r.Filters.Passing, r.Filters.Total)
	}
	return nil
}

// leaving names the pods that a node waits to lose.
func (f *Facts) leaving(node string) string {
	var names []string
	for i := range f.Pods {
		if p := &f.Pods[i]; p.Spec.NodeName == node && p.DeletionTimestamp != nil {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; still leaving it: " + few(names, 3)
}

// explainRunning says how far a pod with a node has come.
func explainRunning(f *Facts, r *Report) {
	p := f.Pod
	node := p.Spec.NodeName
	ready := condition(p, corev1.PodReady)
	switch {
	case f.Node == nil && !f.unread("nodes"):
		r.Summary = fmt.Sprintf("on %s, a node that is gone: the pod will be deleted", node)
		return
	case nodeTrouble(f.Node) != "":
		r.detail("node %s %s", node, nodeTrouble(f.Node))
	}
	if at, evicted := eviction(p, f.Node); evicted {
		r.detail("taints of %s drive it off %s", node, in(at.Sub(f.Now)))
	}
	if waiting := firstTrouble(r.Containers); waiting != "" {
		r.State = waiting
	}
	switch {
	case ready != nil && ready.Status == corev1.ConditionTrue:
		r.Summary = fmt.Sprintf("on %s, ready for %s", node, f.ago(ready.LastTransitionTime.Time))
	case p.Status.Phase == corev1.PodRunning:
		r.Summary = fmt.Sprintf("on %s, not ready", node)
		for _, gate := range p.Spec.ReadinessGates {
			if c := condition(p, gate.ConditionType); c == nil || c.Status != corev1.ConditionTrue {
				r.detail("readiness gate %s is not true", gate.ConditionType)
			}
		}
	default:
		r.Summary = fmt.Sprintf("on %s for %s, not all containers have started", node, f.ago(f.scheduledAt()))
	}
}

func (f *Facts) scheduledAt() time.Time {
	if c := condition(f.Pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return f.Pod.CreationTimestamp.Time
}

// nodeTrouble tells what is wrong with a node; empty where it is well or not known.
func nodeTrouble(node *corev1.Node) string {
	if node == nil {
		return ""
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("is not ready since %s: %s", clock(c.LastTransitionTime.Time), c.Message)
		}
	}
	return ""
}

// eviction is when the node's taints end the pod, by upstream's rule: the shortest of the tolerations in use counts.
func eviction(p *corev1.Pod, node *corev1.Node) (at time.Time, evicted bool) {
	if node == nil {
		return at, false
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		var added time.Time
		if taint.TimeAdded != nil {
			added = taint.TimeAdded.Time
		}
		if !filter.Tolerates(p.Spec.Tolerations, taint) {
			return added, true
		}
		for j := range p.Spec.Tolerations {
			t := &p.Spec.Tolerations[j]
			if t.TolerationSeconds == nil || !filter.Tolerates(p.Spec.Tolerations[j:j+1], taint) {
				continue
			}
			if end := added.Add(time.Duration(*t.TolerationSeconds) * time.Second); !evicted || end.Before(at) {
				at, evicted = end, true
			}
		}
	}
	return at, evicted
}

func in(left time.Duration) string {
	if left <= 0 {
		return "now"
	}
	return "in " + duration.HumanDuration(left)
}

// explainDeletion says what a pod that is being deleted waits for.
func explainDeletion(f *Facts, r *Report) {
	p := f.Pod
	r.State = "Terminating"
	grace := int64(0)
	if p.DeletionGracePeriodSeconds != nil {
		grace = *p.DeletionGracePeriodSeconds
	}
	// The deletion's time is when the grace ends.
	asked := p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	r.Summary = fmt.Sprintf("for %s: it was deleted and is not gone", f.ago(asked))
	left := p.DeletionTimestamp.Sub(f.Now).Round(time.Second)
	switch {
	case p.Spec.NodeName != "" && !ended(p) && left > 0:
		r.detail("its containers have another %s of %ds to stop", duration.HumanDuration(left), grace)
	case p.Spec.NodeName != "" && !ended(p) && f.Node == nil && !f.unread("nodes"):
		r.detail("its node %s is gone: nothing confirms that its containers stopped", p.Spec.NodeName)
	case p.Spec.NodeName != "" && !ended(p) && nodeTrouble(f.Node) != "":
		r.detail("node %s, which must confirm that its containers stopped, %s", p.Spec.NodeName, nodeTrouble(f.Node))
	case p.Spec.NodeName != "" && !ended(p):
		r.detail("node %s has not confirmed that its containers stopped; the time for that ended %s ago", p.Spec.NodeName, duration.HumanDuration(-left))
	}
	if len(p.Finalizers) > 0 {
		r.detail("waits for finalizers: %s; who set them removes them", strings.Join(p.Finalizers, ", "))
	}
	explainDisruption(p, r)
}

// explainEnd says how a pod ended.
func explainEnd(f *Facts, r *Report) {
	p := f.Pod
	if p.Status.Reason != "" {
		r.State = p.Status.Reason
	}
	var words []string
	if p.Spec.NodeName != "" {
		words = append(words, "on "+p.Spec.NodeName)
	}
	if at := lastFinish(p); !at.IsZero() {
		words = append(words, f.ago(at)+" ago")
	}
	r.Summary = strings.Join(words, " ")
	if p.Status.Message != "" {
		r.detail("%s", p.Status.Message)
	}
	explainDisruption(p, r)
}

// explainDisruption says who made the pod go, where that is noted.
func explainDisruption(p *corev1.Pod, r *Report) {
	if c := condition(p, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		r.detail("%s: %s", c.Reason, c.Message)
	}
}

// explainGone says what events remember of a pod that is not there.
func explainGone(f *Facts, r *Report) {
	r.State = "Gone"
	for i := range f.Events {
		e := &f.Events[i]
		about := e.InvolvedObject
		of := about.Kind == "Pod" && about.Name == f.Name
		// Whoever was to make the pod, or pods of the workload of that name, and could not.
		maker := e.Type == corev1.EventTypeWarning && (about.Name == f.Name || strings.HasPrefix(f.Name, about.Name+"-") ||
			strings.HasPrefix(about.Name, f.Name+"-")) && about.Kind != "Pod"
		if of || maker {
			r.Messages = append(r.Messages, messageOf(e))
		}
	}
	sortMessages(r.Messages)
	r.Messages = r.Messages[max(0, len(r.Messages)-mostMessages):]
	switch {
	case len(r.Messages) == 0:
		r.Summary = "or never there: no pod has that name, and no event tells of one"
	case slices.ContainsFunc(r.Messages, func(m Message) bool { return m.About == "Pod/"+f.Name }):
		r.Summary = "and remembered by events only"
	default:
		r.Summary = "or never there: no pod has that name; who may have failed to create it is below"
	}
	for i := range f.Pods {
		if p := &f.Pods[i]; p.Namespace == f.Namespace && strings.HasPrefix(p.Name, f.Name) {
			r.detail("there is a pod %s", p.Name)
		}
	}
}

// mostMessages bounds how many events are told.
const mostMessages = 5

// messages are the scheduler's last word, and the last warnings of others.
func messages(f *Facts) []Message {
	var list []Message
	for i := range f.Events {
		e := &f.Events[i]
		if e.InvolvedObject.Kind == "Pod" && e.Type == corev1.EventTypeWarning && e.Reason != "FailedScheduling" {
			list = append(list, messageOf(e))
		}
	}
	sortMessages(list)
	list = list[max(0, len(list)-mostMessages):]
	if f.Pod.Spec.NodeName == "" {
		list = append(list, schedulerSaid(f)...)
	}
	return list
}

// schedulerSaid is what the scheduler wrote last: the condition has the text, the event has it too and when.
func schedulerSaid(f *Facts) []Message {
	var last *Message
	for i := range f.Events {
		if e := &f.Events[i]; e.InvolvedObject.Kind == "Pod" && e.Reason == "FailedScheduling" {
			if m := messageOf(e); last == nil || m.At.After(last.At) {
				last = &m
			}
		}
	}
	c := condition(f.Pod, corev1.PodScheduled)
	if c == nil || c.Status == corev1.ConditionTrue || c.Message == "" {
		if last == nil {
			return nil
		}
		return []Message{*last}
	}
	said := Message{From: f.Pod.Spec.SchedulerName, Reason: c.Reason, Text: c.Message, At: c.LastTransitionTime.Time}
	if last != nil && last.Text == c.Message {
		said.At, said.Count = last.At, last.Count
	}
	return []Message{said}
}

func messageOf(e *corev1.Event) Message {
	m := Message{From: e.Source.Component, About: e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name, Reason: e.Reason, Text: e.Message, At: lastOf(e), Count: e.Count}
	if m.From == "" {
		m.From = e.ReportingController
	}
	if e.Series != nil {
		m.Count = e.Series.Count
	}
	return m
}

// lastOf and firstOf are when an event happened last and first, whichever API wrote it.
func lastOf(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	}
	return firstOf(e)
}

func firstOf(e *corev1.Event) time.Time {
	switch {
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	case !e.FirstTimestamp.IsZero():
		return e.FirstTimestamp.Time
	}
	return e.CreationTimestamp.Time
}

func sortMessages(list []Message) {
	slices.SortStableFunc(list, func(a, b Message) int { return a.At.Compare(b.At) })
}

func (f *Facts) ago(at time.Time) string {
	return duration.HumanDuration(max(0, f.Now.Sub(at)))
}

func clock(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

// few lists at most n of the names.
func few(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
