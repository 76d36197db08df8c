package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// manyMissed is how many missed starts are worth a warning.
const manyMissed = 100

// errNever is of a schedule that can be read but names no time, as of the 31st of February.
var errNever = errors.New("time difference between two schedules is less than 1 second")

// parse reads the schedule in its time zone.
func parse(spec *batchv1.CronJobSpec) (schedule cron.Schedule, err error) {
	text := spec.Schedule
	if zone := ptr.Deref(spec.TimeZone, ""); zone != "" && !strings.Contains(text, "TZ") {
		text = fmt.Sprintf("TZ=%s %s", zone, text)
	}
	if strings.Contains(text, "TZ=") && !strings.Contains(text, " ") {
		return nil, fmt.Errorf("expected a schedule after %q", text) // the parser would panic
	}
	return cron.ParseStandard(text)
}

// starts are the times of a schedule up to now.
type starts struct {
	// due is the last of them, nil if there is none since the earliest that counts.
	due *time.Time
	// many tells that more than manyMissed have passed.
	many bool
	// next is the first one after now.
	next time.Time
}

// startsOf finds the times of the schedule that have come since earliest. It is pure.
func startsOf(schedule cron.Schedule, earliest, now time.Time) (starts, error) {
	if every, ok := schedule.(cron.ConstantDelaySchedule); ok {
		return regular(every, earliest, now), nil
	}
	next := schedule.Next(now)
	if next.IsZero() {
		return starts{}, errNever
	}
	s := starts{next: next}
	n := 0
	for t := schedule.Next(earliest); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
		due := t
		s.due = &due
		if n++; n > manyMissed {
			s.many = true
			s.due = ptr.To(lastBefore(schedule, next, t, now))
			break
		}
	}
	return s, nil
}

// lastBefore is the last time of the schedule up to now, from being one of them and next the first one after now. It looks back twice as far each time.
func lastBefore(schedule cron.Schedule, next, from, now time.Time) time.Time {
	for back := max(next.Sub(now), time.Second); now.Add(-back).After(from); back *= 2 {
		if t := schedule.Next(now.Add(-back)); !t.After(now) {
			from = t
			break
		}
	}
	for t := schedule.Next(from); !t.After(now); t = schedule.Next(t) {
		from = t
	}
	return from
}

// regular is startsOf for @every, whose times count from earliest.
func regular(every cron.ConstantDelaySchedule, earliest, now time.Time) starts {
	first := every.Next(earliest)
	if first.After(now) {
		return starts{next: first}
	}
	n := now.Sub(first) / every.Delay
	due := first.Add(n * every.Delay)
	return starts{due: &due, many: n+1 > manyMissed, next: every.Next(due)}
}
