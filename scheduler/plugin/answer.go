package plugin

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/coracle-dev/coracle/proto/scheduling"
)

const (
	maxScore       = 100
	maxReasonBytes = 1024
	maxRetryAfter  = 3600
)

// answers is a plug-in's answer to a batch, by the pods' UIDs, not yet checked.
type answers struct {
	about *scheduling.DescribeResponse
	cfg   Config
	pods  map[string]*scheduling.PodAnswer
}

func newAnswers(response *scheduling.EvaluateResponse, about *scheduling.DescribeResponse, cfg Config) (*answers, error) {
	a := &answers{about: about, cfg: cfg, pods: make(map[string]*scheduling.PodAnswer, len(response.Pods))}
	for _, pod := range response.Pods {
		if a.pods[pod.Uid] != nil {
			return nil, fmt.Errorf("%w: two answers for pod %q", ErrInvalid, pod.Uid)
		}
		a.pods[pod.Uid] = pod
	}
	return a, nil
}

// check holds the answer for one call against the contract.
func (a *answers) check(call *call) (Answer, error) {
	pod := a.pods[string(call.pod.UID)]
	switch {
	case pod == nil:
		return Answer{}, fmt.Errorf("%w: none for the pod", ErrInvalid)
	case pod.RetryAfterSeconds > maxRetryAfter:
		return Answer{}, fmt.Errorf("%w: retry after %d s is more than an hour", ErrInvalid, pod.RetryAfterSeconds)
	}
	answer := Answer{RetryAfter: time.Duration(pod.RetryAfterSeconds) * time.Second}
	if pod.Reject != "" {
		answer.PodRejected = pod.Reject
		if len(pod.Nodes) > 0 {
			return Answer{}, fmt.Errorf("%w: verdicts on nodes for a pod that is rejected as a whole", ErrInvalid)
		}
		return answer, a.checkReason(pod.Reject)
	}
	candidates := make(map[string]bool, len(call.nodes)) // true once judged
	for _, node := range call.nodes {
		candidates[node.Name] = false
	}
	for _, v := range pod.Nodes {
		judged, asked := candidates[v.Node]
		switch {
		case !asked:
			return Answer{}, fmt.Errorf("%w: verdict on node %.100q, which is no candidate", ErrInvalid, v.Node)
		case judged:
			return Answer{}, fmt.Errorf("%w: two verdicts on node %q", ErrInvalid, v.Node)
		}
		candidates[v.Node] = true
		if err := a.take(&answer, v, len(call.nodes)); err != nil {
			return Answer{}, err
		}
	}
	for _, node := range call.nodes {
		if !candidates[node.Name] {
			return Answer{}, fmt.Errorf("%w: no verdict on node %q", ErrInvalid, node.Name)
		}
	}
	return answer, nil
}

// take adds a verdict on one of so many nodes.
func (a *answers) take(answer *Answer, v *scheduling.NodeVerdict, nodes int) error {
	switch verdict := v.Verdict.(type) {
	case *scheduling.NodeVerdict_Reject:
		if err := a.checkReason(verdict.Reject); err != nil {
			return err
		}
		if answer.Rejected == nil {
			answer.Rejected = map[string]string{}
		}
		answer.Rejected[v.Node] = verdict.Reject
	case *scheduling.NodeVerdict_Score:
		switch {
		case !a.about.Score:
			return fmt.Errorf("%w: a score, though it describes itself as giving none", ErrInvalid)
		case math.IsNaN(verdict.Score) || verdict.Score < 0 || verdict.Score > maxScore:
			return fmt.Errorf("%w: score %v of node %q is not between 0 and %d", ErrInvalid, verdict.Score, v.Node, maxScore)
		case !a.cfg.Score:
			return nil
		}
		if answer.Scores == nil {
			answer.Scores = make(map[string]int64, nodes)
		}
		answer.Scores[v.Node] = int64(math.Round(verdict.Score))
	}
	return nil
}

// checkReason looks at a rejection, of a node or of a pod.
func (a *answers) checkReason(reason string) error {
	switch {
	case !a.about.Filter:
		return fmt.Errorf("%w: a rejection, though it describes itself as no filter", ErrInvalid)
	case !a.cfg.Filter:
		return fmt.Errorf("%w: a rejection, though it is enabled for scores only", ErrInvalid)
	case reason == "":
		return fmt.Errorf("%w: a rejection without reason", ErrInvalid)
	case len(reason) > maxReasonBytes:
		return fmt.Errorf("%w: a reason of %d bytes", ErrInvalid, len(reason))
	}
	return nil
}

// counts are numbers of pods since the start.
type counts struct {
	answered, late, invalid, refused, failed atomic.Uint64
}

// Counts are numbers of pods by how asking for them ended, since the start.
type Counts struct {
	Answered uint64
	Late     uint64 // no answer in time
	Invalid  uint64 // an answer that broke the contract
	Failed   uint64 // no connection, or an error of the plug-in's
	Refused  uint64 // not tried, shortly after failures in a row
}

func (c *counts) add(err error) {
	var refused refusedError
	switch {
	case err == nil:
		c.answered.Add(1)
	case errors.As(err, &refused):
		c.refused.Add(1)
	case errors.Is(err, ErrDeadline):
		c.late.Add(1)
	case errors.Is(err, ErrInvalid):
		c.invalid.Add(1)
	default:
		c.failed.Add(1)
	}
}

// Counts gives the numbers.
func (c *Client) Counts() Counts {
	return Counts{
		Answered: c.counts.answered.Load(), Late: c.counts.late.Load(), Invalid: c.counts.invalid.Load(),
		Failed: c.counts.failed.Load(), Refused: c.counts.refused.Load(),
	}
}
